"""One path for each resource: a trailing slash redirects to the path without it, doubled slashes are not found."""

from urllib.parse import quote

from flask import Flask, Response, abort, current_app, request
from werkzeug.exceptions import NotFound

# Characters of a query that need no percent-encoding in a header.
QUERY_SAFE = "!$%&'()*+,;=:@/?-._~[]"


def install(app: Flask) -> None:
    """Make `app` serve each route under one path only. Call it before authentication is installed."""
    app.before_request(_reject_leading_slashes)
    app.before_request(_redirect_to_canonical_path)


def _reject_leading_slashes() -> None:
    # werkzeug merges leading slashes: //orders would be served as /orders.
    path = request.environ.get("PATH_INFO", "")
    if path and (not path.startswith("/") or path.startswith("//")):
        abort(404)


def _redirect_to_canonical_path() -> Response | None:
    """308, which keeps method and body, from a path with one trailing slash too many."""
    if not isinstance(request.routing_exception, NotFound) or not _has_trailing_slash():
        return None
    path = request.path[:-1]
    if path.endswith("/") or not _is_route(path):
        return None
    query = quote(request.query_string, safe=QUERY_SAFE)
    return Response(status=308, headers={"Location": quote(path) + (f"?{query}" if query else "")})


def _has_trailing_slash() -> bool:
    # An encoded slash, %2F, is a part of the last segment and stays.
    target: str = request.environ.get("RAW_URI", request.path)
    return request.path.endswith("/") and target.partition("?")[0].endswith("/")


def _is_route(path: str) -> bool:
    adapter = current_app.create_url_adapter(request)
    return adapter is not None and bool(adapter.allowed_methods(path))
