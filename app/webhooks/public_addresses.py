"""Which addresses webhooks may be sent to: those of the public internet, and those that an administrator allows. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from app.addresses import unmap_ipv4

Address = IPv4Address | IPv6Address
# IPv6 networks whose addresses lead to the IPv4 address in their last 32 bits, which is checked instead.
NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# Public by their numbers, and yet inside a cloud: Azure answers every virtual machine there.
CLOUD_SERVICES = frozenset({IPv4Address("168.63.129.16")})


@dataclass(frozen=True)
class AddressRules:
    """The addresses that are allowed: public ones, those in `networks`, and with `loopback` this machine's own."""

    loopback: bool = False
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def allow(self, text: str) -> bool:
        """Whether a connection to this address is allowed; text that is no address is not."""
        try:
            address = unmap_ipv4(ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        if address.is_loopback:
            return self.loopback
        return all(_is_public(one) for one in (address, *_embedded(address)))


def _is_public(address: Address) -> bool:
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    special = address.is_multicast or address.is_reserved or address.is_unspecified or site_local
    return address.is_global and not special and address not in CLOUD_SERVICES


def _embedded(address: Address) -> Iterable[IPv4Address]:
    """The IPv4 addresses that a tunnel or a translator takes from an IPv6 address."""
    if isinstance(address, IPv4Address):
        return
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    number = int(address)
    if any(address in network for network in NAT64) or number >> 32 == 0:
        yield IPv4Address(number & 0xFFFFFFFF)
