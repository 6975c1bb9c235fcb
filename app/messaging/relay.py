"""The relay: hands the events of one outbox to the bus."""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from app.contracts.base import Event, Unavailable
from app.messaging.bus import EventPublisher
from app.messaging.outbox import Outbox, Pending, event_of
from app.messaging.receiver_health import ReceiverHealth
from app.observability import metrics
from app.observability.logging import log
from app.observability.stages import Stage, record_stages, stage_record
from app.observability.supervision import BackgroundThread

CHORE_SECONDS = 60.0


class Relay:
    """Hands the events of one outbox to the bus, from a thread of its own; `chore` is done there once a minute.

    An event that is refused again and again ends as a dead letter, unless all of its type are: then something is wrong
    with the receiver, failures are not counted, and everything stays due.

    What was hinted is acknowledged `patience` seconds later, or when `CROWD` documents wait for it: by then another
    write may have done it. Under load the relay pauses between batches, so that they grow and cost less.
    """

    BATCH = 128
    CROWD = 512
    PAUSE_EACH = 0.002
    LONGEST_PAUSE = 0.03

    def __init__(
        self,
        module: str,
        step: Stage,
        outbox: Outbox,
        bus: EventPublisher,
        *,
        interval: float,
        tries: int,
        patience: float = 0.05,
        chore: Callable[[], object] | None = None,
    ) -> None:
        self._module = module
        self._step = step
        self._outbox = outbox
        self._bus = bus
        self._interval = interval
        self._tries = tries
        self._patience = patience
        self._acknowledge_at = float("inf")
        self._receivers = ReceiverHealth(module)
        self._chore = chore
        self._next_chore = time.monotonic()
        self._stopping = threading.Event()
        self.thread = BackgroundThread(f"{module}-relay", self._run)

    def start(self) -> None:
        """Start handing on; the first sweep is at once."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Hand on what was hinted so far, then end."""
        self._stopping.set()
        self._outbox.wake()
        self.thread.join(timeout)

    def sweep(self) -> int:
        """Deliver what is due, one batch; tells how many documents that were."""
        swept = 0
        while swept < self.BATCH and (batch := self._outbox.claim(self.BATCH - swept)):
            self.thread.beat()
            swept += len(batch)
            if not batch[0].unfinished:
                self.deliver(batch)
                break
            self._deliver_unfinished(batch[0])
        return swept

    def _deliver_unfinished(self, pending: Pending) -> None:
        """Deliver what earlier attempts came to no end with, or set it aside once that were too many."""
        # The first attempt was with others, any of which may have ended it.
        if pending.entries and pending.unfinished > self._tries:
            reason = f"{pending.unfinished} attempts to deliver it came to no end: the process died or hung each time"
            self._set_aside(pending, reason, pending.unfinished)
            return
        self._outbox.count_attempt(pending.key)
        self.deliver([pending])

    def deliver(self, batch: Sequence[Pending]) -> None:
        """Hand a batch to the bus, each document's events in order, and record what came of it."""
        self._hand_on_all(batch)
        self._outbox.acknowledge(batch)
        self._set_back_all(batch)

    def _deliver_hinted(self, batch: Sequence[Pending]) -> None:
        self._hand_on_all(batch)
        if batch:
            metrics.batch_sizes.labels(f"events of {self._module}").observe(len(batch))
        troubled = [pending for pending in batch if pending.trouble]
        self._outbox.acknowledge(troubled)
        self._outbox.acknowledge_later(pending for pending in batch if not pending.trouble)
        if batch and self._acknowledge_at == float("inf"):
            self._acknowledge_at = time.monotonic() + self._patience
        self._set_back_all(troubled)

    def _acknowledge(self) -> None:
        self._acknowledge_at = float("inf")
        self._outbox.acknowledge_all()

    def _hand_on_all(self, batch: Sequence[Pending]) -> None:
        while heads := [pending for pending in batch if pending.head()]:
            for group in _by_type(heads).values():
                self._hand_on(group)

    def _set_back_all(self, batch: Sequence[Pending]) -> None:
        # Two hints for one document are one failure.
        troubled = {pending.key: pending for pending in batch if pending.trouble}
        self._receivers.end_batch(
            (pending.type, key) for key, pending in troubled.items() if not isinstance(pending.trouble, Unavailable)
        )
        for pending in troubled.values():
            self._set_back(pending)

    def _hand_on(self, group: list[Pending]) -> None:
        events = [self._decode(pending) for pending in group]
        good = [(pending, event) for pending, event in zip(group, events, strict=True) if event]
        if not good:
            return
        good = self._probed(good)
        if not good:
            return
        trouble = self._publish([event for _, event in good], group[0].swept)
        if trouble and len(good) > 1 and not isinstance(trouble, Unavailable):
            # One of them spoils the batch: each gets its own chance, so that it holds back no other order.
            for pending, event in good:
                self._book(pending, event, self._publish([event], pending.swept))
            return
        for pending, event in good:
            self._book(pending, event, trouble)

    def _probed(self, batch: list[tuple[Pending, Event]]) -> list[tuple[Pending, Event]]:
        """What of a batch is worth handing on: while deliveries of its type fail, one event tries for all."""
        if len(batch) < 2 or not self._receivers.failing(type(batch[0][1]).__name__):
            return batch
        probe, event = batch.pop(random.randrange(len(batch)))  # noqa: S311 - any will do  # nosec B311
        self._book(probe, event, self._publish([event], probe.swept))
        if not probe.trouble:
            return batch
        for pending, other in batch:
            self._book(pending, other, probe.trouble)
        return []

    def _decode(self, pending: Pending) -> Event | None:
        try:
            return event_of(pending.entries[0])
        except ValueError as exc:
            pending.trouble = exc
            return None

    def _publish(self, events: list[Event], swept: bool) -> Exception | None:
        # Told before it happens: on record, cause comes before effect.
        self._tell(events, swept)
        delivery = self._bus.publish(events)
        return next((exc for exc in delivery.values() if exc), None)

    def _book(self, pending: Pending, event: Event, trouble: Exception | None) -> None:
        if trouble:
            pending.trouble = trouble
        else:
            self._receivers.succeeded(type(event).__name__)
            pending.delivered.append(event.event_id)
            pending.entries = pending.entries[1:]

    def _tell(self, events: list[Event], swept: bool) -> None:
        now = time.time() * 1000
        more = {"swept": True} if swept else {}
        record_stages(
            self._step,
            [
                stage_record(
                    module=self._module,
                    order_id=event.order_id,
                    request_id=event.request_id,
                    took_ms=max(0.0, now - event.at),
                    event_type=type(event).__name__,
                    traceparent=event.traceparent,
                    **more,
                )
                for event in events
            ],
        )

    def _set_back(self, pending: Pending) -> None:
        trouble = pending.trouble
        if isinstance(trouble, Unavailable):
            # Nobody's fault that will pass: repeated without end, and not counted.
            self._outbox.postpone(pending.key, _jittered(1.0))
            return
        if self._receivers.failing(pending.type):
            self._outbox.postpone(pending.key, _jittered(self._receivers.pause(pending.type)))
            return
        event_id = pending.entries[0].get("event_id", "")
        failures = self._outbox.count_failure(pending.key, event_id)
        log.warning(
            "event not delivered", module=self._module, event_id=event_id, failures=failures, reason=repr(trouble)
        )
        if failures >= self._tries:
            self._set_aside(pending, repr(trouble)[:500], failures)
        else:
            self._outbox.postpone(pending.key, _jittered(min(2.0 ** min(failures, 16) / 4, 60.0)))

    def _set_aside(self, pending: Pending, reason: str, failures: int) -> None:
        metrics.dead_letters.labels(self._module).inc()
        event_id = pending.entries[0].get("event_id", "")
        log.error("dead letter", module=self._module, event_id=event_id, failures=failures, reason=reason)
        self._outbox.bury(pending.key, event_id, reason, failures)

    def _run(self) -> None:
        next_sweep = time.monotonic()
        while not self._stopping.is_set():
            self.thread.beat()
            batch = self._hinted(min(next_sweep, self._acknowledge_at) - time.monotonic())
            self._safely(partial(self._deliver_hinted, batch))
            if time.monotonic() >= self._acknowledge_at or self._outbox.unacknowledged >= self.CROWD:
                self._safely(self._acknowledge)
            if time.monotonic() >= next_sweep:
                swept = self._safely(self.sweep)
                self._safely(self._do_chore)
                next_sweep = time.monotonic() + (0.0 if swept == self.BATCH else _jittered(self._interval))
            if len(batch) > 1:
                self._stopping.wait(min(len(batch) * self.PAUSE_EACH, self.LONGEST_PAUSE))
        while batch := self._hinted(0.0):
            self._safely(partial(self._deliver_hinted, batch))
        self._safely(self._acknowledge)

    def _do_chore(self) -> None:
        if time.monotonic() < self._next_chore:
            return
        self._next_chore = time.monotonic() + _jittered(CHORE_SECONDS)
        self._safely(self._schedule_unscheduled)
        if self._chore:
            self._chore()

    def _schedule_unscheduled(self) -> None:
        found = self._outbox.schedule_unscheduled()
        if found:
            log.error("events had no time at which they are due", module=self._module, documents=found)

    def _hinted(self, timeout: float) -> list[Pending]:
        return self._outbox.take_hints(self.BATCH, timeout)

    def _safely(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Unavailable as exc:
            log.warning("relay waits", module=self._module, reason=exc.detail)
            self._stopping.wait(_jittered(0.5))
        except Exception:
            log.exception("relay failed", module=self._module)
            self._stopping.wait(_jittered(0.5))
        return None


def _by_type(heads: Iterable[Pending]) -> dict[str, list[Pending]]:
    groups: dict[str, list[Pending]] = defaultdict(list)
    for pending in heads:
        groups[pending.type].append(pending)
    return groups


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing  # nosec B311
