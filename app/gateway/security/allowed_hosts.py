"""The host names that this server serves, and the sites whose pages may send changes.

Without authentication, a browser on this machine is all that an attacker needs: a page whose own host name is made to
resolve to this machine (DNS rebinding) could read and change orders, and any page could send requests without seeing the
responses. With authentication neither works, because browsers do not add bearer tokens by themselves; host names are then
checked only if ALLOWED_HOSTS is set.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

from flask import Flask, request

from app.config import Settings
from app.contracts.base import ApplicationError
from app.gateway.security.rate_limits import EXEMPT_ENDPOINTS

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SAME_SITE = frozenset({"same-origin", "none"})
MAX_HOST_LENGTH = 255
CACHED_HOSTS = 1024


class MisdirectedRequest(ApplicationError):
    """The Host header is missing or names another server."""

    code = "misdirected_request"


class CrossSiteRequest(ApplicationError):
    """A page of another site tries to change something."""

    code = "cross_site_request"


def install(app: Flask, settings: Settings) -> None:
    """Make `app` serve its own host names only, if that protects. Call it before authentication is installed."""
    if settings.identity and not settings.allowed_hosts:
        return
    is_own_host = own_hosts(settings)

    def check() -> None:
        # Probes and Prometheus use any address of this machine, and their responses contain no orders.
        if request.endpoint not in EXEMPT_ENDPOINTS and not is_own_host(request.environ.get("HTTP_HOST", "")):
            raise MisdirectedRequest("this server does not serve that host name; see ALLOWED_HOSTS")
        if not settings.identity and request.method not in SAFE_METHODS and _is_cross_site(settings.page_origins):
            raise CrossSiteRequest("pages of other sites may not change anything here")

    app.before_request(check)


def own_hosts(settings: Settings) -> Callable[[str], bool]:
    """Returns whether a Host header names this server: localhost, the published host, or a configured name.

    A server that listens on all addresses accepts every IP address: DNS rebinding needs a name.
    """
    published = (settings.published_on or settings.bind).strip("[]").lower()
    names = {"localhost", published, *(name.lower() for name in settings.host_names)}
    all_addresses = _is_address(published) and ip_address(published).is_unspecified

    @lru_cache(CACHED_HOSTS)
    def is_own_host(host: str) -> bool:
        match = AUTHORITY.fullmatch(host) if len(host) <= MAX_HOST_LENGTH else None
        if match is None:
            return False
        name = match[1].strip("[]").lower().removesuffix(".")
        return name in names or (_is_address(name) and (all_addresses or ip_address(name).is_loopback))

    return is_own_host


def _is_cross_site(trusted: frozenset[str]) -> bool:
    """Whether a browser says that a page of another site sent the request; other clients send no such headers.

    A page of a trusted origin is none: it may send what it likes, as CORS_ORIGINS says.
    """
    if request.environ.get("HTTP_ORIGIN") in trusted:
        return False
    fetch_site = request.headers.get("Sec-Fetch-Site")
    if fetch_site is not None:
        return fetch_site not in SAME_SITE
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.environ.get("HTTP_HOST", "").lower()


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False
