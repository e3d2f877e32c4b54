"""An application for a server that imports it before it forks.

``PREFORK`` in the environment is JSON: the url, mode and table of a `World`.
The application and its sessions use the database at import, as one does that
checks something there: every worker inherits connections that are open.
"""

from __future__ import annotations

import json
import os
from typing import Any

from pyramid.request import Request

from tests.apps import Clock, World

BACKEND = {
    "postgresql": "SELECT pg_backend_pid()",
    "mysql": "SELECT connection_id()",
}

options = json.loads(os.environ["PREFORK"])
world = World(
    options["url"], options["mode"], clock=Clock(), table=options["table"]
)


def backend() -> Any:
    """Return the number of the backend that sessions are read with."""
    with world.store.engine.connect() as connection:
        query = BACKEND[connection.dialect.name]
        return connection.exec_driver_sql(query).scalar()


@world.on("change")
def change(request: Request) -> Any:
    """Tell what the session held, and who was asked; then change it."""
    found = dict(request.session)
    item = request.params.get("item")
    if item is not None:
        request.session.update(request.params)
        request.dbsession.add(world.Item(name=item))
    return {"found": found, "worker": os.getpid(), "backend": backend()}


# The application's own engine is its own business; ours looks after itself.
os.register_at_fork(after_in_child=lambda: world.engine.dispose(close=False))
browser = world.browser()
browser.get("/change?item=before")
browser.get("/change")
app = world.app
