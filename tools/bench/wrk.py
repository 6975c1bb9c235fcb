"""The load: wrk, and what it prints, understood."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

LUA = Path(__file__).parent / "lua"
CONNECTIONS = 32
MISSING = "wrk, which makes the load, is not installed: apt-get install wrk"

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


class BadOutput(ValueError):
    """wrk printed something else than its results."""


@dataclass(frozen=True)
class Request:
    """What wrk sends: a script of tools/bench/lua and its arguments."""

    script: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What wrk measured. Latencies are in milliseconds; `bad` counts wrong statuses, `broken` sockets that failed."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    bad: int
    broken: int

    @property
    def clean(self) -> bool:
        """Whether every request was answered with 2xx."""
        return self.requests > 0 and not self.bad and not self.broken


def installed() -> bool:
    """Whether there is a wrk to run."""
    return shutil.which("wrk") is not None


def load(url: str, request: Request, seconds: int, connections: int = CONNECTIONS) -> Result:
    """Load `url` for so many seconds from one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    command += ["-s", str(LUA / request.script), url, "--", *request.args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise BadOutput(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(text: str) -> Result:
    """The results in wrk's output. Raises BadOutput."""
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Result(
        requests=int(_found(r"(\d+) requests in ", text)),
        rate=float(_found(r"Requests/sec:\s+([\d.]+)", text)),
        p50_ms=_latency("50", text),
        p99_ms=_latency("99", text),
        bad=int(bad[1]) if bad else 0,
        broken=sum(map(int, errors.groups())) if errors else 0,
    )


def _latency(percent: str, text: str) -> float:
    found = _found(rf"^\s+{percent}%\s+(\S+)\s*$", text)
    number, unit = re.fullmatch(r"(-?[\d.]+|-nan)([a-z]+)", found).groups()
    return 0.0 if number == "-nan" else float(number) * MILLISECONDS[unit]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise BadOutput(f"this is not what wrk prints: {text[:500]!r}")
    return found[1]
