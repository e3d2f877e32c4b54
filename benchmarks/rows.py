"""What stands in the table: the same rows on each database.

All values of row N are made of N and of the digits of N's hash. So they lie
at random, are the same in each run, and any process knows the key of a live
session without a list of them. `databases` says the same in SQL.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from typing import Any

from pyramid_limitedsession.settings import read_settings

# One row in ten is live: those whose hash ends with less than this.
LIVE_BELOW = "199a"
# Live ones were used in the last minutes, so that they live for longer than
# all runs take; dead ones hours to days ago, but no 30 days.
LIVE_SPAN = 20 * 60
DEAD_SINCE = 3 * 60 * 60
DEAD_SPAN = 20 * 24 * 60 * 60
# What the settings of an application say that sets nothing.
LIMITS = read_settings({}).policy.profiles.default.limits
USERS = 50_000
DATA = (
    '{{"_csrft_":"{csrf}","auth.userid":"user{user}","cart":[{number},1],'
    '"lang":"en","last":"/shop/items/{number}","theme":"dark"}}'
)


def key_of(number: int) -> str:
    """Return the key of a row."""
    return "2::" + hashlib.sha256(str(number).encode()).hexdigest()


def is_live(key: str) -> bool:
    """Say whether the row of a key is a live session's."""
    return key[-4:] < LIVE_BELOW


def random_live_key(rows: int) -> str:
    """Return the key of a live session of a table of so many rows."""
    while True:
        key = key_of(1 + secrets.randbelow(rows))
        if is_live(key):
            return key


def row(number: int, now: datetime.datetime) -> tuple[Any, ...]:
    """Return a row, in the order of the table's columns."""
    key = key_of(number)
    digits = key[3:]
    age, lived = int(digits[8:14], 16), int(digits[14:18], 16) % 3600
    if is_live(key):
        age %= LIVE_SPAN
    else:
        age = DEAD_SINCE + age % DEAD_SPAN
    expiry = LIMITS.coarse_expiry(0, lived) or 0
    seen = now - datetime.timedelta(seconds=age)
    created = seen - datetime.timedelta(seconds=lived)
    user = number % USERS
    return (
        number,
        key,
        DATA.format(csrf=digits[:40], user=user, number=number),
        1,
        created,
        seen,
        created + datetime.timedelta(seconds=expiry),
        f"user{user}" if number % 2 == 0 else None,
        None,
        None,
    )


def utc_now() -> datetime.datetime:
    """Return this second as the columns have it: UTC, without a zone."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.replace(microsecond=0, tzinfo=None)
