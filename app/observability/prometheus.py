"""The text that Prometheus scrapes. Under gunicorn all workers share the files in PROMETHEUS_MULTIPROC_DIR."""

import fcntl
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app import __version__
from app.observability.metrics import COUNTERS, GAUGES, HISTOGRAMS, tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


FOLDER = "PROMETHEUS_MULTIPROC_DIR"


@dataclass(frozen=True, kw_only=True)
class ModuleGauges:
    """What was looked up of one module for a scrape; None where nobody could tell it."""

    due: int | None = None
    oldest_seconds: float = 0.0
    retrying: int | None = None
    parked: int = 0
    dead: int = 0


class ModuleCollector(Collector):
    """Looked up for one scrape, hence no metrics that a worker keeps."""

    def __init__(self, looked: Mapping[str, ModuleGauges]) -> None:
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


def exposition(looked: Mapping[str, ModuleGauges]) -> bytes:
    """All metrics as text; `looked` by module."""
    tally.book()
    registry = CollectorRegistry()
    registry.register(ModuleCollector(looked))
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
        merge_dead_processes(folder)
        yield


def merge_dead_processes(folder: Path) -> None:
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
