"""Runs the load generator wrk and parses its output."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LUA = Path(__file__).parent / "lua"
CONNECTIONS = 32
MISSING = "wrk, the load generator, is not installed: apt-get install wrk"

MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


class WrkOutputError(ValueError):
    """wrk did not print its results."""


@dataclass(frozen=True)
class Request:
    """A script of tools/bench/lua and its arguments."""

    script: str
    args: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """The measurements of wrk. `bad_statuses` counts answers other than 2xx, `socket_errors` failed sockets."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    bad_statuses: int
    socket_errors: int

    @property
    def clean(self) -> bool:
        """Whether every request was answered with 2xx."""
        return self.requests > 0 and not self.bad_statuses and not self.socket_errors


def installed() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def load(url: str, request: Request, seconds: int, connections: int = CONNECTIONS) -> Result:
    """Loads `url` for `seconds` from one thread."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
    command += ["-s", str(LUA / request.script), url, "--", *request.args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise WrkOutputError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def load_all(urls: Sequence[str], request: Request, seconds: int, connections: int = CONNECTIONS) -> Result:
    """Loads all `urls` at once, each from a thread and with connections of its own; latencies are those of the slowest."""
    with ThreadPoolExecutor(len(urls)) as pool:
        results = list(pool.map(lambda url: load(url, request, seconds, connections), urls))
    return Result(
        requests=sum(one.requests for one in results),
        rate=sum(one.rate for one in results),
        p50_ms=max(one.p50_ms for one in results),
        p99_ms=max(one.p99_ms for one in results),
        bad_statuses=sum(one.bad_statuses for one in results),
        socket_errors=sum(one.socket_errors for one in results),
    )


def parse(text: str) -> Result:
    """Parses the results in wrk's output. Raises WrkOutputError."""
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Result(
        requests=int(_match(r"(\d+) requests in ", text)),
        rate=float(_match(r"Requests/sec:\s+([\d.]+)", text)),
        p50_ms=_latency("50", text),
        p99_ms=_latency("99", text),
        bad_statuses=int(bad[1]) if bad else 0,
        socket_errors=sum(map(int, errors.groups())) if errors else 0,
    )


def _latency(percent: str, text: str) -> float:
    found = _match(rf"^\s+{percent}%\s+(\S+)\s*$", text)
    number, unit = re.fullmatch(r"(-?[\d.]+|-nan)([a-z]+)", found).groups()
    return 0.0 if number == "-nan" else float(number) * MILLISECONDS[unit]


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if not found:
        raise WrkOutputError(f"unexpected output of wrk: {text[:500]!r}")
    return found[1]
