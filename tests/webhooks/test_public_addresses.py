"""Which addresses webhooks may be sent to."""

from ipaddress import ip_network

import pytest

from app.webhooks.public_addresses import AddressRules

REFUSED = {
    "this machine": "127.0.0.1",
    "this machine, another number": "127.8.9.1",
    "no address": "0.0.0.0",
    "private, class A": "10.1.2.3",
    "private, class B": "172.16.0.1",
    "private, end of class B": "172.31.255.255",
    "private, class C": "192.168.1.1",
    "link-local, where clouds have credentials": "169.254.169.254",
    "carrier-grade NAT": "100.64.0.1",
    "Alibaba's metadata": "100.100.100.200",
    "Azure's services": "168.63.129.16",
    "multicast": "224.0.0.1",
    "routed multicast": "233.252.0.1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "documentation": "192.0.2.1",
    "benchmarks": "198.18.0.1",
    "this machine, IPv6": "::1",
    "no address, IPv6": "::",
    "link-local, IPv6": "fe80::1",
    "link-local with a zone": "fe80::1%eth0",
    "unique local": "fd00:ec2::254",
    "site-local": "fec0::1",
    "multicast, IPv6": "ff0e::1",
    "documentation, IPv6": "2001:db8::1",
    "IPv4-mapped loopback": "::ffff:127.0.0.1",
    "IPv4-mapped private": "::ffff:10.0.0.1",
    "IPv4-compatible loopback": "::7f00:1",
    "6to4 of a private address": "2002:0a00:0001::1",
    "NAT64 of the metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64 of loopback": "64:ff9b:1::7f00:1",
    "Teredo": "2001:0:0a00:1::f5ff:fffe",
    "no address at all": "internal",
    "empty": "",
}


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_an_address_that_is_not_public_is_refused(address):
    assert not AddressRules().allow(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2a00:1450::1"])
def test_a_public_address_is_allowed(address):
    assert AddressRules().allow(address)


def test_loopback_is_allowed_only_on_request():
    rules = AddressRules(loopback=True)
    assert all(map(rules.allow, ("127.0.0.1", "::1", "::ffff:127.0.0.1")))
    assert not any(map(rules.allow, ("10.0.0.1", "169.254.169.254", "0.0.0.0")))


def test_an_administrator_allows_networks():
    rules = AddressRules(networks=(ip_network("10.1.0.0/16"), ip_network("fd12::/16")))
    assert all(map(rules.allow, ("10.1.2.3", "::ffff:10.1.2.3", "fd12::7", "8.8.8.8")))
    assert not any(map(rules.allow, ("10.2.0.1", "127.0.0.1", "fd13::7")))
