"""The content of a typical session, as large as it is wanted."""

from __future__ import annotations

import json
from typing import Any

# Bytes of compact JSON.
SIZES = {"1 KB": 1024, "32 KB": 32 * 1024}


def content_of(size: int) -> dict[str, Any]:
    """Return a user's session with so much in his cart, to some bytes.

    Texts, numbers, lists and dicts, some of it beyond ASCII.
    """
    content: dict[str, Any] = {
        "auth.userid": 4711,
        "_csrft_": "0123456789abcdef0123456789abcdef01234567",
        "_f_": ["Your order was saved."],
        "language": "de",
        "last_search": {"text": "Schlüssel", "page": 3, "sort": "price"},
        "cart": [],
        "seen": 0,
    }
    number = 0
    while size_of(content) < size - 100:
        content["cart"].append(
            {
                "article": f"A-{100_000 + number * 37}",
                "title": "Ein Größeres Fahrradschloß",
                "amount": number % 4 + 1,
                "price": round(9.9 + number * 1.37, 2),
                "gift": number % 3 == 0,
                "note": None,
            }
        )
        number += 1
    content["filler"] = ""
    content["filler"] = "x" * max(size - size_of(content), 0)
    return content


def size_of(content: dict[str, Any]) -> int:
    """Return the bytes of the content as compact JSON in ASCII."""
    return len(json.dumps(content, separators=(",", ":")))
