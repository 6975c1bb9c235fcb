"""The console: one page that shows every order on its way. Its files are served as they are; nothing is built."""

from hashlib import sha256
from importlib import resources

from flask import Blueprint, Response, abort, request

from app.gateway.console.stream import Live, stream
from app.gateway.security.caller import ADMIN, open_to
from app.gateway.security.connection_limits import Streams
from app.messaging.bus import RequestClient

__all__ = ["Live", "blueprint"]

# Text in UTF-8, all of it.
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(bus: RequestClient, streams: Streams, live: Live) -> Blueprint:
    """`/`, the page, `/console/…`, what it is made of, and `/console/stream`, what it shows."""
    routes = Blueprint("console", __name__)
    files = {file.name: file.read_bytes() for file in resources.files(__name__).joinpath("static").iterdir()}

    @routes.get("/")
    @open_to(None)
    def page() -> Response:
        return _file(files, "index.html")

    @routes.get("/console/<name>")
    @open_to(None)
    def file(name: str) -> Response:
        return _file(files, name)

    routes.add_url_rule("/console/stream", view_func=open_to(ADMIN)(stream(bus, streams, live)), endpoint="stream")
    return routes


def _file(files: dict[str, bytes], name: str) -> Response:
    if name not in files:
        abort(404)
    kind = TYPES[f".{name.rpartition('.')[2]}"]
    found = Response(files[name], content_type=f"{kind}; charset=utf-8")
    found.set_etag(sha256(files[name]).hexdigest()[:20])
    # Asked for anew each time, and answered with 304: no page is ever made of files of two releases.
    found.headers["Cache-Control"] = "no-cache"
    found.headers["Content-Security-Policy"] = POLICY
    found.make_conditional(request)
    return found
