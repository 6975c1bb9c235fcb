"""`python -m tools.bench profile`: where one worker of Orderflow spends its time under load, as py-spy sees it."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tools.bench.contestants import Contestant, Kind, orderflow, started
from tools.bench.processes import ROOT
from tools.bench.stock import stock
from tools.bench.wrk import load

PROFILES = ROOT / ".orderflow" / "profile"
PY_SPY = Path(sys.executable).parent / "py-spy"
RATE = 200
# Load before the first and after the last sample; py-spy needs a moment to come up.
MARGIN = 6


class NoProfile(RuntimeError):
    """py-spy could not look; the text says why."""


@dataclass(frozen=True)
class Profile:
    """Samples: all of them, and by function those where it ran itself and those where it was on the stack."""

    samples: int
    own: Counter[str]
    total: Counter[str]


def profile(kind: Kind, seconds: int, folder: Path, settings: Mapping[str, str]) -> Profile:
    """Load Orderflow alone with one kind of request and sample a worker; the files go to .orderflow/profile/."""
    if not PY_SPY.exists():
        raise NoProfile("py-spy is not installed: make bench installs it")
    PROFILES.mkdir(parents=True, exist_ok=True)
    with started("orderflow", folder / "orderflow", lambda place: orderflow(place, settings)) as contestant:
        stock(contestant)
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
        raise NoProfile(f"{result.bad} requests were not answered with 2xx, {result.broken} sockets failed")
    return parse(raw.read_text())


def _record(pid: int, seconds: int, form: str, file: Path) -> None:
    command = [PY_SPY, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE)]
    command += ["--gil", "--format", form, "--output", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        raise NoProfile(f"py-spy could not sample process {pid}: {done.stderr[-500:]}")


def _without_line(frame: str) -> str:
    """`name (file:line)` without the line, and the file without the folders that all have in common."""
    name, _, where = frame.rpartition(" (")
    return f"{name} ({where.rpartition(':')[0]})" if ":" in where else frame


def _percent(count: int, found: Profile) -> str:
    return f"{100 * count / max(found.samples, 1):.1f} %"
