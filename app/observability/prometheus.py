"""The response to a scrape by Prometheus: the metrics of all workers of this server, as text."""

import fcntl
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app import __version__
from app.observability.metrics import REGISTRY, observations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, kw_only=True)
class ModuleGauges:
    """What one module reports for a scrape; None where it did not reply."""

    due: int | None = None
    oldest_seconds: float = 0.0
    retrying: int | None = None
    parked: int = 0
    dead: int = 0


class ModuleCollector(Collector):
    """Gauges read from the database for one scrape, by module; no worker keeps them."""

    def __init__(self, modules: Mapping[str, ModuleGauges]) -> None:
        self._modules = modules

    def collect(self) -> Iterator[GaugeMetricFamily]:
        backlogs = {module: gauges for module, gauges in self._modules.items() if gauges.due is not None}
        queues = {module: gauges for module, gauges in self._modules.items() if gauges.retrying is not None}
        yield _gauge(
            "orderflow_backlog_due",
            "Work that is due and not started",
            {name: one.due for name, one in backlogs.items()},
        )
        yield _gauge(
            "orderflow_backlog_oldest_seconds",
            "Age of the oldest due work",
            {name: one.oldest_seconds for name, one in backlogs.items()},
        )
        yield _gauge(
            "orderflow_retries_pending",
            "Failed work that waits for its next attempt",
            {name: one.retrying for name, one in queues.items()},
        )
        yield _gauge(
            "orderflow_payments_parked_now",
            "Payments that wait for an operator",
            {name: one.parked for name, one in queues.items() if name == "payments"},
        )
        yield _gauge(
            "orderflow_dead_letters_now",
            "Events that wait for an operator",
            {name: one.dead for name, one in queues.items()},
        )
        build = GaugeMetricFamily(
            "orderflow_build_info", "Version of Orderflow and of Python", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build


def _gauge(name: str, documentation: str, values: Mapping[str, Any]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=["module"])
    for module, value in values.items():
        family.add_metric([module], value)
    return family


def exposition(modules: Mapping[str, ModuleGauges]) -> bytes:
    """All metrics in Prometheus' text format; `modules` has the gauges read from the database, by module."""
    observations.flush()
    registry = CollectorRegistry()
    registry.register(ModuleCollector(modules))
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(REGISTRY) + generate_latest(registry)
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    with _exclusive(Path(folder)):
        return generate_latest(registry)


# A file lock blocks a whole process, so a second scrape in the same process waits for this one instead.
_one_at_a_time = threading.Lock()


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Merge the files of dead processes, and let only one process at a time read the files.

    The file `lock` in the folder is the server's, which holds it as long as it runs.
    """
    with _one_at_a_time, (folder / "scrape").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merge_dead_processes(folder)
        yield


def merge_dead_processes(folder: Path) -> None:
    """Delete the gauges of dead processes and add their counters and histograms to one shared file of each kind.

    Sums stay right however the processes ended, and a scrape reads only as many files as processes live.
    """
    for file in folder.glob("*_*.db"):
        kind, _, pid = file.stem.rpartition("_")
        if not pid.isdigit() or _is_alive(int(pid)):
            continue
        if kind in ("counter", "histogram"):
            _add(file, folder / f"{kind}_dead.db")
        file.unlink()


def _add(file: Path, to: Path) -> None:
    merged = MmapedDict(str(to))  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        before, _ = merged.read_value(key)  # type: ignore[no-untyped-call]
        merged.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
    merged.close()  # type: ignore[no-untyped-call]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It lives, and belongs to another user.
    return True
