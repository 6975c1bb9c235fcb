"""Network addresses of clients and proxies in one form."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# The bits before an IPv4 address that is written as an IPv6 address.
MAPPED_BITS = 96


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
