"""The address of the client that sent a request, also through trusted proxies."""

from functools import lru_cache
from ipaddress import ip_address, ip_network

from flask import Request

from app.addresses import client_network, unmap_ipv4, unmap_ipv4_network

CACHED_ADDRESSES = 1024
_client_network = lru_cache(CACHED_ADDRESSES)(client_network)


class ClientAddresses:
    """Reads X-Forwarded-For as far as it was written by the proxies in `trusted`: addresses and networks, or `*` for all."""

    def __init__(self, trusted: str) -> None:
        self._trusts_all = trusted.strip() == "*"
        networks = [] if self._trusts_all else [part.strip() for part in trusted.split(",") if part.strip()]
        self._networks = [unmap_ipv4_network(ip_network(network)) for network in networks]

    def address_of(self, request: Request) -> str:
        """The nearest address that is not a trusted proxy; for IPv6 its network, because a client has a whole network."""
        nearest = request.remote_addr or ""
        forwarded = request.environ.get("HTTP_X_FORWARDED_FOR", "")
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
        while hops and self._is_trusted(nearest):
            nearest = _without_port(hops.pop())
        return _client_network(nearest)

    def _is_trusted(self, address: str) -> bool:
        if self._trusts_all:
            return True
        if not address:  # A connection over a Unix socket comes from a proxy on this machine.
            return bool(self._networks)
        try:
            parsed = unmap_ipv4(ip_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _without_port(hop: str) -> str:
    """Some proxies add the port, and put IPv6 addresses in brackets."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0] if "]" in hop else hop
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
