"""What finds the route of a request, made with a host that is parsed once and not for each request of a client."""

from functools import lru_cache
from typing import Any

from flask import Flask
from flask.wrappers import Request
from werkzeug.routing import MapAdapter
from werkzeug.wsgi import get_host

CACHED_HOSTS = 1024


def install(app: Flask) -> None:
    """Make `app` find routes of requests in its own way, which has the same results as Flask's."""
    flasks_own = app.create_url_adapter

    @lru_cache(CACHED_HOSTS)
    def server_name(scheme: str, header: str | None, name: str, port: str) -> tuple[str, str]:
        """The request's host, and its name in the form of the DNS."""
        environ = {"wsgi.url_scheme": scheme, "SERVER_NAME": name, "SERVER_PORT": port}
        host = get_host(environ if header is None else {**environ, "HTTP_HOST": header})
        return host, app.url_map.bind(host).server_name

    def create_url_adapter(request: Request | None) -> MapAdapter | None:
        if request is None or app.config["TRUSTED_HOSTS"] or app.config["SERVER_NAME"]:
            return flasks_own(request)
        environ = request.environ
        if "HTTP_UPGRADE" in environ:
            return flasks_own(request)
        scheme = environ["wsgi.url_scheme"]
        names = environ.get("HTTP_HOST"), environ["SERVER_NAME"], environ["SERVER_PORT"]
        request.host, name = server_name(scheme, *names)
        return MapAdapter(
            app.url_map,
            name,
            _decoded(environ, "SCRIPT_NAME") or "/",
            app.url_map.default_subdomain or "",
            scheme,
            _decoded(environ, "PATH_INFO"),
            environ["REQUEST_METHOD"],
            _decoded(environ, "QUERY_STRING"),
        )

    app.create_url_adapter = create_url_adapter  # type: ignore[method-assign]


def _decoded(environ: dict[str, Any], name: str) -> str:
    """A text of the environment, whose bytes WSGI has as characters."""
    text: str = environ.get(name, "")
    return text if text.isascii() else text.encode("latin1").decode(errors="replace")
