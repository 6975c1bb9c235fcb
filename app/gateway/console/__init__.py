"""The console: one page that shows every order on its way. Its files are served as they are; nothing is built."""

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from app.bus import Asks
from app.gateway.caller import ADMIN, open_to
from app.gateway.console.stream import Live, stream
from app.gateway.streams import Streams

__all__ = ["Live", "blueprint"]

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(bus: Asks, streams: Streams, live: Live) -> Blueprint:
    """`/`, the page, `/console/…`, what it is made of, and `/console/stream`, what it shows."""
    routes = Blueprint("console", __name__)

    @routes.get("/")
    @open_to(None)
    def page() -> Response:
        return _file("index.html")

    @routes.get("/console/<name>")
    @open_to(None)
    def file(name: str) -> Response:
        return _file(name)

    routes.add_url_rule("/console/stream", view_func=open_to(ADMIN)(stream(bus, streams, live)), endpoint="stream")
    return routes


def _file(name: str) -> Response:
    # Asked for anew each time, and answered with 304: no page is ever made of files of two releases.
    found = send_from_directory(STATIC, name)
    found.headers["Cache-Control"] = "no-cache"
    found.headers["Content-Security-Policy"] = POLICY
    return found
