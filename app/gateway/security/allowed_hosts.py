"""Which names this server answers to, and which sites' pages may change something.

Where nobody is asked who they are, a browser on this machine is all that an attacker needs: a page whose own name is made
to point here (DNS rebinding) could read and change orders, and any page could send requests blindly. A token cannot be
sent so, since no browser adds it by itself: where callers are asked who they are, names count only if some are set.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

from flask import Flask, request

from app.config import Settings
from app.contracts.base import ApplicationError
from app.gateway.security.rate_limits import EXEMPT

AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
READING = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_PAGES = frozenset({"same-origin", "none"})
LONGEST = 255
REMEMBERED = 1024


class MisdirectedRequest(ApplicationError):
    """The request is for another server, or says of none that it is for."""

    code = "misdirected_request"


class CrossSiteRequest(ApplicationError):
    """A page of another site wants to change something."""

    code = "cross_site_request"


def install(app: Flask, settings: Settings) -> None:
    """Have `app` answer to its own names only, where that protects. Call it before callers are asked who they are."""
    if settings.identity and not settings.allowed_hosts:
        return
    answers_to = own_names(settings)

    def check() -> None:
        # Probes and Prometheus come by whatever address they were given, and are told nothing of orders.
        if request.endpoint not in EXEMPT and not answers_to(request.environ.get("HTTP_HOST", "")):
            raise MisdirectedRequest("this server does not answer to that name; ALLOWED_HOSTS says to which it does")
        if not settings.identity and request.method not in READING and _is_cross_site():
            raise CrossSiteRequest("pages of other sites may not change anything here")

    app.before_request(check)


def own_names(settings: Settings) -> Callable[[str], bool]:
    """Tells of a Host header whether it names this server: this machine's own names, where it is published, and those set.

    On all addresses of a machine, whatever address is named may be its own. Names are what rebinding needs, so that
    lets none in.
    """
    published = (settings.published_on or settings.bind).strip("[]").lower()
    names = {"localhost", published, *(name.lower() for name in settings.own_hosts)}
    everywhere = _is_address(published) and ip_address(published).is_unspecified

    @lru_cache(REMEMBERED)
    def answers_to(host: str) -> bool:
        found = AUTHORITY.fullmatch(host) if len(host) <= LONGEST else None
        if found is None:
            return False
        name = found[1].strip("[]").lower().removesuffix(".")
        return name in names or (_is_address(name) and (everywhere or ip_address(name).is_loopback))

    return answers_to


def _is_cross_site() -> bool:
    """Whether a browser says that another site's page sends this; what is no browser says nothing."""
    fetched = request.headers.get("Sec-Fetch-Site")
    if fetched is not None:
        return fetched not in OWN_PAGES
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.environ.get("HTTP_HOST", "").lower()


def _is_address(name: str) -> bool:
    try:
        return bool(ip_address(name))
    except ValueError:
        return False
