"""The endpoints in memory, so that an event finds its own without a command."""

import math
import threading
from collections import defaultdict
from collections.abc import Iterable

from app.storage.mongodb import EPOCH
from app.system import SYSTEM, System
from app.webhooks.endpoint import Endpoint
from app.webhooks.endpoint_repository import EndpointRepository

# Orders count an endpoint as known to all processes a little later than this.
MAX_AGE_SECONDS = 3.0


class EndpointCache:
    """All endpoints as they were at the last `refresh`, which reads what was changed since the one before.

    Who receives an event is never said by what is older than MAX_AGE_SECONDS: it might lack an endpoint, whose event would be lost.
    """

    def __init__(self, endpoints: EndpointRepository, system: System = SYSTEM) -> None:
        self._endpoints = endpoints
        self._system = system
        self._by_id: dict[str, Endpoint] = {}
        self._by_user: dict[str, dict[str, Endpoint]] = defaultdict(dict)
        self._read_until = EPOCH
        self._fresh_until = -math.inf
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what was changed by any process. Raises Unavailable."""
        started, now = self._system.monotonic(), self._endpoints.now()
        changed = self._endpoints.changed_since(self._read_until)
        with self._lock:
            for endpoint_id, endpoint in changed:
                self._replace_unless_older(endpoint_id, endpoint)
            self._read_until = max(self._read_until, now)
            self._fresh_until = max(self._fresh_until, started + MAX_AGE_SECONDS)

    def put(self, endpoint: Endpoint) -> None:
        """Remember an endpoint that this process has changed."""
        with self._lock:
            self._replace_unless_older(endpoint.endpoint_id, endpoint)

    def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint that this process has deleted."""
        with self._lock:
            self._replace(endpoint_id, None)

    def get(self, endpoint_id: str) -> Endpoint | None:
        """An endpoint, or None where it does not exist."""
        return self._by_id.get(endpoint_id)

    def receivers(self, event_type: str, user_id: str) -> list[Endpoint]:
        """The endpoints that an event of an order of this user goes to. Raises Unavailable if they are not known now."""
        self._freshen()
        with self._lock:
            candidates: Iterable[Endpoint] = [*self._by_user[""].values(), *self._by_user.get(user_id, {}).values()]
        return [endpoint for endpoint in dict.fromkeys(candidates) if endpoint.receives(event_type, user_id)]

    def users(self) -> tuple[str, ...]:
        """The users that have endpoints; the empty one stands for all. Raises Unavailable if they are not known now."""
        self._freshen()
        with self._lock:
            return tuple(user for user, endpoints in self._by_user.items() if endpoints)

    def failing(self) -> list[str]:
        """The endpoints whose last attempts have failed."""
        with self._lock:
            return [endpoint_id for endpoint_id, endpoint in self._by_id.items() if endpoint.failing_since]

    def _freshen(self) -> None:
        if self._system.monotonic() > self._fresh_until:
            self.refresh()

    def _replace_unless_older(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        """Another thread of this process may have changed it since it was read."""
        known = self._by_id.get(endpoint_id)
        if not (endpoint and known and known.version > endpoint.version):
            self._replace(endpoint_id, endpoint)

    def _replace(self, endpoint_id: str, endpoint: Endpoint | None) -> None:
        before = self._by_id.pop(endpoint_id, None)
        if before:
            self._by_user[before.user_id].pop(endpoint_id, None)
        if endpoint:
            self._by_id[endpoint_id] = endpoint
            self._by_user[endpoint.user_id][endpoint_id] = endpoint
