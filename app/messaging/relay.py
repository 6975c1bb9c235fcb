"""The relay: delivers the events of one outbox to the bus."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from app.contracts.base import Event, Unavailable
from app.messaging.bus import EventPublisher
from app.messaging.outbox import Outbox, PendingEvents
from app.messaging.receiver_health import ReceiverHealth
from app.observability import metrics
from app.observability.logging import log
from app.observability.stages import Stage, record_stages, stage_record
from app.observability.supervision import BackgroundThread
from app.system import SYSTEM, System

MAINTENANCE_SECONDS = 60.0
MAX_PAUSE_SECONDS = 0.03


class Relay:
    """Delivers the events of one outbox, in its own thread, which also runs `maintenance_task` once a minute.

    `stages` are what to record, by the module that must receive an event; nothing for others.
    A module's further relays have a `name` of their own.

    An event that is refused `tries` times becomes a dead letter. If every event of its type is refused, the receiver is
    broken: then failures are not counted, and all events stay due.

    Events from the local queue are acknowledged `ack_delay` seconds after their delivery, or as soon as `ACK_BATCH`
    documents wait for it; by then another write may have done it. Under load the relay pauses between batches, for at
    most `max_pause` seconds: larger batches cost less per event.
    """

    BATCH = 128
    ACK_BATCH = 512
    PAUSE_PER_DOCUMENT = 0.002

    def __init__(
        self,
        module: str,
        stages: Mapping[str, Stage],
        outbox: Outbox,
        bus: EventPublisher,
        *,
        interval: float,
        tries: int,
        ack_delay: float = 0.05,
        max_pause: float = MAX_PAUSE_SECONDS,
        maintenance_task: Callable[[], object] | None = None,
        system: System = SYSTEM,
        name: str = "",
    ) -> None:
        self._system = system
        self._module = module
        self._stages = stages
        self._outbox = outbox
        self._bus = bus
        self._interval = interval
        self._tries = tries
        self._ack_delay = ack_delay
        self._max_pause = max_pause
        self._acknowledge_at = float("inf")
        self._receivers = ReceiverHealth(name or module, system.monotonic)
        self._maintenance_task = maintenance_task
        self._next_maintenance = self._system.monotonic()
        self._stopping = threading.Event()
        self.thread = BackgroundThread(name or f"{module}-relay", self.run)

    def start(self) -> None:
        """Start the thread; it sweeps at once."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Deliver what is in the local queue as long as its receiver takes it, then end."""
        self._stopping.set()
        self._outbox.wake()
        self.thread.join(timeout)

    def sweep(self) -> int:
        """Deliver one batch of due documents; returns their number."""
        count = 0
        while count < self.BATCH and (batch := self._outbox.claim(self.BATCH - count)):
            self.thread.beat()
            count += len(batch)
            if not batch[0].unfinished_attempts:
                self.deliver(batch)
                break
            self._retry_unfinished(batch[0])
        return count

    def _retry_unfinished(self, pending: PendingEvents) -> None:
        """Deliver events whose earlier attempts did not end; after too many, make a dead letter."""
        attempts = pending.unfinished_attempts
        # The first attempt was in a batch, any event of which may have ended the process.
        if pending.events and attempts > self._tries:
            reason = f"{attempts} attempts to deliver it did not end: the process died or hung each time"
            self._dead_letter(pending, reason, attempts)
            return
        self._outbox.count_attempt(pending.key)
        self.deliver([pending])

    def deliver(self, batch: Sequence[PendingEvents]) -> None:
        """Publish a batch, the events of each document in order, and store the results."""
        self._publish_all(batch)
        self._outbox.acknowledge(batch)
        self._reschedule_failed(batch)

    def _deliver_local(self, batch: Sequence[PendingEvents]) -> None:
        """Publish a batch from the local queue; acknowledge later what succeeded."""
        if not batch:
            return
        self._publish_all(batch)
        metrics.batch_sizes.labels(f"events of {self._module}").observe(len(batch))
        failed = [pending for pending in batch if pending.error]
        self._outbox.acknowledge(failed)
        self._outbox.acknowledge_later(pending for pending in batch if not pending.error)
        if self._acknowledge_at == float("inf"):
            self._acknowledge_at = self._system.monotonic() + self._ack_delay
        self._reschedule_failed(failed)

    def _acknowledge(self) -> None:
        self._acknowledge_at = float("inf")
        self._outbox.acknowledge_all()

    def _publish_all(self, batch: Sequence[PendingEvents]) -> None:
        while groups := _next_by_type(batch):
            for group in groups:
                self._publish_group(group)

    def _publish_group(self, group: list[tuple[PendingEvents, Event]]) -> None:
        """Publish the first events of some documents, all of one type."""
        group = self._probe(group)
        if not group:
            return
        error = self._publish([event for _, event in group], group[0][0].from_sweep)
        if error and len(group) > 1 and not isinstance(error, Unavailable):
            # One event makes the batch fail: each is published alone, so that it delays no other document.
            for pending, event in group:
                self._record_result(pending, event, self._publish([event], pending.from_sweep))
            return
        for pending, event in group:
            self._record_result(pending, event, error)

    def _probe(self, group: list[tuple[PendingEvents, Event]]) -> list[tuple[PendingEvents, Event]]:
        """While the receiver is broken, publish one event of the group; return those that are worth publishing now."""
        if len(group) < 2 or not self._receivers.is_broken(type(group[0][1]).__name__):
            return group
        pending, event = group.pop(self._system.random.randrange(len(group)))
        error = self._publish([event], pending.from_sweep)
        self._record_result(pending, event, error)
        if not error:
            return group
        for pending, event in group:
            self._record_result(pending, event, error)
        return []

    def _publish(self, events: list[Event], from_sweep: bool) -> Exception | None:
        # Before publishing: in the log the stage of the sender comes before those of the receiver.
        self._record_stages(events, from_sweep)
        result = self._bus.publish(events)
        return next((error for error in result.values() if error), None)

    def _record_result(self, pending: PendingEvents, event: Event, error: Exception | None) -> None:
        if error:
            pending.error = error
        else:
            self._receivers.record_success(type(event).__name__)
            pending.delivered.append(event.event_id)
            pending.events = pending.events[1:]

    def _record_stages(self, events: list[Event], from_sweep: bool) -> None:
        stage = next(filter(None, map(self._stages.get, events[0].required_consumers)), None)
        if stage is None:
            return
        now = time.time() * 1000
        more = {"from_sweep": True} if from_sweep else {}
        record_stages(
            stage,
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

    def _reschedule_failed(self, batch: Sequence[PendingEvents]) -> None:
        # A document that is twice in a batch counts as one failure.
        failed = {pending.key: pending for pending in batch if pending.error}
        self._receivers.end_batch(
            (pending.event_type, key) for key, pending in failed.items() if not isinstance(pending.error, Unavailable)
        )
        for pending in failed.values():
            self._reschedule(pending)

    def _reschedule(self, pending: PendingEvents) -> None:
        """Make a document due again after a failure, or its event a dead letter after too many."""
        error = pending.error
        if isinstance(error, Unavailable):
            # A temporary condition that is not the event's fault: retried without limit, and not counted.
            self._outbox.postpone(pending.key, self._jittered(1.0))
            return
        if self._receivers.is_broken(pending.event_type):
            self._outbox.postpone(pending.key, self._jittered(self._receivers.retry_delay(pending.event_type)))
            return
        event_id = pending.events[0].event_id
        failures = self._outbox.count_failure(pending.key, event_id)
        log.warning(
            "event not delivered", module=self._module, event_id=event_id, failures=failures, reason=repr(error)
        )
        if failures >= self._tries:
            self._dead_letter(pending, repr(error)[:500], failures)
        else:
            self._outbox.postpone(pending.key, self._jittered(min(2.0 ** min(failures, 16) / 4, 60.0)))

    def _dead_letter(self, pending: PendingEvents, reason: str, failures: int) -> None:
        metrics.dead_letters.labels(self._module).inc()
        event_id = pending.events[0].event_id
        log.error(
            "dead letter",
            module=self._module,
            order_id=str(pending.key),
            event_id=event_id,
            event_type=pending.event_type,
            failures=failures,
            reason=reason,
        )
        self._outbox.dead_letter(pending.key, event_id, reason, failures)

    def run(self) -> None:
        """Deliver events until the relay stops: the work of its thread."""
        next_sweep = self._system.monotonic()
        while not self._stopping.is_set():
            self.thread.beat()
            batch = self._dequeue(min(next_sweep, self._acknowledge_at) - self._system.monotonic())
            self._guarded(partial(self._deliver_local, batch))
            if self._system.monotonic() >= self._acknowledge_at or self._outbox.unacknowledged >= self.ACK_BATCH:
                self._guarded(self._acknowledge)
            if self._system.monotonic() >= next_sweep:
                swept = self._guarded(self.sweep)
                self._guarded(self._maintain)
                next_sweep = self._system.monotonic() + (0.0 if swept == self.BATCH else self._jittered(self._interval))
            if len(batch) > 1:
                self._system.wait(self._stopping, min(len(batch) * self.PAUSE_PER_DOCUMENT, self._max_pause))
        self.deliver_enqueued()

    def deliver_enqueued(self) -> None:
        """Deliver what is in the local queue, for a process that ends.

        Once its receiver is away, the rest is left to other processes: it is in the database, and waiting would delay the end.
        """
        while batch := self._dequeue(0.0):
            self._guarded(partial(self._deliver_local, batch))
            if any(isinstance(pending.error, Unavailable) for pending in batch):
                self._guarded(self._outbox.release_local)
        self._guarded(self._acknowledge)

    def _maintain(self) -> None:
        if self._system.monotonic() < self._next_maintenance:
            return
        self._next_maintenance = self._system.monotonic() + self._jittered(MAINTENANCE_SECONDS)
        self._guarded(self._schedule_unscheduled)
        if self._maintenance_task:
            self._maintenance_task()

    def _schedule_unscheduled(self) -> None:
        count = self._outbox.schedule_unscheduled()
        if count:
            log.error("unscheduled events", module=self._module, documents=count)

    def _dequeue(self, timeout: float) -> list[PendingEvents]:
        return self._outbox.dequeue_local(self.BATCH, timeout)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._system.random.uniform(0.8, 1.2)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Run `work`; log an error and pause after it, so that the thread goes on."""
        try:
            return work()
        except Unavailable as exc:
            log.warning("relay waits", module=self._module, reason=exc.detail)
            self._system.wait(self._stopping, self._jittered(0.5))
        except Exception:
            log.exception("relay failed", module=self._module)
            self._system.wait(self._stopping, self._jittered(0.5))
        return None


def _next_by_type(batch: Iterable[PendingEvents]) -> list[list[tuple[PendingEvents, Event]]]:
    """The next event of each document that has one, grouped by event type."""
    groups: dict[type[Event], list[tuple[PendingEvents, Event]]] = defaultdict(list)
    keys = set()
    for pending in batch:
        event = pending.next_event()
        # A document may be queued twice: then its later events wait for its earlier ones, also for those that failed.
        if event and pending.key not in keys:
            groups[type(event)].append((pending, event))
        if pending.events:
            keys.add(pending.key)
    return list(groups.values())
