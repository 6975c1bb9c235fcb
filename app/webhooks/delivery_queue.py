"""The deliveries that this process has claimed, and which of them may be attempted now: so that no endpoint delays another."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from app.system import SYSTEM, System
from app.webhooks.delivery import AttemptResult, Delivery

T = TypeVar("T")

# An endpoint whose last attempts have failed so often is left alone for a while, and then tried by one attempt.
FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 30.0
MAX_PAUSE_SECONDS = 600.0
MAX_REQUESTED_PAUSE_SECONDS = 3600.0
# An endpoint that takes longer to answer is slow.
SLOW_MS = 2000
# How long it is remembered how an endpoint does to which nothing is sent.
REMEMBERED_SECONDS = 60.0
# Queued deliveries for each attempt that an endpoint may have in flight, more where it answers fast, and of all endpoints together.
QUEUED_PER_ATTEMPT = 8
QUEUED_PER_FAST_ATTEMPT = 32
FAST_MS = 100
MAX_QUEUED = 4096
# An endpoint that answered the last attempt within this time is prompt. Deliveries to it are attempted before they are stored, so many
# at a time for each attempt that it may have in flight.
PROMPT_MS = 50
PROMPT_PER_ATTEMPT = 16


class _QueuedDelivery(NamedTuple):
    """A delivery, and until when an attempt may begin."""

    delivery: Delivery
    until: float


@dataclass
class _Lane:
    """The deliveries of one endpoint, and how its attempts have gone lately.

    `limit` is how many attempts may be in flight: one at first, one more after each that succeeds, and one again after a failure.
    `refused`: deliveries are due for which there was no room.
    """

    queued: deque[_QueuedDelivery] = field(default_factory=deque)
    in_flight: int = 0
    limit: int = 1
    failures: int = 0
    prompt: bool = False
    fast: bool = False
    slow: bool = False
    closed_until: float = 0.0
    used_at: float = 0.0
    refused: bool = False

    @property
    def troubled(self) -> bool:
        """Whether its attempts hold a thread for long, or may."""
        return self.slow or bool(self.failures)

    @property
    def room(self) -> int:
        """How many deliveries more it may queue."""
        per_attempt = QUEUED_PER_FAST_ATTEMPT if self.fast else QUEUED_PER_ATTEMPT
        return max(0, per_attempt * self.limit - len(self.queued))

    @property
    def prompt_room(self) -> int:
        """How many deliveries more it may queue that are not stored yet."""
        return max(0, PROMPT_PER_ATTEMPT * self.limit - len(self.queued)) if self.prompt else 0


class DeliveryQueue:
    """Gives out deliveries by turns of their endpoints.

    Each endpoint has at most `per_endpoint` attempts in flight, and one until it has proved that it takes them. Endpoints that fail
    or are slow have at most half of the `threads` together: however many hang, the others find a free thread. What has waited for
    `max_wait` seconds is not attempted: its claim is about to end. `on_room` is called when an endpoint that was refused a
    delivery can take some again. Times are those of `system`.
    """

    def __init__(
        self,
        threads: int,
        per_endpoint: int,
        max_wait: float,
        on_room: Callable[[], object] = lambda: None,
        system: System = SYSTEM,
    ) -> None:
        self._threads = threads
        self._per_endpoint = per_endpoint
        self._max_wait = max_wait
        self._on_room = on_room
        self._system = system
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        # The endpoints that have deliveries queued, in the order of their turns.
        self._turns: OrderedDict[str, None] = OrderedDict()
        self._in_flight: dict[str, str] = {}
        self._queued: set[str] = set()
        self._expired: list[Delivery] = []

    @property
    def delivery_ids(self) -> set[str]:
        """The deliveries that are queued or in flight."""
        with self._lock:
            return {*self._queued, *self._in_flight}

    @property
    def in_flight(self) -> int:
        """How many attempts are being made."""
        return len(self._in_flight)

    @property
    def breakers_open(self) -> int:
        """How many endpoints are left alone for a while because their last attempts failed."""
        with self._lock:
            return sum(lane.closed_until > self._system.monotonic() for lane in self._lanes.values())

    def within_room(self, items: Iterable[T], endpoint_id_of: Callable[[T], str]) -> list[T]:
        """Those of some deliveries for which there is room, the first ones first."""
        with self._lock:
            total = MAX_QUEUED - len(self._queued)
            left: dict[str, int] = {}
            taken: list[T] = []
            for item in items:
                endpoint_id = endpoint_id_of(item)
                room = left.setdefault(endpoint_id, self._room(endpoint_id))
                if room > 0 and len(taken) < total:
                    left[endpoint_id] -= 1
                    taken.append(item)
                elif endpoint_id in self._lanes:
                    self._lanes[endpoint_id].refused = True
            return taken

    def prompt(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those of some deliveries that are probably answered at once if they are put now."""
        with self._lock:
            taken: list[Delivery] = []
            left: dict[str, int] = {}
            for delivery in deliveries:
                lane = self._lanes.get(delivery.endpoint_id)
                if lane and left.setdefault(delivery.endpoint_id, lane.prompt_room) > 0:
                    left[delivery.endpoint_id] -= 1
                    taken.append(delivery)
            return taken

    def expect_no_prompt_answer(self, endpoint_ids: Iterable[str]) -> None:
        """These endpoints have not answered at once: none is prompt until it does again."""
        with self._lock:
            for endpoint_id in endpoint_ids:
                if endpoint_id in self._lanes:
                    self._lanes[endpoint_id].prompt = False

    def blocked(self) -> list[str]:
        """The endpoints for which no delivery may be queued at present."""
        with self._lock:
            blocked = [endpoint_id for endpoint_id in self._lanes if not self._room(endpoint_id)]
            for endpoint_id in blocked:
                self._lanes[endpoint_id].refused = True
            return blocked

    def put(self, deliveries: Iterable[Delivery]) -> None:
        """Queue deliveries that were claimed just now."""
        with self._lock:
            now = self._system.monotonic()
            for delivery in deliveries:
                lane = self._lanes.setdefault(delivery.endpoint_id, _Lane(used_at=now))
                lane.queued.append(_QueuedDelivery(delivery, now + self._max_wait))
                self._turns[delivery.endpoint_id] = None
                self._queued.add(delivery.delivery_id)

    def take(self) -> Delivery | None:
        """The next delivery to attempt; None where none may be attempted now."""
        with self._lock:
            if len(self._in_flight) >= self._threads:
                return None
            now = self._system.monotonic()
            troubled = sum(self._lanes[endpoint_id].troubled for endpoint_id in self._in_flight.values())
            for endpoint_id in [*self._turns]:
                lane = self._lanes[endpoint_id]
                self._drop_expired(lane, now)
                if not lane.queued:
                    del self._turns[endpoint_id]
                elif self._may_attempt(lane, now, troubled):
                    self._turns.move_to_end(endpoint_id)
                    return self._begin(lane)
        return None

    def finish(self, delivery: Delivery, result: AttemptResult | None) -> list[Delivery]:
        """Count an attempt that has ended; returns the deliveries that leave the queue, since their endpoint is left alone.

        `result` is None where no attempt was made.
        """
        with self._lock:
            self._in_flight.pop(delivery.delivery_id, None)
            lane = self._lanes[delivery.endpoint_id]
            lane.in_flight -= 1
            lane.used_at = now = self._system.monotonic()
            if result:
                self._judge(lane, result)
            if lane.closed_until > now:
                return self._empty(lane)
            # Once half of its places are free: each wake is a sweep, and a sweep is a command.
            if lane.refused and lane.room > len(lane.queued):
                lane.refused = False
                self._on_room()
            return []

    def clear(self) -> list[Delivery]:
        """Remove and return what is queued."""
        with self._lock:
            return [delivery for lane in self._lanes.values() for delivery in self._empty(lane)]

    def expired(self) -> list[Delivery]:
        """Remove and return what has waited for too long."""
        with self._lock:
            self._forget_idle()
            expired, self._expired = self._expired, []
            return expired

    def forget(self, endpoint_id: str) -> list[Delivery]:
        """Forget how an endpoint has failed, since it was changed; removes and returns what is queued for it."""
        with self._lock:
            lane = self._lanes.get(endpoint_id)
            if lane is None:
                return []
            lane.failures, lane.slow, lane.closed_until = 0, False, 0.0
            return self._empty(lane)

    def _room(self, endpoint_id: str) -> int:
        lane = self._lanes.get(endpoint_id) or _Lane()
        return 0 if lane.closed_until > self._system.monotonic() else lane.room

    def _may_attempt(self, lane: _Lane, now: float, troubled: int) -> bool:
        if lane.closed_until > now or lane.in_flight >= lane.limit:
            return False
        return not lane.troubled or troubled < max(1, self._threads // 2)

    def _begin(self, lane: _Lane) -> Delivery:
        delivery = lane.queued.popleft().delivery
        self._queued.discard(delivery.delivery_id)
        lane.in_flight += 1
        self._in_flight[delivery.delivery_id] = delivery.endpoint_id
        return delivery

    def _judge(self, lane: _Lane, result: AttemptResult) -> None:
        lane.slow, lane.fast = result.took_ms > SLOW_MS, result.took_ms <= FAST_MS
        lane.prompt = result.succeeded and result.took_ms <= PROMPT_MS
        if not result.overloaded:
            lane.failures, lane.closed_until = 0, 0.0
            lane.limit = min(lane.limit + 1, self._per_endpoint)
            return
        lane.failures, lane.limit = lane.failures + 1, 1
        pause = min(result.retry_after, MAX_REQUESTED_PAUSE_SECONDS)
        if lane.failures >= FAILURES_TO_OPEN:
            doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(lane.failures - FAILURES_TO_OPEN, 16)
            pause = max(pause, min(doubled, MAX_PAUSE_SECONDS))
        lane.closed_until = self._system.monotonic() + pause if pause else 0.0

    def _drop_expired(self, lane: _Lane, now: float) -> None:
        while lane.queued and lane.queued[0].until <= now:
            expired = lane.queued.popleft().delivery
            self._queued.discard(expired.delivery_id)
            self._expired.append(expired)

    def _empty(self, lane: _Lane) -> list[Delivery]:
        dropped = [one.delivery for one in lane.queued]
        lane.queued.clear()
        self._queued.difference_update(one.delivery_id for one in dropped)
        return dropped

    def _forget_idle(self) -> None:
        """Forget the endpoints to which nothing is sent; those that have failed, long after they were left alone."""
        now = self._system.monotonic()
        for endpoint_id, lane in [*self._lanes.items()]:
            self._drop_expired(lane, now)
            kept_until = max(lane.used_at, lane.closed_until) + REMEMBERED_SECONDS * (60 if lane.troubled else 1)
            if not lane.queued and not lane.in_flight and kept_until <= now:
                del self._lanes[endpoint_id]
                self._turns.pop(endpoint_id, None)
