"""What a hop between processes costs: a request and a batch of events over the broker, beside the same by signal.

As a program it is the other process: `python -m tools.bench.hop URL PREFIX` answers until its input ends.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from app.contracts.orders import CheckOrderStatus, OrderCreated, OrderStatusView
from app.messaging.bus import Bus
from app.messaging.rabbitmq.bus import RabbitMqBus
from app.messaging.signal_bus import SignalBus
from tools.bench.figures import percentile
from tools.bench.processes import ROOT, cpu_of
from tools.cluster.rabbitmq import Rabbit

ORDER = "6b0308d69ac9f180db90b13b"
ASKED = CheckOrderStatus(request_id="hop", order_id=ORDER, on_behalf_of="user-7")
TOLD = OrderStatusView(order_id=ORDER, order_status="Success", payment_status="Captured", version=2)
CREATED = OrderCreated(
    event_id="9f2c7a51c60be2d4a3f08b17",
    order_id=ORDER,
    sequence=1,
    request_id="hop",
    at=1_700_000_000_000,
    user_id="user-7",
    product_id="1",
    total_value=9900,
    total_currency="MYR",
)
PREFIX = "hop"
BATCHES = (1, 16, 128)
AT_ONCE = 32
MICROSECONDS = 1e6


@dataclass(frozen=True)
class Hop:
    """One way of sending: microseconds a message, by the clock (median and p99 of a call) and of CPU, broker included."""

    what: str
    signal_us: float
    p50_us: float
    p99_us: float
    cpu_us: float


def hops(folder: Path, calls: int, tell: Callable[[str], None]) -> Iterator[Hop]:
    """Measure each way, so many calls of each."""
    here = SignalBus()
    _take_part(here)
    with Rabbit(folder / "rabbitmq") as rabbit, _other(rabbit.url) as other:
        bus = RabbitMqBus(rabbit.url, PREFIX, request_seconds=5.0, event_seconds=5.0)
        processes = [psutil.Process(), psutil.Process(other.pid), rabbit.master]
        try:
            ways = [
                ("a request, alone", 1, 1, lambda bus: bus.request(ASKED)),
                (f"a request, {AT_ONCE} at once", 1, AT_ONCE, lambda bus: bus.request(ASKED)),
                *((f"an event, in batches of {size}", size, 1, _publishing(size)) for size in BATCHES),
            ]
            for what, size, at_once, call in ways:
                tell(f"a hop · {what}")
                signals = _timed(partial(call, here), calls, 1)
                used, took = _used(processes), _timed(partial(call, bus), calls, at_once)
                cpu = (_used(processes) - used) / calls / size
                times = [one / size for one in took]
                found = (percentile(signals, 50) / size, percentile(times, 50), percentile(times, 99), cpu)
                yield Hop(what, *(value * MICROSECONDS for value in found))
        finally:
            bus.stop()


def table(found: list[Hop]) -> Table:
    """For people."""
    shown = Table(title="a hop: microseconds a message, there and back", title_justify="left", title_style="bold")
    shown.add_column("")
    for title in ("by signal", "by broker, p50", "p99", "CPU, all processes"):
        shown.add_column(title, justify="right")
    for one in found:
        shown.add_row(one.what, f"{one.signal_us:,.2f}", *(f"{us:,.0f}" for us in (one.p50_us, one.p99_us, one.cpu_us)))
    return shown


def as_dict(found: list[Hop]) -> dict[str, Any]:
    """For JSON."""
    return {"hops": [asdict(one) for one in found]}


def _publishing(size: int) -> Callable[[Bus], None]:
    events = (CREATED,) * size

    def publish(bus: Bus) -> None:
        trouble = bus.publish(events)["payments"]
        if trouble:
            raise trouble

    return publish


def _timed(call: Callable[[], object], calls: int, at_once: int) -> list[float]:
    def timed(_: int) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    timed(0)
    if at_once == 1:
        return [timed(number) for number in range(calls)]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(timed, range(calls)))


def _used(processes: list[psutil.Process]) -> float:
    return sum(map(cpu_of, processes))


@contextmanager
def _other(url: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tools.bench.hop", url, PREFIX]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def _take_part(bus: Bus) -> None:
    bus.register_handler(CheckOrderStatus, lambda _: TOLD)
    bus.subscribe("payments", OrderCreated, lambda _: None)


def main() -> None:
    """Answer, until standard input ends."""
    url, prefix = sys.argv[1:]
    bus = RabbitMqBus(url, prefix, request_seconds=5.0, event_seconds=5.0)
    _take_part(bus)
    bus.start_consuming()
    while not bus.ready:
        time.sleep(0.01)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    bus.stop()


if __name__ == "__main__":
    main()
