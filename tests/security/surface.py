"""Every route there is, and what is known of it: the attacks are made from this, so none can be forgotten."""

import re

from app.config import Settings
from app.main import create_app

READ, WRITE, REFUND, ADMIN = "orders:read", "orders:write", "orders:refund", "orders:admin"
FULFIL = "orders:fulfil"
PUBLIC = None

# What each route asks of its callers. A route without a row fails test_api5; so does a row without a route.
ROWS = {
    ("POST", "/orders"): WRITE,
    ("PUT", "/orders"): WRITE,
    ("GET", "/orders"): READ,
    ("GET", "/orders/<user_id>"): READ,
    ("GET", "/orders/one/<order_id>"): READ,
    ("GET", "/orders/one/<order_id>/events"): READ,
    ("GET", "/orders/one/<order_id>/explain"): READ,
    ("GET", "/orders/one/<order_id>/latency"): READ,
    ("POST", "/orders/one/<order_id>/refunds"): REFUND,
    ("POST", "/orders/one/<order_id>/capture"): FULFIL,
    ("GET", "/orders/status/<order_id>"): READ,
    ("GET", "/metrics"): ADMIN,
    ("GET", "/state-machine"): PUBLIC,
    ("POST", "/providers/<provider>/notifications"): PUBLIC,
    ("GET", "/problems/<code>"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("GET", "/console/<name>"): PUBLIC,
    ("GET", "/console/stream"): ADMIN,
    ("GET", "/api"): PUBLIC,
    ("GET", "/api/"): PUBLIC,
    ("GET", "/api-json"): PUBLIC,
    ("GET", "/api/assets/<name>"): PUBLIC,
}
ABSENT = "692000000000000000000000"
BODIES = {
    ("POST", "/orders"): {
        "userId": "ada",
        "productId": "1",
        "productName": "Espresso machine",
        "totalOrderAmount": "RM 99",
    },
    ("PUT", "/orders"): {"orderId": ABSENT, "orderStatus": "Packed"},
    ("POST", "/orders/one/<order_id>/refunds"): {"amount": "RM 1"},
    ("POST", "/orders/one/<order_id>/capture"): {"amount": "RM 1"},
}
NAMES = {"order_id": ABSENT, "provider": "simulated", "user_id": "ada", "code": "unavailable", "name": "swagger-ui.css"}
ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


def routes():
    """Each route as `(method, rule)`, without what comes along with it (HEAD, OPTIONS)."""
    # With authentication there is no page of the simulated provider: its tests are in gateway/routes/test_simulated_provider.
    rules = create_app(Settings(log_level="error", simulated_demonstrations="off")).url_map.iter_rules()
    return sorted(
        (method, ARGUMENT.sub(r"<\1>", rule.rule)) for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}
    )


def address(rule, **names):
    """The address of a route, with these in its path."""
    known = {**NAMES, **({"name": "main.js"} if rule.startswith("/console") else {}), **names}
    filled = ARGUMENT.sub(lambda found: known[found[1]], rule)
    return f"{filled}?userId={names.get('user_id', 'ada')}" if rule == "/orders" else filled


def body(method, rule, **changes):
    """A body that the route takes, as arguments of a client."""
    known = BODIES.get((method, rule))
    return {"json": {**known, **changes}} if known else {}


ROUTES = routes()
PROTECTED = [route for route in ROUTES if ROWS.get(route, READ) is not PUBLIC]
OF_ONE_ORDER = [route for route in ROUTES if "order_id" in route[1] or route == ("PUT", "/orders")]
OF_ONE_USER = [("GET", "/orders"), ("GET", "/orders/<user_id>")]
WRITING = [route for route in ROUTES if route in BODIES]


def named(routes):
    """Names of routes for pytest."""
    return [f"{method} {rule}" for method, rule in routes]
