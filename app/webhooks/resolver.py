"""Looks up the addresses of a host in DNS, within a time."""

import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest

import dns.resolver
from dns.exception import DNSException

LOCALHOST = ("127.0.0.1", "::1")
RECORDS = ("A", "AAAA")
# Returns the addresses of a host within so many seconds, or raises NameNotFound.
Resolve = Callable[[str, float], list[str]]


class NameNotFound(Exception):
    """The host's name has no address, or the answer did not come in time."""


class Resolver:
    """Asks the name servers that `make` names: by default those of this machine, as they are at that moment.

    Not the system's resolver: that has no time limit, and under gevent the few threads in which it hangs also look up the
    database. It also reads numbers such as 0x7f.1 as addresses.
    """

    def __init__(self, make: Callable[[], dns.resolver.Resolver] = dns.resolver.Resolver) -> None:
        self._make = make

    def __call__(self, host: str, seconds: float) -> list[str]:
        """The host's addresses, IPv4 and IPv6 in turns. Raises NameNotFound."""
        with suppress(ValueError):
            ip_address(host.partition("%")[0])
            return [host]
        if host.rstrip(".").lower() == "localhost":
            return [*LOCALHOST]
        ends = time.monotonic() + seconds
        families = [self._addresses(host, record, ends - time.monotonic()) for record in RECORDS]
        found = [address for address in chain.from_iterable(zip_longest(*families)) if address]
        if not found:
            raise NameNotFound
        return found

    def _addresses(self, host: str, record: str, seconds: float) -> list[str]:
        """The addresses of one family; none where that family cannot be looked up, since the other one may be enough."""
        try:
            return [answer.to_text() for answer in self._make().resolve(host, record, lifetime=max(seconds, 0.0))]
        except (DNSException, OSError):
            return []
