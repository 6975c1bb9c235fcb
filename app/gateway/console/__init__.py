"""The console: pages that show orders live, one order, an operator's desk, and webhooks.

Its files are served as they are, without a build step.
"""

from collections.abc import Callable
from hashlib import sha256
from importlib import resources

from flask import Blueprint, Response, abort, render_template, request
from werkzeug.exceptions import NotFound

from app.config import Settings
from app.gateway.console.stream import StageFeed, stream_view
from app.gateway.http.problems import http_error
from app.gateway.http.responses import JSON
from app.gateway.security.caller import ADMIN, requires_scope
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient

__all__ = ["StageFeed", "blueprint"]

HTML = "text/html"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(bus: RequestClient, limits: StreamLimits, feed: StageFeed, settings: Settings) -> Blueprint:
    """`/` and the pages under `/console/`, `/console/<name>`, their files, and `/console/stream`, the live data.

    Without webhooks there are no pages of them, and no page has a link to them. Only what the provider of `settings` does is offered as
    the outcome of an order's payment.
    """
    routes = Blueprint("console", __name__, template_folder="templates")
    offered = {
        "webhooks": settings.webhooks_wanted,
        "demonstrations": settings.demonstrations,
        "simulated": settings.payment_provider == "simulated",
    }
    files = {file.name: file.read_bytes() for file in resources.files(__name__).joinpath("static").iterdir()}

    def page(template: str) -> Response:
        return _response(render_template(template, **offered).encode(), HTML)

    @routes.get("/")
    @requires_scope(None)
    def orders_page() -> Response:
        return page("orders.html")

    # The page is the same for every order: its script reads the id from the address.
    @routes.get("/console/orders/<name>")
    @requires_scope(None)
    def order_page(**_: str) -> Response:
        return page("order.html")

    @routes.get("/console/desk")
    @requires_scope(None)
    def desk_page() -> Response:
        return page("desk.html")

    if settings.webhooks_wanted:
        _add_webhook_pages(routes, page)

    @routes.get("/console/<name>")
    @requires_scope(None)
    def file(name: str) -> Response:
        if name not in files:
            abort(404)
        return _response(files[name], TYPES[f".{name.rpartition('.')[2]}"])

    # Of the whole application: an address that has nothing belongs to no blueprint.
    routes.app_errorhandler(404)(_missing)
    view = requires_scope(ADMIN)(stream_view(bus, limits, feed))
    routes.add_url_rule("/console/stream", view_func=view, endpoint="stream")
    return routes


def _add_webhook_pages(routes: Blueprint, page: Callable[[str], Response]) -> None:
    @routes.get("/console/webhooks")
    @requires_scope(None)
    def webhooks_page() -> Response:
        return page("webhooks.html")

    # As with orders, the scripts read the ids from the address.
    @routes.get("/console/webhooks/<name>")
    @requires_scope(None)
    def endpoint_page(**_: str) -> Response:
        return page("endpoint.html")

    @routes.get("/console/deliveries/<name>")
    @requires_scope(None)
    def delivery_page(**_: str) -> Response:
        return page("delivery.html")


def _missing(error: NotFound) -> Response:
    """The problem of an address that has nothing; among the console's, as a page where a browser asks for one."""
    response = http_error(error)
    if not request.path.startswith("/console/"):
        return response
    response.headers["Vary"] = "Accept"
    if request.accept_mimetypes.best_match([JSON, HTML]) == HTML:
        response.set_data(render_template("missing.html"))
        response.content_type = f"{HTML}; charset=utf-8"
        response.headers["Content-Security-Policy"] = POLICY
    return response


def _response(content: bytes, media_type: str) -> Response:
    response = Response(content, content_type=f"{media_type}; charset=utf-8")
    response.set_etag(sha256(content).hexdigest()[:20])
    # Browsers revalidate each file, so that a page never combines files of two releases.
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = POLICY
    response.make_conditional(request)
    return response
