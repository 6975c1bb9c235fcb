"""The Prometheus metrics of a process. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

from bisect import bisect_left
from collections import Counter as Count
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    mmap_dict,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)

# Bytes, enough for 7,000 series. A file cannot grow on a full disk, and a failed growth breaks all later series.
mmap_dict._INITIAL_MMAP_SIZE = 1 << 20

# The creation time of each series is not used and would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
_counter = partial(Counter, registry=REGISTRY)
_histogram = partial(Histogram, registry=REGISTRY)
_gauge = partial(Gauge, registry=REGISTRY, multiprocess_mode="livesum")

provider_calls = _counter(
    "orderflow_provider_calls", "Calls to the payment provider, by operation and response", ["call", "response"]
)
payments_disputed = _counter("orderflow_payments_disputed", "Charges that a payer has disputed: each needs an answer")
refunds_failed = _counter("orderflow_refunds_failed", "Refunds that the provider has not made, or that failed later")
provider_notifications = _counter(
    "orderflow_provider_notifications",
    "Notifications of the payment provider: received, repeated, refused, applied, or unmatched by any payment",
    ["outcome"],
)
webhook_attempts = _counter(
    "orderflow_webhook_attempts", "Attempts to deliver a webhook: succeeded or failed", ["outcome"]
)
webhook_endpoints_disabled = _counter(
    "orderflow_webhook_endpoints_disabled",
    "Endpoints of webhooks that were disabled because they only failed, or are gone: their deliveries are held",
    ["reason"],
)
payments_parked = _counter(
    "orderflow_payments_parked",
    "Payments whose outcome could not be learned in time: each needs an operator (payments retry, resolve)",
)
dead_letters = _counter(
    "orderflow_dead_letters", "Events that could not be delivered: each needs an operator", ["module"]
)
leases_lost = _counter("orderflow_leases_lost", "Results rejected because the lease had passed to another worker")
orders_rejected = _counter("orderflow_orders_rejected", "New orders rejected because too much work was unfinished")
http_problems = _counter("orderflow_http_problems", "Requests answered with a problem, by its code", ["code"])
log_lines_dropped = _counter(
    "orderflow_log_lines_dropped", "Log lines that were not written: the reader is gone or slow, or the disk is full"
)
thread_failures = _counter(
    "orderflow_thread_failures", "Uncaught errors in background threads, each of which continued", ["thread"]
)
workers_replaced = _counter(
    "orderflow_workers_replaced", "Processes that ended because background work made no progress", ["thread"]
)
database_errors = _counter("orderflow_database_errors", "Failed database operations, by kind of error", ["kind"])
broker_connections_lost = _counter(
    "orderflow_broker_connections_lost", "Connections to the message broker that were lost"
)
broker_timeouts = _counter(
    "orderflow_broker_timeouts", "Messages over the broker without a reply in time, by kind of message", ["kind"]
)

batch_sizes = _histogram(
    "orderflow_batch_size",
    "Calls or events that shared one command",
    ["operation"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
request_duration = _histogram(
    "orderflow_http_request_duration_seconds",
    "Time to the first byte of the response, by route template; long polls are counted as separate routes",
    ["route", "method", "status"],
    buckets=SECONDS,
)
stage_duration = _histogram(
    "orderflow_stage_duration_seconds",
    "Duration of each of an order's nine stages; both handovers and `payments received` count from the recorded event",
    ["stage"],
    buckets=SECONDS,
)
settlement_duration = _histogram(
    "orderflow_order_settlement_duration_seconds",
    "Time from an order's creation to the outcome of its payment",
    buckets=LONG_SECONDS,
)
payment_attempts = _histogram(
    "orderflow_payment_attempts", "Attempts until a payment reached an outcome", buckets=(1, 2, 3, 4, 6, 8, 12, 16)
)
database_duration = _histogram(
    "orderflow_database_operation_duration_seconds",
    "Duration of a database operation, by collection; calls that share a command count as one",
    ["collection"],
    buckets=SECONDS,
)
broker_round_trip = _histogram(
    "orderflow_broker_round_trip_duration_seconds",
    "Time from sending over the message broker to the reply: of a request without long poll, or of a batch of events",
    ["kind"],
    buckets=SECONDS,
)

workers = _gauge("orderflow_workers", "Running processes")
payment_threads = _gauge("orderflow_payment_threads", "Maximum number of concurrent calls to the provider")
payment_threads_busy = _gauge("orderflow_payment_threads_busy", "Running calls to the provider")
payment_threads_hung = _gauge("orderflow_payment_threads_hung", "Calls that timed out and have not returned")
payments_queued = _gauge("orderflow_payments_queued", "Leased payments whose call has not started")
results_pending = _gauge("orderflow_payment_results_pending", "Provider results that are not stored yet")
circuit_breaker_open = _gauge("orderflow_circuit_breaker_open", "Processes whose circuit breaker is open")
deliveries_failing = _gauge(
    "orderflow_deliveries_failing", "Event types of which every delivery fails, summed over all processes", ["module"]
)
broker_connections = _gauge("orderflow_broker_connections", "Open connections to the message broker")
webhooks_in_flight = _gauge("orderflow_webhooks_in_flight", "Attempts to deliver a webhook that are being made")
webhook_breakers_open = _gauge(
    "orderflow_webhook_breakers_open",
    "Endpoints that are left alone for a while because their last attempts failed, summed over all processes",
)
webhooks_unreachable = _gauge(
    "orderflow_webhooks_unreachable",
    "Processes of orders that the module webhooks does not answer: they publish the changes of all orders",
)
streams_open = _gauge("orderflow_streams_open", "Open long polls and event streams")


class ObservationBuffer:
    """Collects observations of histograms and applies many at once, at a tenth of the cost of single `observe` calls."""

    CAPACITY = 2048

    def __init__(self) -> None:
        self._pending: deque[tuple[Histogram, Sequence[float]]] = deque()

    def add(self, histogram: Histogram, values: Sequence[float]) -> None:
        """Buffer values for a histogram that has no unset labels."""
        self._pending.append((histogram, values))
        if len(self._pending) >= self.CAPACITY:
            self.flush()

    def flush(self) -> None:
        """Apply all buffered observations."""
        by_histogram: dict[Histogram, list[float]] = defaultdict(list)
        with suppress(IndexError):
            while True:
                histogram, values = self._pending.popleft()
                by_histogram[histogram].extend(values)
        for histogram, observed in by_histogram.items():
            _observe_all(histogram, observed)


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    # The library has no bulk `observe`; a test compares the results of both.
    bounds, buckets = histogram._upper_bounds, histogram._buckets
    for index, count in Count(bisect_left(bounds, value) for value in values).items():
        buckets[index].inc(count)
    histogram._sum.inc(sum(values))


observations = ObservationBuffer()
_request_durations: dict[tuple[str, str, int], Histogram] = {}
_stage_durations: dict[str, Histogram] = {}


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """Observe the duration of a request. `route` is a template, never a path: paths are unbounded."""
    key = (route, method, status)
    child = _request_durations.get(key)
    if child is None:
        # Clients choose the method freely, so unknown methods share one label and are not cached.
        known = method if method in METHODS else "other"
        child = request_duration.labels(route, known, str(status))
        if known == method:
            _request_durations[key] = child
    observations.add(child, (seconds,))


def observe_stages(stage: str, _at: float, records: Sequence[Mapping[str, Any]]) -> None:
    """Observe the duration of a stage for many orders; a stage subscriber."""
    child = _stage_durations.get(stage)
    if child is None:
        child = _stage_durations[stage] = stage_duration.labels(stage)
    observations.add(child, [record["took_ms"] / 1000 for record in records])


@cache
def problem_counter(code: str) -> Counter:
    """The counter of the problems with this code."""
    return http_problems.labels(code)
