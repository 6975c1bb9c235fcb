"""What operators watch, in Prometheus' terms. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

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

batch_sizes = Histogram(
    "orderflow_batch_size",
    "How many callers or events shared one database command",
    ["what"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
KEPT = (provider_calls, payments_parked, dead_letters, leases_lost, orders_refused, batch_sizes)


class _Backlogs(Collector):
    """Looked up for one scrape, hence no metric that a worker keeps."""

    def __init__(self, backlogs: dict[str, tuple[int, float]]) -> None:
        self._backlogs = backlogs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        due = GaugeMetricFamily("orderflow_backlog_due", "Work that is due and not begun", labels=["module"])
        oldest = GaugeMetricFamily(
            "orderflow_backlog_oldest_seconds", "How long the oldest due work has waited", labels=["module"]
        )
        for module, (count, seconds) in self._backlogs.items():
            due.add_metric([module], count)
            oldest.add_metric([module], seconds)
        yield due
        yield oldest


def exposition(backlogs: dict[str, tuple[int, float]]) -> bytes:
    """All metrics as text; `backlogs` are by module the due work and the oldest's age in seconds."""
    registry = CollectorRegistry()
    registry.register(_Backlogs(backlogs))
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for kept in KEPT:
            registry.register(kept)
    return generate_latest(registry)
