"""`python -m docs.picture` draws docs/images/architecture.svg from the contracts and the bus that create_app composes."""

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
  .module { fill: #eef4fb; stroke: #3b6ea5; stroke-width: 1.5; }
  .store { fill: #f3f7ee; stroke: #5b8a3c; stroke-width: 1.5; }
  .outside { fill: #fff7e6; stroke: #b7791f; stroke-width: 1.5; }
  .name { font-size: 17px; font-weight: 600; }
  .small { font-size: 12px; fill: #52606d; }
  .arrow { fill: none; stroke: #52606d; stroke-width: 1.5; marker-end: url(#tip); }
  #tip path { fill: #52606d; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e7eb; } .small { fill: #9aa5b1; } .arrow { stroke: #9aa5b1; } #tip path { fill: #9aa5b1; }
    .module { fill: #1e2f42; } .store { fill: #24331b; } .outside { fill: #3b2f14; }
  }
"""
WIDTH, LINE, TOP = 1060, 17, 60
GATEWAY, MIDDLE, STORES = 130, 480, 800


def wiring() -> SignalBus:
    """Returns the bus of an application in one process; nothing is started or connected."""
    return runtime(create_app(Settings(log_level="error"))).bus


def requests_to(bus: SignalBus, module: str) -> list[str]:
    """Returns the names of the requests that a module handles."""
    names = sorted(request.__name__ for request in concrete_subclasses(Request) if request.owner == module)
    return [name for name in names if name in bus.handled_requests]


def events_to(bus: SignalBus, module: str, *, payments: bool) -> list[str]:
    """Returns the names of the events of payments, or of orders, to which a module subscribes."""
    events = (event for event in concrete_subclasses(Event) if issubclass(event, PaymentEvent) is payments)
    return [event.__name__ for event in events if module in bus.subscribers.get(event.__name__, ())]


def draw(bus: SignalBus) -> str:
    """Returns the picture as SVG."""
    orders_requests, payments_requests = requests_to(bus, "orders"), requests_to(bus, "payments")
    orders_events, payments_events = events_to(bus, "payments", payments=False), events_to(bus, "orders", payments=True)
    orders_bottom = TOP + (len(orders_requests) + 2) * LINE
    gap = (max(len(orders_events), len(payments_events)) + 3) * LINE
    payments_top = orders_bottom + gap
    payments_bottom = payments_top + max(10 * LINE, (len(payments_requests) + 2) * LINE)
    webhooks_requests, webhooks_events = requests_to(bus, "webhooks"), events_to(bus, "webhooks", payments=False)
    webhooks_top = payments_bottom + 3 * LINE
    bottom = webhooks_top + max(10 * LINE, (len(webhooks_requests) + 2) * LINE)
    parts = [
        *_box("outside", 10, TOP, 90, 60, "client"),
        *_box("module", GATEWAY, TOP, 150, bottom - TOP, "gateway", "HTTP;", "decides nothing"),
        *_box(
            "module",
            MIDDLE,
            TOP,
            200,
            orders_bottom - TOP,
            "orders",
            "states, timeline,",
            "outbox and relay,",
            "change notifier",
        ),
        *_box(
            "module",
            MIDDLE,
            payments_top,
            200,
            payments_bottom - payments_top,
            "payments",
            "worker with threads,",
            "circuit breaker,",
            "outbox and relay",
        ),
        *_box(
            "module",
            MIDDLE,
            webhooks_top,
            200,
            bottom - webhooks_top,
            "webhooks",
            "sender with threads,",
            "a breaker an endpoint,",
            "checked addresses",
        ),
        *_box(
            "store", STORES, TOP, 240, 96, "orders in MongoDB", "one document an order:", "state, timeline and outbox"
        ),
        *_box("store", STORES, payments_top, 240, 80, "payments in MongoDB", "leases, attempts, outbox"),
        *_box("outside", STORES, payments_bottom - 60, 240, 60, "payment provider"),
        *_box("store", STORES, webhooks_top, 240, 80, "webhooks in MongoDB", "endpoints, deliveries, attempts"),
        *_box("outside", STORES, bottom - 60, 240, 60, "endpoints of users"),
        _arrow(100, TOP + 30, GATEWAY, TOP + 30),
        _arrow(GATEWAY + 150, TOP + 20, MIDDLE, TOP + 20),
        _arrow(GATEWAY + 150, payments_top + 20, MIDDLE, payments_top + 20),
        _arrow(MIDDLE + 200, TOP + 48, STORES, TOP + 48),
        _arrow(MIDDLE + 200, payments_top + 40, STORES, payments_top + 40),
        _arrow(MIDDLE + 200, payments_bottom - 30, STORES, payments_bottom - 30),
        _arrow(GATEWAY + 150, webhooks_top + 20, MIDDLE, webhooks_top + 20),
        _arrow(MIDDLE + 200, webhooks_top + 40, STORES, webhooks_top + 40),
        _arrow(MIDDLE + 200, bottom - 30, STORES, bottom - 30),
        *_around(MIDDLE + 200, orders_bottom - 30, webhooks_top + 20),
        _arrow(MIDDLE + 60, orders_bottom, MIDDLE + 60, payments_top),
        _arrow(MIDDLE + 140, payments_top, MIDDLE + 140, orders_bottom),
        *_list(GATEWAY + 165, TOP + 20, "requests", orders_requests),
        *_list(GATEWAY + 165, payments_top + 20, "requests", payments_requests),
        *_list(GATEWAY + 165, webhooks_top + 20, "requests", webhooks_requests),
        *_list(MIDDLE + 240, orders_bottom + 4, "events", webhooks_events),
        *_list(MIDDLE + 50, orders_bottom + 4, "events", orders_events, anchor="end"),
        *_list(MIDDLE + 150, orders_bottom + 4, "events", payments_events),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 20}" '
        f'viewBox="0 0 {WIDTH} {bottom + 20}" role="img">\n'
        "<title>Orderflow: modules, their requests and their events</title>\n"
        f"<style>{STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z"/></marker></defs>\n'
        f'<text class="small" x="10" y="30">{CAPTION}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


CAPTION = "Arrows between modules are the bus: requests are sent at once, events through the outbox. No module imports another."


def _box(kind: str, x: int, y: int, width: int, height: int, name: str, *more: str) -> Iterator[str]:
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="8"/>'
    yield f'<text class="name" x="{x + 12}" y="{y + 36}">{escape(name)}</text>'
    for number, line in enumerate(more):
        yield f'<text class="small" x="{x + 12}" y="{y + 56 + number * LINE}">{escape(line)}</text>'


def _arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path class="arrow" d="M{x} {y} {to_x} {to_y}"/>'


def _around(x: int, y: int, to_y: int) -> Iterator[str]:
    """An arrow from one box to another below it, to the right of what is between them."""
    yield f'<path class="arrow" d="M{x} {y} {x + 30} {y} {x + 30} {to_y} {x} {to_y}"/>'


def _list(x: int, y: int, verb: str, names: Iterable[str], anchor: str = "start") -> Iterator[str]:
    yield f'<text class="small" x="{x}" y="{y + LINE}" text-anchor="{anchor}">{verb}</text>'
    for number, name in enumerate(names, 2):
        yield f'<text x="{x}" y="{y + number * LINE}" text-anchor="{anchor}">{escape(name)}</text>'


if __name__ == "__main__":
    FILE.write_text(draw(wiring()))
