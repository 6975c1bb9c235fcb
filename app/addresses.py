"""Addresses of clients, proxies and pages in one form."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# The bits before an IPv4 address that is written as an IPv6 address.
MAPPED_BITS = 96
# Of printable ASCII without the backslash, which browsers read as a slash. A host has no user name before it.
WEB_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][!-\[\]-~]*)?",
    re.IGNORECASE | re.ASCII,
)
DEFAULT_PORTS = {"https": 443, "http": 80}
MAX_PORT = 65535


def unmap_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address of `::ffff:192.0.2.7`, as an IPv6 listener names it; any other address unchanged."""
    return getattr(address, "ipv4_mapped", None) or address


def unmap_ipv4_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """The IPv4 network of one that is written as an IPv6 network; any other network unchanged."""
    first = unmap_ipv4(network.network_address)
    mapped = first.version < network.version and network.prefixlen >= MAPPED_BITS
    return IPv4Network((int(first), network.prefixlen - MAPPED_BITS)) if mapped else network


def client_network(address: str) -> str:
    """The address that limits count by: of IPv6 its /64 network, which one client has as a whole; `unknown` if malformed."""
    try:
        found = unmap_ipv4(ip_address(address.partition("%")[0]))
    except ValueError:
        return "unknown"
    network: IPv4Network | IPv6Network = ip_network((found, 64 if found.version == 6 else 32), strict=False)
    return str(network.network_address)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: localhost, or an address that leads nowhere else."""
    try:
        return host == "localhost" or ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def web_origin(url: str) -> str:
    """Scheme, host and port of a page, such as `https://shop.example:443`. Raises ValueError, with one sentence.

    Only https protects what is sent along, so http is for this machine alone.
    """
    parts = WEB_ADDRESS.fullmatch(url)
    if parts is None:
        raise ValueError("Must be an address such as https://shop.example/paid.")
    scheme, host = parts["scheme"].lower(), parts["host"].lower()
    if scheme != "https" and not is_loopback(host):
        raise ValueError("Must begin with https.")
    return f"{scheme}://{host}:{int(parts['port'] or DEFAULT_PORTS[scheme])}"


def is_page_origin(text: str) -> bool:
    """Whether it is an origin exactly as a browser writes it in the header Origin: without the default port of its scheme."""
    try:
        site, _, port = web_origin(text).rpartition(":")
    except ValueError:
        return False
    is_default = int(port) == DEFAULT_PORTS[site.partition(":")[0]]
    return int(port) <= MAX_PORT and text == (site if is_default else f"{site}:{port}")
