"""A client for one thread and one server that never fails: commands go straight over one connection.

The driver chooses a server, a session and a connection for every command, and takes care of retries and time limits. All that
costs more than the commands of a simulation themselves. What remains is the driver's: commands, cursors, replies and errors.
"""

from contextlib import ExitStack
from typing import Any

import pymongo
from pymongo import ReadPreference
from pymongo.server_selectors import writable_server_selector


class DirectClient(pymongo.MongoClient[dict[str, Any]]):
    """A MongoClient without retries, sessions and time limits."""

    def __init__(self, uri: str, **options: Any) -> None:
        super().__init__(uri, retryWrites=False, retryReads=False, **options)
        self._held = ExitStack()
        self._server: Any = self._select_server(writable_server_selector, None, "connect")
        self._connection: Any = self._held.enter_context(self._checkout(self._server, None))
        # It waits for each reply as long as it takes.
        self._connection.conn.get_conn.settimeout(None)
        self._connection.set_conn_timeout = self._connection.apply_timeout = lambda *_, **__: None

    def close(self) -> None:
        """Close the connection."""
        self._held.close()
        super().close()

    def _ensure_session(self, _session: object = None) -> None:
        return None

    def _retryable_write(self, _retryable: bool, func: Any, *_: Any, **__: Any) -> Any:
        return func(None, self._connection, False)

    def _retryable_read(self, func: Any, *_: Any, **__: Any) -> Any:
        return func(None, self._server, self._connection, ReadPreference.PRIMARY)
