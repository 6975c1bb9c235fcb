"""`python -m docs.picture` draws docs/images/architecture.svg from the contracts and from the bus as it is composed."""

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from app.config import Settings
from app.contracts.base import Event, Request, concrete_subclasses
from app.contracts.payments import PaymentEvent
from app.main import create_app, runtime
from app.messaging.signal_bus import SignalBus

FILE = Path(__file__).parent / "images" / "architecture.svg"
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2933; }
  .room { fill: #eef4fb; stroke: #3b6ea5; stroke-width: 1.5; }
  .store { fill: #f3f7ee; stroke: #5b8a3c; stroke-width: 1.5; }
  .outside { fill: #fff7e6; stroke: #b7791f; stroke-width: 1.5; }
  .name { font-size: 17px; font-weight: 600; }
  .small { font-size: 12px; fill: #52606d; }
  .way { fill: none; stroke: #52606d; stroke-width: 1.5; marker-end: url(#tip); }
  #tip path { fill: #52606d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7eb; } .small { fill: #9aa5b1; } .way { stroke: #9aa5b1; } #tip path { fill: #9aa5b1; }
    .room { fill: #1e2f42; } .store { fill: #24331b; } .outside { fill: #3b2f14; }
  }
"""
WIDTH, LINE, TOP = 1060, 17, 60
GATEWAY, MIDDLE, STORES = 130, 480, 800


def wiring() -> SignalBus:
    """The bus of an application, composed as ever; nothing is started or connected."""
    return runtime(create_app(Settings(log_level="error"))).bus


def asked_of(bus: SignalBus, module: str) -> list[str]:
    """The requests that a module answers."""
    names = sorted(request.__name__ for request in concrete_subclasses(Request) if request.owner == module)
    return [name for name in names if name in bus.handled_requests]


def told_to(bus: SignalBus, module: str, *, payments: bool) -> list[str]:
    """The events of payments, or of orders, to which a module subscribes."""
    events = (event for event in concrete_subclasses(Event) if issubclass(event, PaymentEvent) is payments)
    return [event.__name__ for event in events if module in bus.subscribers.get(event.__name__, ())]


def draw(bus: SignalBus) -> str:
    """The picture."""
    of_orders, of_payments = asked_of(bus, "orders"), asked_of(bus, "payments")
    down, up = told_to(bus, "payments", payments=False), told_to(bus, "orders", payments=True)
    first = TOP + (len(of_orders) + 2) * LINE
    gap = (max(len(down), len(up)) + 3) * LINE
    second = first + gap
    bottom = second + max(10 * LINE, (len(of_payments) + 2) * LINE)
    parts = [
        *_box("outside", 10, TOP, 90, 60, "client"),
        *_box("room", GATEWAY, TOP, 150, bottom - TOP, "gateway", "HTTP in,", "HTTP out;", "decides nothing"),
        *_box("room", MIDDLE, TOP, 200, first - TOP, "orders", "states, timeline,", "outbox and relay,", "watch"),
        *_box(
            "room",
            MIDDLE,
            second,
            200,
            bottom - second,
            "payments",
            "worker and pool,",
            "guard, recorder,",
            "outbox and relay",
        ),
        *_box(
            "store", STORES, TOP, 240, 96, "orders in MongoDB", "one document an order:", "state, timeline and outbox"
        ),
        *_box("store", STORES, second, 240, 80, "payments in MongoDB", "leases, attempts, outbox"),
        *_box("outside", STORES, bottom - 60, 240, 60, "payment provider"),
        _way(100, TOP + 30, GATEWAY, TOP + 30),
        _way(GATEWAY + 150, TOP + 20, MIDDLE, TOP + 20),
        _way(GATEWAY + 150, second + 20, MIDDLE, second + 20),
        _way(MIDDLE + 200, TOP + 48, STORES, TOP + 48),
        _way(MIDDLE + 200, second + 40, STORES, second + 40),
        _way(MIDDLE + 200, bottom - 30, STORES, bottom - 30),
        _way(MIDDLE + 60, first, MIDDLE + 60, second),
        _way(MIDDLE + 140, second, MIDDLE + 140, first),
        *_list(GATEWAY + 165, TOP + 20, "asks", of_orders),
        *_list(GATEWAY + 165, second + 20, "asks", of_payments),
        *_list(MIDDLE + 50, first + 4, "tells", down, anchor="end"),
        *_list(MIDDLE + 150, first + 4, "tells", up),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 20}" '
        f'viewBox="0 0 {WIDTH} {bottom + 20}" role="img">\n'
        "<title>Orderflow: modules, what they ask and what they tell</title>\n"
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>\n'
        f'<text class="small" x="10" y="30">{CAPTION}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


CAPTION = "Arrows between rooms are the bus: asked at once, told through the outbox. Nobody imports anybody."


def _box(kind: str, x: int, y: int, width: int, height: int, name: str, *more: str) -> Iterator[str]:
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    yield f'<text class="name" x="{x + 12}" y="{y + 36}">{escape(name)}</text>'
    for number, line in enumerate(more):
        yield f'<text class="small" x="{x + 12}" y="{y + 56 + number * LINE}">{escape(line)}</text>'


def _way(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path class="way" d="M{x} {y} {to_x} {to_y}"/>'


def _list(x: int, y: int, verb: str, names: Iterable[str], anchor: str = "start") -> Iterator[str]:
    yield f'<text class="small" x="{x}" y="{y + LINE}" text-anchor="{anchor}">{verb}</text>'
    for number, name in enumerate(names, 2):
        yield f'<text x="{x}" y="{y + number * LINE}" text-anchor="{anchor}">{escape(name)}</text>'


if __name__ == "__main__":
    FILE.write_text(draw(wiring()))
