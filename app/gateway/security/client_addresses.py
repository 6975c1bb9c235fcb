"""One address for each route: a slash at the end leads to the address without it, doubled slashes lead nowhere."""

from urllib.parse import quote

from flask import Flask, Response, abort, current_app, request
from werkzeug.exceptions import NotFound

# What a query may hold as it is; everything else is percent-encoded on its way into a header.
QUERY = "!$%&'()*+,;=:@/?-._~[]"


def install(app: Flask) -> None:
    """Have `app` serve no route under a second address. Call it before callers are asked who they are."""
    app.before_request(_refuse_odd_paths)
    app.before_request(_redirect_to_plain_path)


def _refuse_odd_paths() -> None:
    # werkzeug takes all slashes at the beginning for one: //orders would be served as /orders.
    path = request.environ.get("PATH_INFO", "")
    if path and (not path.startswith("/") or path.startswith("//")):
        abort(404)


def _redirect_to_plain_path() -> Response | None:
    """308, which keeps method and body, from an address with one slash too many at its end."""
    if not isinstance(request.routing_exception, NotFound) or not _ends_with_slash():
        return None
    plain = request.path[:-1]
    if plain.endswith("/") or not _is_route(plain):
        return None
    query = quote(request.query_string, safe=QUERY)
    return Response(status=308, headers={"Location": quote(plain) + (f"?{query}" if query else "")})


def _ends_with_slash() -> bool:
    # A slash that came as %2F belongs to the last name and is not taken away.
    target: str = request.environ.get("RAW_URI", request.path)
    return request.path.endswith("/") and target.partition("?")[0].endswith("/")


def _is_route(path: str) -> bool:
    adapter = current_app.create_url_adapter(request)
    return adapter is not None and bool(adapter.allowed_methods(path))
