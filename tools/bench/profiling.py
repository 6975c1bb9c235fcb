"""`python -m tools.bench profile`: where one worker of Orderflow spends its CPU time under load, sampled by py-spy."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tools.bench.contestants import Contestant, Kind, orderflow, started
from tools.bench.preload import preload
from tools.bench.wrk import load
from tools.cluster.processes import ROOT

PROFILES = ROOT / ".orderflow" / "profile"
PY_SPY = Path(sys.executable).parent / "py-spy"
RATE = 200
# Seconds of load before the first and after the last sample; py-spy takes a moment to start.
MARGIN = 6


class ProfilingError(RuntimeError):
    """py-spy is missing or failed; the text says why."""


@dataclass(frozen=True)
class Profile:
    """The number of samples, and by function those in which it ran itself and those with it on the stack."""

    samples: int
    own: Counter[str]
    total: Counter[str]


def profile(kind: Kind, seconds: int, folder: Path, settings: Mapping[str, str]) -> Profile:
    """Loads Orderflow with one kind of request and samples a worker; the files go to .orderflow/profile/."""
    if not PY_SPY.exists():
        raise ProfilingError("py-spy is not installed: make bench installs it")
    PROFILES.mkdir(parents=True, exist_ok=True)
    with started("orderflow", folder / "orderflow", lambda location: orderflow(location, settings)) as contestant:
        preload(contestant)
        return _sampled(contestant, kind, seconds)


def table(found: Profile, rows: int = 30) -> Table:
    """The functions that ran most themselves."""
    shown = Table(title=f"{found.samples} samples with the GIL held; files in {PROFILES}", title_justify="left")
    for title in ("self", "total"):
        shown.add_column(title, justify="right")
    shown.add_column("function", overflow="fold")
    for name, count in found.own.most_common(rows):
        shown.add_row(_percent(count, found), _percent(found.total[name], found), name)
    return shown


def parse(text: str) -> Profile:
    """py-spy's raw format: a line for each stack, its functions from the outside in, and how often it was seen."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        functions = [_without_line(frame) for frame in stack.split(";")]
        own[functions[-1]] += int(count)
        for function in set(functions):
            total[function] += int(count)
    return Profile(own.total(), own, total)


def _sampled(contestant: Contestant, kind: Kind, seconds: int) -> Profile:
    worker = contestant.server.tree()[1].pid
    raw = PROFILES / f"{kind.name.lower()}.raw"
    with ThreadPoolExecutor(1) as pool:
        under = pool.submit(load, contestant.server.url, contestant.requests[kind], 2 * seconds + MARGIN)
        _record(worker, seconds, "raw", raw)
        _record(worker, seconds, "flamegraph", raw.with_suffix(".svg"))
        result = under.result()
    if not result.clean:
        raise ProfilingError(
            f"{result.bad_statuses} requests were not answered with 2xx, {result.socket_errors} sockets failed"
        )
    return parse(raw.read_text())


def _record(pid: int, seconds: int, form: str, file: Path) -> None:
    command = [PY_SPY, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE)]
    command += ["--gil", "--format", form, "--output", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        raise ProfilingError(f"py-spy could not sample process {pid}: {done.stderr[-500:]}")


def _without_line(frame: str) -> str:
    """Returns `name (file)` of `name (file:line)`."""
    name, _, where = frame.rpartition(" (")
    return f"{name} ({where.rpartition(':')[0]})" if ":" in where else frame


def _percent(count: int, found: Profile) -> str:
    return f"{100 * count / max(found.samples, 1):.1f} %"
