"""`POST /providers/{name}/notifications`: passes what payment providers send on to payments, which verifies it."""

from base64 import b64encode

from flask import Blueprint, Response, g, request

from app.contracts.payments import ReceiveNotifications
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.body import read_bytes
from app.gateway.http.problem_catalogue import PUBLIC
from app.gateway.http.responses import json_response
from app.messaging.bus import RequestClient

# Credentials of callers are no business of a provider.
WITHHELD = frozenset({"authorization", "cookie", "proxy-authorization"})


def blueprint(bus: RequestClient) -> Blueprint:
    """The route, which is public: a notification is verified by its signature."""
    routes = Blueprint("provider_notifications", __name__)

    @routes.post("/providers/<provider>/notifications")
    @Operation(
        "Receive notifications of a payment provider",
        description="For the payment provider only. The body has the provider's own form and is verified by its "
        "signature. A notification is stored before this answers, and repeated ones change nothing.",
        scope=None,
        any_query=True,
        responses={200: schemas.NotificationsReceivedSchema},
        problems=(
            "notification_rejected",
            "unknown_provider",
            "body_too_large",
            "malformed_body",
            "request_timeout",
            "cross_site_request",
            "unavailable",
            *PUBLIC,
        ),
    )
    def receive_notifications(provider: str) -> Response:
        headers = ((name.lower(), value) for name, value in request.headers.items())
        received = bus.request(
            ReceiveNotifications(
                request_id=g.request_id,
                provider=provider,
                headers=tuple(f"{name}: {value}" for name, value in headers if name not in WITHHELD),
                body=b64encode(read_bytes(request)).decode(),
            )
        )
        return json_response({"ok": True, "stored": received.stored, "repeated": received.repeated})

    return routes
