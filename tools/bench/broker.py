"""`python -m tools.bench broker`: the cost of a request and of a batch of events over RabbitMQ, beside a signal.

As a program it is the other process: `python -m tools.bench.broker URL PREFIX` answers until its standard input ends.
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
from tools.bench.processes import cpu_of
from tools.cluster.processes import ROOT
from tools.cluster.rabbitmq import RabbitMqServer

ORDER = "6b0308d69ac9f180db90b13b"
REQUEST = CheckOrderStatus(request_id="bench", order_id=ORDER, on_behalf_of="user-7")
REPLY = OrderStatusView(order_id=ORDER, order_status="Success", payment_status="Captured", version=2)
EVENT = OrderCreated(
    event_id="9f2c7a51c60be2d4a3f08b17",
    order_id=ORDER,
    sequence=1,
    request_id="bench",
    at=1_700_000_000_000,
    user_id="user-7",
    product_id="1",
    total_value=9900,
    total_currency="MYR",
)
PREFIX = "bench"
BATCHES = (1, 16, 128)
CONCURRENT_CALLS = 32
MICROSECONDS = 1e6


@dataclass(frozen=True)
class MessageCost:
    """Microseconds a message: median by signal, median and p99 over RabbitMQ, and CPU time of all processes."""

    name: str
    signal_us: float
    p50_us: float
    p99_us: float
    cpu_us: float


def message_costs(folder: Path, calls: int, log: Callable[[str], None]) -> Iterator[MessageCost]:
    """Measures `calls` calls of each kind."""
    signal_bus = SignalBus()
    _register(signal_bus)
    with RabbitMqServer(folder / "rabbitmq") as rabbitmq, _other_process(rabbitmq.url) as other:
        bus = RabbitMqBus(rabbitmq.url, PREFIX, request_seconds=5.0, event_seconds=5.0)
        processes = [psutil.Process(), psutil.Process(other.pid), rabbitmq.master]
        try:
            kinds = [
                ("a request, alone", 1, 1, lambda bus: bus.request(REQUEST)),
                (f"a request, {CONCURRENT_CALLS} at once", 1, CONCURRENT_CALLS, lambda bus: bus.request(REQUEST)),
                *((f"an event, in batches of {size}", size, 1, _publishing(size)) for size in BATCHES),
            ]
            for name, size, concurrency, call in kinds:
                log(f"over RabbitMQ · {name}")
                by_signal = _timed(partial(call, signal_bus), calls, 1)
                cpu_before, durations = _cpu(processes), _timed(partial(call, bus), calls, concurrency)
                cpu = (_cpu(processes) - cpu_before) / calls / size
                times = [duration / size for duration in durations]
                seconds = (percentile(by_signal, 50) / size, percentile(times, 50), percentile(times, 99), cpu)
                yield MessageCost(name, *(value * MICROSECONDS for value in seconds))
        finally:
            bus.stop()


def table(costs: list[MessageCost]) -> Table:
    """Returns the costs as a table for the terminal."""
    shown = Table(title="microseconds a message, there and back", title_justify="left", title_style="bold")
    shown.add_column("")
    for title in ("by signal", "over RabbitMQ, p50", "p99", "CPU, all processes"):
        shown.add_column(title, justify="right")
    for one in costs:
        shown.add_row(one.name, f"{one.signal_us:,.2f}", *(f"{us:,.0f}" for us in (one.p50_us, one.p99_us, one.cpu_us)))
    return shown


def as_dict(costs: list[MessageCost]) -> dict[str, Any]:
    """Returns the costs as JSON has them."""
    return {"messages": [asdict(one) for one in costs]}


def _publishing(size: int) -> Callable[[Bus], None]:
    events = (EVENT,) * size

    def publish(bus: Bus) -> None:
        error = bus.publish(events)["payments"]
        if error:
            raise error

    return publish


def _timed(call: Callable[[], object], calls: int, concurrency: int) -> list[float]:
    def timed(_: int) -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    timed(0)
    if concurrency == 1:
        return [timed(number) for number in range(calls)]
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(timed, range(calls)))


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(map(cpu_of, processes))


@contextmanager
def _other_process(url: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tools.bench.broker", url, PREFIX]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def _register(bus: Bus) -> None:
    bus.register_handler(CheckOrderStatus, lambda _: REPLY)
    bus.subscribe("payments", OrderCreated, lambda _: None)


def main() -> None:
    """Answers until standard input ends."""
    url, prefix = sys.argv[1:]
    bus = RabbitMqBus(url, prefix, request_seconds=5.0, event_seconds=5.0)
    _register(bus)
    bus.start_consuming()
    while not bus.ready:
        time.sleep(0.01)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    bus.stop()


if __name__ == "__main__":
    main()
