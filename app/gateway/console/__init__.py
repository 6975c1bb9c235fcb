"""The console: a page that shows all orders live. Its files are served as they are, without a build step."""

from hashlib import sha256
from importlib import resources

from flask import Blueprint, Response, abort, request

from app.gateway.console.stream import StageFeed, stream_view
from app.gateway.security.caller import ADMIN, requires_scope
from app.gateway.security.stream_limits import StreamLimits
from app.messaging.bus import RequestClient

__all__ = ["StageFeed", "blueprint"]

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(bus: RequestClient, limits: StreamLimits, feed: StageFeed) -> Blueprint:
    """`/`, the page, `/console/<name>`, its files, and `/console/stream`, its data."""
    routes = Blueprint("console", __name__)
    files = {file.name: file.read_bytes() for file in resources.files(__name__).joinpath("static").iterdir()}

    @routes.get("/")
    @requires_scope(None)
    def page() -> Response:
        return _file(files, "index.html")

    @routes.get("/console/<name>")
    @requires_scope(None)
    def file(name: str) -> Response:
        return _file(files, name)

    view = requires_scope(ADMIN)(stream_view(bus, limits, feed))
    routes.add_url_rule("/console/stream", view_func=view, endpoint="stream")
    return routes


def _file(files: dict[str, bytes], name: str) -> Response:
    if name not in files:
        abort(404)
    media_type = TYPES[f".{name.rpartition('.')[2]}"]
    response = Response(files[name], content_type=f"{media_type}; charset=utf-8")
    response.set_etag(sha256(files[name]).hexdigest()[:20])
    # Browsers revalidate each file, so that a page never combines files of two releases.
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Content-Security-Policy"] = POLICY
    response.make_conditional(request)
    return response
