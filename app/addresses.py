"""Network addresses of clients and proxies, each in one form."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# Of an IPv6 address that holds an IPv4 one, so many bits come before it.
MAPPED_BITS = 96


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address as itself where an IPv6 listener has it as ::ffff:192.0.2.7; any other as it is."""
    return getattr(address, "ipv4_mapped", None) or address


def unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """A network of IPv4 addresses as itself where it is written as one of IPv6; any other as it is."""
    first = unmapped(network.network_address)
    mapped = first.version < network.version and network.prefixlen >= MAPPED_BITS
    return IPv4Network((int(first), network.prefixlen - MAPPED_BITS)) if mapped else network


def grouped(address: str) -> str:
    """The address that a client counts by: of IPv6 the network, since one client has all of it; `unknown` for what is none."""
    try:
        found = unmapped(ip_address(address.partition("%")[0]))
    except ValueError:
        return "unknown"
    network: IPv4Network | IPv6Network = ip_network((found, 64 if found.version == 6 else 32), strict=False)
    return str(network.network_address)
