"""Processes under measurement: servers, and the CPU time and memory that their processes use."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools.cluster.processes import ROOT, inherited_environ
from tools.cluster.programs import Program
from tools.cluster.servers import answers_with_success

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Memory:
    """Memory of several processes in megabytes: the sums of resident set sizes and of proportional set sizes."""

    rss_mb: float
    pss_mb: float
    processes: int


class Measured(ABC):
    """A server whose CPU time and memory can be measured."""

    url: str

    @property
    def urls(self) -> list[str]:
        """The addresses to load at once."""
        return [self.url]

    @abstractmethod
    def tree(self) -> list[psutil.Process]:
        """Returns its processes, the first one first."""

    def cpu(self) -> float:
        """Returns the CPU seconds that all its processes have used so far."""
        return sum(map(cpu_of, self.tree()))

    def memory(self) -> Memory:
        """Returns the memory of all its processes."""
        return memory_of(self.tree())


class MeasuredServer(Program, Measured):
    """A server that is ready when a GET of `ready_path` succeeds. Start it from the main thread."""

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        port: int,
        ready_path: str,
        log: Path,
        root: Path = ROOT,
    ) -> None:
        super().__init__(command, {**inherited_environ(), **environ}, root, log)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._ready_url = f"{self.url}{ready_path}"

    def ready(self) -> bool:
        return answers_with_success(self._ready_url)


def memory_of(processes: Sequence[psutil.Process]) -> Memory:
    """Returns the memory of these processes."""
    infos = [process.memory_full_info() for process in processes]
    rss, pss = sum(info.rss for info in infos), sum(getattr(info, "pss", info.rss) for info in infos)
    return Memory(rss_mb=rss / MEGABYTE, pss_mb=pss / MEGABYTE, processes=len(infos))


def cpu_of(process: psutil.Process) -> float:
    """Returns the CPU seconds that one process has used so far."""
    times = process.cpu_times()
    return times.user + times.system
