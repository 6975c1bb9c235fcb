"""Every route there is, and what is known of it: the attacks are made from this, so none can be forgotten."""

import re
from datetime import UTC, datetime

from app.config import Settings
from app.main import create_app

READ, WRITE, REFUND, ADMIN = "orders:read", "orders:write", "orders:refund", "orders:admin"
FULFIL = "orders:fulfil"
WEBHOOKS = "webhooks:manage"
PUBLIC = None

# What each route asks of its callers. A route without a row fails test_api5; so does a row without a route.
ROWS = {
    ("POST", "/orders"): WRITE,
    ("PUT", "/orders"): WRITE,
    ("GET", "/orders"): READ,
    ("GET", "/orders/export"): READ,
    ("GET", "/orders/<user_id>"): READ,
    ("GET", "/orders/one/<order_id>"): READ,
    ("PATCH", "/orders/one/<order_id>"): WRITE,
    ("GET", "/orders/one/<order_id>/events"): READ,
    ("GET", "/orders/one/<order_id>/explain"): READ,
    ("GET", "/orders/one/<order_id>/latency"): READ,
    ("GET", "/orders/one/<order_id>/refunds"): READ,
    ("GET", "/orders/one/<order_id>/refunds/<refund_id>"): READ,
    ("GET", "/orders/one/<order_id>/requests"): READ,
    ("POST", "/orders/one/<order_id>/refunds"): REFUND,
    ("POST", "/orders/one/<order_id>/capture"): FULFIL,
    ("GET", "/orders/status/<order_id>"): READ,
    ("GET", "/operations/parked"): ADMIN,
    ("GET", "/operations/dead-letters"): ADMIN,
    ("GET", "/operations/erasures"): ADMIN,
    ("DELETE", "/users/<user_id>/personal-data"): WRITE,
    ("POST", "/operations/parked/<order_id>/retry"): ADMIN,
    ("POST", "/operations/parked/<order_id>/resolve"): ADMIN,
    ("POST", "/operations/parked/<order_id>/drop-refund"): ADMIN,
    ("POST", "/operations/dead-letters/<order_id>/replay"): ADMIN,
    ("POST", "/webhooks/endpoints"): WEBHOOKS,
    ("GET", "/webhooks/endpoints"): WEBHOOKS,
    ("GET", "/webhooks/endpoints/<endpoint_id>"): WEBHOOKS,
    ("PATCH", "/webhooks/endpoints/<endpoint_id>"): WEBHOOKS,
    ("DELETE", "/webhooks/endpoints/<endpoint_id>"): WEBHOOKS,
    ("POST", "/webhooks/endpoints/<endpoint_id>/rotate-secret"): WEBHOOKS,
    ("POST", "/webhooks/endpoints/<endpoint_id>/test"): WEBHOOKS,
    ("POST", "/webhooks/endpoints/<endpoint_id>/replay"): WEBHOOKS,
    ("GET", "/webhooks/endpoints/<endpoint_id>/deliveries"): WEBHOOKS,
    ("GET", "/webhooks/deliveries/<delivery_id>"): WEBHOOKS,
    ("POST", "/webhooks/deliveries/<delivery_id>/retry"): WEBHOOKS,
    ("GET", "/event-types"): PUBLIC,
    ("GET", "/metrics"): ADMIN,
    ("GET", "/state-machine"): PUBLIC,
    ("POST", "/providers/<provider>/notifications"): PUBLIC,
    ("GET", "/problems"): PUBLIC,
    ("GET", "/problems/<code>"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("GET", "/console/<name>"): PUBLIC,
    ("GET", "/console/orders/<name>"): PUBLIC,
    ("GET", "/console/desk"): PUBLIC,
    ("GET", "/console/webhooks"): PUBLIC,
    ("GET", "/console/webhooks/<name>"): PUBLIC,
    ("GET", "/console/deliveries/<name>"): PUBLIC,
    ("GET", "/console/stream"): ADMIN,
    ("GET", "/api"): PUBLIC,
    ("GET", "/api/"): PUBLIC,
    ("GET", "/api-json"): PUBLIC,
    ("GET", "/api/assets/<name>"): PUBLIC,
}
# What an order has whose refund r1 is asked for.
REFUNDED = {
    "refunds": [{"id": "r1", "value": 100, "requested": "100 MYR", "at": datetime.now(UTC), "status": "succeeded"}]
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
    ("PATCH", "/orders/one/<order_id>"): {"metadata": {"cart": "A-1207"}},
    ("POST", "/orders/one/<order_id>/refunds"): {"amount": "RM 1"},
    ("POST", "/orders/one/<order_id>/capture"): {"amount": "RM 1"},
    ("POST", "/operations/parked/<order_id>/retry"): {"reason": "it works again"},
    ("POST", "/operations/parked/<order_id>/resolve"): {"outcome": "declined", "reason": "seen in the dashboard"},
    ("POST", "/operations/parked/<order_id>/drop-refund"): {"refundId": "r-1", "reason": "the card is closed"},
    ("POST", "/operations/dead-letters/<order_id>/replay"): {"reason": "it is mended"},
    ("POST", "/webhooks/endpoints"): {
        "url": "https://shop.example/webhooks",
        "description": "The warehouse",
        "events": ["order.*"],
        "signature": "v1",
        "userId": "ada",
    },
    ("PATCH", "/webhooks/endpoints/<endpoint_id>"): {
        "url": "https://shop.example/webhooks",
        "description": "The warehouse",
        "events": ["order.*"],
        "enabled": True,
    },
    ("POST", "/webhooks/endpoints/<endpoint_id>/rotate-secret"): {"overlapHours": 1},
    ("POST", "/webhooks/endpoints/<endpoint_id>/replay"): {
        "since": "2026-11-22T15:00:00Z",
        "until": "2026-11-22T16:00:00Z",
    },
}
NAMES = {
    "order_id": ABSENT,
    "refund_id": "r1",
    "endpoint_id": "we_692000000000000000000000",
    "delivery_id": "69200000000000000000000000000000.we_692000000000000000000000",
    "provider": "simulated",
    "user_id": "ada",
    "code": "unavailable",
    "name": "swagger-ui.css",
}
ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


def routes():
    """Each route as `(method, rule)`, without what comes along with it (HEAD, OPTIONS)."""
    # With authentication there is no page of the simulated provider: its tests are in gateway/routes/test_simulated_provider.
    rules = create_app(Settings(log_level="error", simulated_demonstrations="off")).url_map.iter_rules()
    return sorted(
        (method, ARGUMENT.sub(r"<\1>", rule.rule)) for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}
    )


def address(rule, **names):
    """The address of a route, with these in its path, or in its query where a list takes the user there."""
    known = {**NAMES, **({"name": "api.js"} if rule.startswith("/console") else {}), **names}
    filled = ARGUMENT.sub(lambda found: known[found[1]], rule)
    return (
        f"{filled}?userId={names['user_id']}"
        if rule in ("/orders", "/orders/export") and "user_id" in names
        else filled
    )


def body(method, rule, **changes):
    """A body that the route takes, as arguments of a client."""
    known = BODIES.get((method, rule))
    return {"json": {**known, **changes}} if known else {}


ROUTES = routes()
PROTECTED = [route for route in ROUTES if ROWS.get(route, READ) is not PUBLIC]
OF_ONE_ORDER = [
    route
    for route in ROUTES
    if ("order_id" in route[1] or route == ("PUT", "/orders")) and ROWS.get(route) is not ADMIN
]
OF_ONE_ENDPOINT = [route for route in ROUTES if "endpoint_id" in route[1]]
OF_ONE_DELIVERY = [route for route in ROUTES if "delivery_id" in route[1]]
OF_ONE_USER = [
    ("GET", "/orders"),
    ("GET", "/orders/export"),
    ("GET", "/orders/<user_id>"),
    ("DELETE", "/users/<user_id>/personal-data"),
]
WRITING = [route for route in ROUTES if route in BODIES]


def named(routes):
    """Names of routes for pytest."""
    return [f"{method} {rule}" for method, rule in routes]
