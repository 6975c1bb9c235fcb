"""What operators watch, in Prometheus' terms. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

import fcntl
import os
import platform
from bisect import bisect_left
from collections import Counter as Count
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    mmap_dict,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
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
_steps: dict[str, Histogram] = {}


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


def steps_took(step: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """A step was told of many orders."""
    child = _steps.get(step)
    if child is None:
        child = _steps[step] = hops.labels(step)
    tally.add(child, [line["took_ms"] / 1000 for line in lines])


@cache
def refusal(code: str) -> Counter:
    """The counter of one kind of refusal."""
    return refusals.labels(code)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was looked up of one module for a scrape; None where nobody could tell it."""

    due: int | None = None
    oldest_seconds: float = 0.0
    retrying: int | None = None
    parked: int = 0
    dead: int = 0


class _Looks(Collector):
    """Looked up for one scrape, hence no metrics that a worker keeps."""

    def __init__(self, looked: Mapping[str, Looked]) -> None:
        self._looked = looked

    def collect(self) -> Iterator[GaugeMetricFamily]:
        backlogs = {module: look for module, look in self._looked.items() if look.due is not None}
        held_up = {module: look for module, look in self._looked.items() if look.retrying is not None}
        yield _gauge(
            "orderflow_backlog_due", "Work that is due and not begun", {name: one.due for name, one in backlogs.items()}
        )
        yield _gauge(
            "orderflow_backlog_oldest_seconds",
            "How long the oldest due work has waited",
            {name: one.oldest_seconds for name, one in backlogs.items()},
        )
        yield _gauge(
            "orderflow_retries_waiting",
            "Work that went wrong and waits for its next try",
            {name: one.retrying for name, one in held_up.items()},
        )
        yield _gauge(
            "orderflow_payments_parked_now",
            "Payments that wait for an operator",
            {name: one.parked for name, one in held_up.items() if name == "payments"},
        )
        yield _gauge(
            "orderflow_dead_letters_now",
            "Events that wait for an operator",
            {name: one.dead for name, one in held_up.items()},
        )
        build = GaugeMetricFamily("orderflow_build_info", "What runs here", labels=["version", "python"])
        build.add_metric([__version__, platform.python_version()], 1)
        yield build


def _gauge(name: str, meaning: str, values: Mapping[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=["module"])
    for module, value in values.items():
        family.add_metric([module], value)
    return family


def exposition(looked: Mapping[str, Looked]) -> bytes:
    """All metrics as text; `looked` by module."""
    tally.book()
    registry = CollectorRegistry()
    registry.register(_Looks(looked))
    folder = os.environ.get(FOLDER)
    if folder:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for kept in (*COUNTERS, *HISTOGRAMS, *GAUGES):
            registry.register(kept)
    with _undisturbed(Path(folder)) if folder else nullcontext():
        return generate_latest(registry)


@contextmanager
def _undisturbed(folder: Path) -> Iterator[None]:
    """One process at a time reads the files, after it has tidied up behind those that are gone."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forget_the_gone(folder)
        yield


def forget_the_gone(folder: Path) -> None:
    """Drop the gauges of processes that are gone, and add what they counted to one file for all of them.

    However they ended, and however many there were: sums stay right, and a scrape reads no more files than there are
    processes.
    """
    for file in folder.glob("*_*.db"):
        kind, _, pid = file.stem.rpartition("_")
        if not pid.isdigit() or _lives(int(pid)):
            continue
        if kind in ("counter", "histogram"):
            _add(file, folder / f"{kind}_gone.db")
        file.unlink()


def _add(file: Path, to: Path) -> None:
    kept = MmapedDict(str(to))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        before, _ = kept.read_value(key)  # type: ignore[no-untyped-call]
        kept.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    kept.close()  # type: ignore[no-untyped-call]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
