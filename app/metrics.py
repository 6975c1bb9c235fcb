"""What operators watch, in Prometheus' terms. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

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


def exposition(backlogs: dict[str, tuple[int, float]]) -> bytes:
    """All metrics as text; `backlogs` are by module the due work and the oldest's age in seconds."""
    registry = CollectorRegistry()
    due = Gauge("orderflow_backlog_due", "Work that is due and not begun", ["module"], registry=registry)
    oldest = Gauge(
        "orderflow_backlog_oldest_seconds", "How long the oldest due work has waited", ["module"], registry=registry
    )
    for module, (count, seconds) in backlogs.items():
        due.labels(module).set(count)
        oldest.labels(module).set(seconds)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for counter in (provider_calls, payments_parked, dead_letters, leases_lost, orders_refused):
            registry.register(counter)
    return generate_latest(registry)
