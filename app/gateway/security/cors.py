"""Pages of other origins: which may read responses, and what they may send (CORS, as the Fetch standard defines it).

Tokens are in a header that pages set themselves, and there are no cookies, so credentials in the standard's sense are never
allowed: a browser adds nothing to a request of another page by itself.
"""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, request

from app.config import Settings

Wsgi = Callable[[Any, Any], Any]
WsgiHeaders = list[tuple[str, str]]

# Chromium keeps no answer for longer.
MAX_AGE_SECONDS = 7200
# Read by every route; the others are those that the routes declare.
REQUEST_HEADERS = ("Authorization", "Content-Type", "X-Request-Id", "traceparent")
RESPONSE_HEADERS = (
    *("Allow", "Content-Disposition", "RateLimit", "RateLimit-Policy", "Retry-After"),
    *("WWW-Authenticate", "X-Request-Id"),
)


def install(app: Flask, settings: Settings) -> None:
    """Let pages of the listed origins use `app`, if there are any. Call it after all routes are added, and before authentication
    is installed, because a browser asks without a token what it may send.
    """
    if not settings.page_origins:
        return
    allowed, exposed = _preflight_headers(app), ", ".join(_response_headers(app))

    def answer_preflight() -> Response | None:
        if request.method != "OPTIONS" or "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in request.environ:
            return None
        # To a page of another origin this says nothing, so that its browser sends nothing.
        return Response(status=204, headers=allowed if _origin(request.environ) in settings.page_origins else {})

    app.before_request(answer_preflight)
    app.wsgi_app = _with_origin(app.wsgi_app, settings.page_origins, exposed)  # type: ignore[assignment]


def _origin(environ: dict[str, Any]) -> str:
    origin: str = environ.get("HTTP_ORIGIN", "")
    return origin


def _with_origin(serve: Wsgi, origins: frozenset[str], exposed: str) -> Wsgi:
    """The same WSGI application; every response, also an error, says whether a page of the request's origin may read it."""

    def respond(environ: Any, start_response: Any) -> Any:
        origin = _origin(environ)
        added: WsgiHeaders = []
        if origin in origins:
            added = [("Access-Control-Allow-Origin", origin), ("Access-Control-Expose-Headers", exposed)]

        def start(status: str, headers: WsgiHeaders, *more: Any) -> Any:
            return start_response(status, [*_varying(headers), *added], *more)

        return serve(environ, start)

    return respond


def _varying(headers: WsgiHeaders) -> WsgiHeaders:
    """The headers with one Vary that names Origin: a cache must keep no response of one origin for another."""
    varies = [value for name, value in headers if name == "Vary"]
    others = [pair for pair in headers if pair[0] != "Vary"]
    return [*others, ("Vary", ", ".join([*varies, "Origin"]))]


def _preflight_headers(app: Flask) -> dict[str, str]:
    methods = {method for rule in app.url_map.iter_rules() for method in rule.methods or ()} - {"OPTIONS"}
    declared = (parameter for operation in _operations(app) for parameter in operation.parameters)
    headers = {*REQUEST_HEADERS, *(parameter.name for parameter in declared if parameter.where == "header")}
    return {
        "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
        "Access-Control-Allow-Headers": ", ".join(sorted(headers)),
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
    }


def _response_headers(app: Flask) -> list[str]:
    return sorted({*RESPONSE_HEADERS, *(name for operation in _operations(app) for name in operation.headers)})


def _operations(app: Flask) -> Iterable[Any]:
    return (view.operation for view in app.view_functions.values() if hasattr(view, "operation"))
