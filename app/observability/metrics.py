"""What operators watch, in Prometheus' terms. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

from bisect import bisect_left
from collections import Counter as Count
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from prometheus_client import (
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    mmap_dict,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)

# Bytes, for some 7,000 series: a file that never grows cannot fail to. Where one could not grow, because the disk is full,
# all its later series would fail as well.
mmap_dict._INITIAL_MMAP_SIZE = 1 << 20

# When a series began is of no use here, and would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]

provider_calls = Counter(
    "orderflow_provider_calls", "Calls to the payment provider, by what was asked and answered", ["call", "answer"]
)
payments_parked = Counter(
    "orderflow_payments_parked",
    "Payments nobody could settle in time: each needs an operator (payments retry, resolve)",
)
dead_letters = Counter(
    "orderflow_dead_letters", "Events that could not be delivered: each needs an operator", ["module"]
)
leases_lost = Counter("orderflow_leases_lost", "Results refused because the lease had passed to another worker")
orders_refused = Counter("orderflow_orders_refused", "New orders refused because too much was waiting")
refusals = Counter("orderflow_refusals", "Requests that were refused, by the code of the problem", ["code"])
log_lines_dropped = Counter(
    "orderflow_log_lines_dropped", "Lines of the log that were not written: nobody reads it, or its disk is full"
)
thread_failures = Counter(
    "orderflow_thread_failures", "Errors that reached the top of a background thread, which then went on", ["thread"]
)
workers_replaced = Counter(
    "orderflow_workers_replaced", "Processes that ended because background work made no progress", ["thread"]
)
database_errors = Counter("orderflow_database_errors", "Errors of the database, by kind", ["kind"])
broker_losses = Counter("orderflow_broker_losses", "Connections to the message broker that broke off")
broker_unanswered = Counter(
    "orderflow_broker_unanswered", "What was sent over the message broker and not answered in time", ["what"]
)

batch_sizes = Histogram(
    "orderflow_batch_size",
    "How many callers or events shared one database command",
    ["what"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
requests = Histogram(
    "orderflow_http_request_duration_seconds",
    "Time to the answer's beginning, by the route's template; those that asked to wait are routes of their own",
    ["route", "method", "status"],
    buckets=SECONDS,
)
hops = Histogram(
    "orderflow_hop_duration_seconds",
    "What each of an order's nine steps took; the handing on and payments received count from the recorded event",
    ["step"],
    buckets=SECONDS,
)
settled = Histogram(
    "orderflow_order_settled_seconds", "From an order's creation to the outcome of its payment", buckets=LONG_SECONDS
)
attempts = Histogram(
    "orderflow_payment_attempts", "How many attempts a call came to its end with", buckets=(1, 2, 3, 4, 6, 8, 12, 16)
)
database_seconds = Histogram(
    "orderflow_database_duration_seconds",
    "What an operation on a collection took, all who share it counting as one",
    ["collection"],
    buckets=SECONDS,
)
broker_seconds = Histogram(
    "orderflow_broker_duration_seconds",
    "From sending over the message broker to the answer: of a request that does not wait, or of a batch of events",
    ["what"],
    buckets=SECONDS,
)

workers = Gauge("orderflow_workers", "Processes at work", multiprocess_mode="livesum")
payment_threads = Gauge(
    "orderflow_payment_threads", "How many calls to the provider there may be at once", multiprocess_mode="livesum"
)
payment_threads_busy = Gauge(
    "orderflow_payment_threads_busy", "Calls to the provider under way", multiprocess_mode="livesum"
)
payment_threads_hung = Gauge(
    "orderflow_payment_threads_hung", "Calls that were given up and have not come back", multiprocess_mode="livesum"
)
payments_queued = Gauge(
    "orderflow_payments_queued", "Payments under lease whose call has not begun", multiprocess_mode="livesum"
)
results_waiting = Gauge(
    "orderflow_payment_results_waiting",
    "Answers of the provider that are yet to be stored",
    multiprocess_mode="livesum",
)
breaker_open = Gauge("orderflow_breaker_open", "Processes that spare the provider", multiprocess_mode="livesum")
deliveries_failing = Gauge(
    "orderflow_deliveries_failing",
    "Event types of which every delivery fails, added up over all processes",
    ["module"],
    multiprocess_mode="livesum",
)
broker_connections = Gauge(
    "orderflow_broker_connections", "Open connections to the message broker", multiprocess_mode="livesum"
)
streams_open = Gauge("orderflow_streams_open", "Requests that wait or stream", multiprocess_mode="livesum")

COUNTERS = (
    provider_calls, payments_parked, dead_letters, leases_lost, orders_refused, refusals, log_lines_dropped,
    thread_failures, workers_replaced, database_errors, broker_losses, broker_unanswered,
)  # fmt: skip
HISTOGRAMS = (batch_sizes, requests, hops, settled, attempts, database_seconds, broker_seconds)
GAUGES = (
    workers, payment_threads, payment_threads_busy, payment_threads_hung, payments_queued, results_waiting,
    breaker_open, deliveries_failing, broker_connections, streams_open,
)  # fmt: skip


class Tally:
    """Gathers what was observed, and books it many at once: that costs a tenth of booking each alone."""

    MOST = 2048

    def __init__(self) -> None:
        self._gathered: deque[tuple[Histogram, Sequence[float]]] = deque()

    def add(self, histogram: Histogram, values: Sequence[float]) -> None:
        """Keep values in mind for a histogram without labels of its own."""
        self._gathered.append((histogram, values))
        if len(self._gathered) >= self.MOST:
            self.book()

    def book(self) -> None:
        """Book all that was gathered."""
        values: dict[Histogram, list[float]] = defaultdict(list)
        with suppress(IndexError):
            while True:
                histogram, some = self._gathered.popleft()
                values[histogram].extend(some)
        for histogram, observed in values.items():
            _observe_all(histogram, observed)


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    # The library has no such call; a test compares it with its `observe`.
    bounds, buckets = histogram._upper_bounds, histogram._buckets
    for index, count in Count(bisect_left(bounds, value) for value in values).items():
        buckets[index].inc(count)
    histogram._sum.inc(sum(values))


tally = Tally()
_children: dict[tuple[str, str, int], Histogram] = {}
_stages: dict[str, Histogram] = {}


def request_took(route: str, method: str, status: int, seconds: float) -> None:
    """A request was answered; `route` is a template, never an address."""
    key = (route, method, status)
    child = _children.get(key)
    if child is None:
        # Methods alone come from outside as they like.
        known = method if method in METHODS else "other"
        child = requests.labels(route, known, str(status))
        if known == method:
            _children[key] = child
    tally.add(child, (seconds,))


def stages_took(stage: str, _at: float, records: Sequence[Mapping[str, Any]]) -> None:
    """Observe how long a stage of many orders took."""
    child = _stages.get(stage)
    if child is None:
        child = _stages[stage] = hops.labels(stage)
    tally.add(child, [record["took_ms"] / 1000 for record in records])


@cache
def refusal(code: str) -> Counter:
    """The counter of one kind of refusal."""
    return refusals.labels(code)
