"""Attempts deliveries in background threads, and records what became of them."""

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import NamedTuple, ParamSpec

from app.contracts.base import Unavailable
from app.contracts.webhooks import EndpointNotFound
from app.observability import metrics
from app.observability.logging import log
from app.observability.supervision import BackgroundThread
from app.storage.bulk import Patch
from app.storage.mongodb import Document
from app.system import SYSTEM, System
from app.webhooks.delivery import AttemptResult, Delivery, EndedAttempt, RetrySchedule
from app.webhooks.delivery_queue import DeliveryQueue
from app.webhooks.delivery_repository import RESULT_SECONDS, DeliveryRepository
from app.webhooks.endpoint import GONE, Endpoint, after_attempt
from app.webhooks.endpoint_cache import EndpointCache
from app.webhooks.endpoint_repository import EndpointRepository
from app.webhooks.first_attempts import FirstAttempts
from app.webhooks.result_queue import ResultQueue
from app.webhooks.signatures import signature_header

# The ids of so many deliveries are remembered that this process has queued.
RECENT_DELIVERIES = 8192
USER_AGENT = "Orderflow-Webhooks/1"
# Posts a body with headers to an address.
Post = Callable[[str, dict[str, str], bytes], AttemptResult]
P = ParamSpec("P")


class _UnrecordedResult(NamedTuple):
    """A result that is to be recorded, by `patch`."""

    endpoint_id: str
    result: AttemptResult
    patch: Patch


class Sender:
    """Sends what is due: at once what this process has recorded, and by a sweep what a dead process or a failure has left.

    `threads` is how many attempts are made at a time, `per_endpoint` how many of one endpoint. A claimed delivery is attempted
    within `max_wait` seconds, or not by this claim. `interval` is the pause between sweeps in seconds.
    """

    SWEEP_LIMIT = 128

    def __init__(
        self,
        endpoints: EndpointRepository,
        deliveries: DeliveryRepository,
        cache: EndpointCache,
        post: Post,
        *,
        threads: int,
        per_endpoint: int,
        max_wait: float,
        interval: float,
        retries: RetrySchedule,
        system: System = SYSTEM,
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._cache = cache
        self._post = post
        self._interval = interval
        self._system = system
        self._retries = retries
        self._queue = DeliveryQueue(threads, per_endpoint, max_wait, self.wake, system)
        self._unstored: dict[str, FirstAttempts] = {}
        # An event that comes again is not sent again because of that.
        self._recent: dict[str, None] = {}
        self._recent_lock = threading.Lock()
        self._results = ResultQueue(self._record_results, RESULT_SECONDS, system)
        # One thread at a time: of two results of an endpoint the later one decides.
        self._health = ResultQueue(self._record_health, math.inf, system, "webhook endpoints' health")
        # One more, which records.
        self._pool = system.thread_pool(threads + 1, "webhooks")
        self._running: set[Future[None]] = set()
        self._work_due = threading.Event()
        self._stopping = threading.Event()
        # An alert on an increase needs the series to exist before the first increment.
        for reason in ("failing", "gone"):
            metrics.webhook_endpoints_disabled.labels(reason)
        for outcome in ("succeeded", "failed"):
            metrics.webhook_attempts.labels(outcome)
        self.thread = BackgroundThread("webhooks-sweep", self.run)

    def accepted(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those of some deliveries that this process can attempt soon."""
        if self._stopping.is_set():
            return []
        return self._queue.within_room(deliveries, lambda one: one.endpoint_id)

    def submit(self, deliveries: Iterable[Delivery]) -> None:
        """Queue deliveries that this process has claimed."""
        queued = [*deliveries]
        self._remember(queued)
        self._queue.put(queued)
        self._start_attempts()

    def attempt_first(self, deliveries: Iterable[Delivery]) -> FirstAttempts:
        """Attempt those of some deliveries whose endpoints probably answer at once, and wait for them. None of them is stored yet.

        `end_first` follows once they are stored.
        """
        new = [] if self._stopping.is_set() else [one for one in deliveries if one.delivery_id not in self._recent]
        attempted = self._queue.prompt(new)
        first = FirstAttempts(attempted, self._system)
        if attempted:
            self._unstored.update((one.delivery_id, first) for one in attempted)
            self.submit(attempted)
            first.close()
            self._queue.expect_no_prompt_answer(
                one.endpoint_id for one in attempted if one.delivery_id in first.unfinished
            )
        return first

    def ended(self, first: FirstAttempts) -> list[EndedAttempt]:
        """What the first attempts make of their deliveries."""
        return [self._ended(delivery, result) for delivery, result in first.results]

    def end_first(self, first: FirstAttempts) -> None:
        """Count the first attempts, and record what has come since they were closed: their deliveries are stored."""
        for delivery, result in first.mark_stored():
            if result:
                self._record(delivery, result)
            else:
                self._release([delivery])
        self._count([(delivery.endpoint_id, result) for delivery, result in first.results])

    def wake(self) -> None:
        """Start the next sweep now."""
        self._work_due.set()

    def forget(self, endpoint_id: str) -> None:
        """Try an endpoint again at once that was left alone, since it was changed."""
        self._release(self._queue.forget(endpoint_id))
        self.wake()

    def start(self) -> None:
        """Start sweeping. The first sweep finds what a dead process left."""
        self.thread.start()

    def stop(self, timeout: float) -> None:
        """Attempt nothing more, let running attempts end, release the others."""
        ends = self._system.monotonic() + timeout
        self._stopping.set()
        self._work_due.set()
        self.thread.join(timeout)
        self._release([*self._queue.clear(), *self._queue.expired()])
        # Work that ends may have started the recording of its result.
        while self._running and self._system.monotonic() < ends:
            wait(list(self._running), ends - self._system.monotonic())
        self._pool.shutdown(wait=False, cancel_futures=True)

    def set_gauges(self) -> None:
        """Set the gauges of the sender."""
        metrics.webhooks_in_flight.set(self._queue.in_flight)
        metrics.webhook_breakers_open.set(self._queue.breakers_open)

    def run(self) -> None:
        """Sweep until the module stops: the work of its thread."""
        refresh_at = self._system.monotonic()
        while not self._stopping.is_set():
            self.thread.beat()
            self._work_due.clear()
            more = False
            try:
                if self._system.monotonic() >= refresh_at:
                    self._cache.refresh()
                    self.settle_held()
                    refresh_at = self._system.monotonic() + self._interval
                more = self.sweep()
            except Unavailable as exc:
                log.warning("webhooks postponed", module="webhooks", reason=exc.detail)
            if not more:
                self._system.wait(self._work_due, self._interval)

    def sweep(self) -> bool:
        """Claim and queue what is due; returns whether more may be due for endpoints that have room."""
        self._release(self._queue.expired())
        blocked, known = self._queue.blocked(), self._queue.delivery_ids

        def within_room(found: list[Document]) -> list[Document]:
            unknown = [doc for doc in found if doc["_id"] not in known]
            return self._queue.within_room(unknown, lambda doc: doc["endpointId"])

        claimed, more = self._deliveries.claim_due(self.SWEEP_LIMIT, blocked, within_room)
        self.submit(claimed)
        return more and bool(claimed)

    def settle_held(self) -> None:
        """Send what is held for an endpoint that is enabled, and delete what is held for one that is deleted.

        Another process may have enabled or deleted it just before this one held a delivery, or died before it sent what was held.
        """
        held = self._deliveries.endpoints_of_held()
        enabled = self._endpoints.enabled_of(held) if held else {}
        for endpoint_id in held:
            if endpoint_id not in enabled:
                self._deliveries.delete_undelivered(endpoint_id)
            elif enabled[endpoint_id]:
                self._deliveries.send_held(endpoint_id)

    def attempt(self, delivery: Delivery) -> AttemptResult | None:
        """Attempt one delivery; None where its endpoint does not take deliveries any more."""
        endpoint = self._cache.get(delivery.endpoint_id)
        if endpoint is None or not endpoint.enabled:
            # Another process may have added or enabled it since the cache was refreshed.
            endpoint = self._reload(delivery.endpoint_id)
        if endpoint is None:
            return None
        body = delivery.body.encode()
        return self._post(endpoint.url, self._headers(endpoint, delivery, body), body)

    def _reload(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint as it is stored, if it takes deliveries; otherwise they are held, or deleted with it."""
        try:
            endpoint = self._endpoints.find(endpoint_id, "")
        except EndpointNotFound:
            self._cache.remove(endpoint_id)
            self._deliveries.delete_undelivered(endpoint_id)
            return None
        self._cache.put(endpoint)
        if endpoint.enabled:
            return endpoint
        self._deliveries.hold(endpoint_id)
        return None

    def _headers(self, endpoint: Endpoint, delivery: Delivery, body: bytes) -> dict[str, str]:
        now = self._deliveries.now()
        seconds = int(now.timestamp())
        return {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature_header(endpoint.signing_secrets(now), delivery.event_id, seconds, body),
        }

    def _ended(self, delivery: Delivery, result: AttemptResult) -> EndedAttempt:
        return self._retries.ended(delivery, result, self._system.random)

    def _record(self, delivery: Delivery, result: AttemptResult) -> None:
        """Have a result recorded; this thread does it unless another one is at it."""
        patch = self._deliveries.result_patch(self._ended(delivery, result))
        if self._results.put(_UnrecordedResult(delivery.endpoint_id, result, patch)):
            self._start_attempts()
            self._results.record_all()

    def _record_results(self, unrecorded: list[_UnrecordedResult]) -> None:
        try:
            self._deliveries.record([one.patch for one in unrecorded])
        finally:
            self._count([(one.endpoint_id, one.result) for one in unrecorded])

    def _count(self, results: list[tuple[str, AttemptResult]]) -> None:
        """Count results in the metrics, and in the health of their endpoints."""
        succeeded = sum(result.succeeded for _, result in results)
        metrics.webhook_attempts.labels("succeeded").inc(succeeded)
        metrics.webhook_attempts.labels("failed").inc(len(results) - succeeded)
        for endpoint_id, result in results:
            # Before the cache is read: it lacks a failure that is recorded just now.
            may_matter = self._health.is_recording or not result.succeeded
            endpoint = self._cache.get(endpoint_id)
            if endpoint and (may_matter or endpoint.failing_since) and self._health.put((endpoint_id, result)):
                self._start(self._health.record_all)

    def _record_health(self, results: list[tuple[str, AttemptResult]]) -> None:
        for endpoint_id, result in results:
            endpoint = self._cache.get(endpoint_id)
            if endpoint:
                self._guarded(partial(self._record_health_of, endpoint, result))

    def _record_health_of(self, endpoint: Endpoint, result: AttemptResult) -> None:
        """Remember since when an endpoint has only failed; disable it where that is too long."""
        now = self._deliveries.now()

        def decide(current: Endpoint) -> Endpoint:
            return after_attempt(current, now, succeeded=result.succeeded, gone=result.gone)

        if decide(endpoint) == endpoint:
            return
        try:
            changed = self._endpoints.change(endpoint.endpoint_id, "", decide)
        except EndpointNotFound:
            self._cache.remove(endpoint.endpoint_id)
            return
        before = self._cache.get(endpoint.endpoint_id)
        self._cache.put(changed)
        if not changed.enabled:
            self._deliveries.hold(changed.endpoint_id)
        if not changed.enabled and before and before.enabled:
            reason = changed.disabled_reason
            metrics.webhook_endpoints_disabled.labels("gone" if reason == GONE else "failing").inc()
            log.warning("webhook endpoint disabled", module="webhooks", endpoint_id=changed.endpoint_id, reason=reason)

    def _remember(self, deliveries: Iterable[Delivery]) -> None:
        with self._recent_lock:
            self._recent.update((one.delivery_id, None) for one in deliveries)
            while len(self._recent) > RECENT_DELIVERIES:
                del self._recent[next(iter(self._recent))]

    def _start_attempts(self) -> None:
        """Have what may be attempted now attempted by other threads."""
        while delivery := self._next():
            self._start(self._attempt_all, delivery)

    def _next(self) -> Delivery | None:
        return None if self._stopping.is_set() else self._queue.take()

    def _attempt_all(self, delivery: Delivery) -> None:
        """Attempt a delivery, and then others as long as there are some."""
        following: Delivery | None = delivery
        while following:
            result = self._attempt_taken(following)
            # Its place is free before its result is recorded.
            left_alone = self._queue.finish(following, result)
            first = self._unstored.pop(following.delivery_id, None)
            if not (first and first.take(following, result)) and result:
                self._record(following, result)
            following = self._next()
            self._start_attempts()
            self._release(left_alone)

    def _attempt_taken(self, delivery: Delivery) -> AttemptResult | None:
        try:
            return self.attempt(delivery)
        except Unavailable as exc:
            # The claim ends by itself; then the delivery is attempted again.
            log.warning("webhooks postponed", module="webhooks", event_id=delivery.event_id, reason=exc.detail)
        except Exception:
            log.exception("webhook failed", module="webhooks", event_id=delivery.event_id)
        return None

    def _start(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `work` in another thread; `stop` waits for it."""
        future = self._pool.submit(self._guarded, partial(work, *args, **kwargs))
        self._running.add(future)
        future.add_done_callback(self._running.discard)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Unavailable as exc:
            log.warning("webhooks postponed", module="webhooks", reason=exc.detail)
        except Exception:
            log.exception("webhook failed", module="webhooks")

    def _release(self, deliveries: Iterable[Delivery]) -> None:
        stored = []
        for delivery in deliveries:
            first = self._unstored.pop(delivery.delivery_id, None)
            if not (first and first.take(delivery, None)):
                stored.append(delivery)
        try:
            self._deliveries.release(stored)
        except Unavailable as exc:
            log.warning("webhooks not released", module="webhooks", reason=exc.detail)
