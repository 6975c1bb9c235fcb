"""What the connections of one gevent worker share: the time of its event loop, and the number of connections."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import gevent
from gevent.event import Event

from app.addresses import client_network, unmap_ipv4, unmap_ipv4_network
from app.server.sockets import DeadlineSocket

Network = IPv4Network | IPv6Network

# How long requests may follow each other without a pause. gevent's own loop lets callbacks run for as long.
SLICE_SECONDS = 0.005
MIN_PAUSE_SECONDS = 0.001
MAX_PAUSE_SECONDS = 0.02
# From this share of a worker's connections on, each new one evicts the one that has waited longest for its client.
EVICTION_SHARE = 0.9
ALL_NETWORKS = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class FairScheduler:
    """Makes connections whose clients never pause yield to the rest of the event loop.

    A greenlet whose socket is always ready never yields by itself, and relays and payments run in the same loop.
    A request that follows another at once runs until the connections have run for `SLICE_SECONDS` without a wait.
    Clients that send several requests ahead, or a body in many pieces, run one at a time, first come, first served. Each of
    these turns begins with a pause as long as the connection ran before, so that all such connections together use at most
    half of the worker's time. The pause is a timer and not `sleep(0)`, so that network events are handled first as well.
    """

    def __init__(self) -> None:
        self._last_turn = Event()
        self._last_turn.set()
        self._yielded_at = 0.0

    def record_wait(self, now: float) -> None:
        """Note that a connection waited for its client until `now` on the monotonic clock, while others ran."""
        self._yielded_at = now

    def yield_if_due(self) -> None:
        """Run everything else that is ready if no connection has waited for `SLICE_SECONDS`."""
        if time.monotonic() - self._yielded_at > SLICE_SECONDS:
            gevent.sleep(0)
            self._yielded_at = time.monotonic()

    def wait_for_turn(self, ran_seconds: float) -> None:
        """Wait for the turn of this connection, which has run for `ran_seconds` since its last wait."""
        previous, mine = self._last_turn, Event()
        self._last_turn = mine
        try:
            previous.wait()
            gevent.sleep(min(max(ran_seconds, MIN_PAUSE_SECONDS), MAX_PAUSE_SECONDS))
        finally:
            mine.set()


class ConnectionRegistry:
    """The open connections of a worker: limits them per address, and evicts one when they are nearly too many.

    Connections from trusted proxies carry many clients: they are neither counted by address nor evicted.
    """

    def __init__(self, max_open: int, per_address: int, trusted: Sequence[Network]) -> None:
        """`trusted` are the networks of the proxies."""
        self._evict_from = max_open * EVICTION_SHARE
        self._per_address = per_address
        self._trusted = [unmap_ipv4_network(network) for network in trusted]
        self._open = 0
        self._by_address: Counter[str] = Counter()
        self._untrusted: set[DeadlineSocket] = set()

    @contextmanager
    def register(self, sock: DeadlineSocket, addr: Any) -> Iterator[bool]:
        """Count the connection for as long as the context lasts. Yields false if its address has too many."""
        address = self._address_key(addr)
        if address and self._by_address[address] >= self._per_address:
            yield False
            return
        self._add(sock, address)
        try:
            yield True
        finally:
            self._remove(sock, address)

    def _add(self, sock: DeadlineSocket, address: str) -> None:
        if self._open >= self._evict_from:
            self._evict_longest_waiting()
        self._open += 1
        if address:
            self._by_address[address] += 1
            self._untrusted.add(sock)

    def _remove(self, sock: DeadlineSocket, address: str) -> None:
        self._open -= 1
        self._untrusted.discard(sock)
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def _evict_longest_waiting(self) -> None:
        waiting = [sock for sock in self._untrusted if sock.waiting_since]
        if waiting:
            min(waiting, key=lambda sock: sock.waiting_since).abort()

    def _address_key(self, addr: Any) -> str:
        """The key that the client counts under; empty for a trusted proxy, and for a Unix socket, which only proxies use."""
        if not isinstance(addr, tuple):
            return ""
        address = unmap_ipv4(ip_address(addr[0].partition("%")[0]))
        return "" if any(address in network for network in self._trusted) else client_network(addr[0])
