"""What the connections of one worker share: the turns of its loop, and its places."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import gevent
from gevent.event import Event

from app.addresses import grouped, unmapped, unmapped_network
from app.server.sockets import DeadlineSocket

Network = IPv4Network | IPv6Network

# Seconds that requests may follow each other at once: gevent's own loop lets callbacks run for as long.
SLICE = 0.005
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 0.02
# The share of a worker's places from which on a new connection makes the one go that has waited for its client the longest.
FULL = 0.9
EVERYONE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


class Turns:
    """When connections whose clients never pause let others run.

    A greenlet whose socket is always ready never gives way by itself, and relays and payments run in the same loop. A request that
    follows another at once goes on, but not for longer than `SLICE` without a wait. Clients that send more than one request ahead,
    or a body in many pieces, go on one at a time, in the order in which they came. Each of these turns begins with a pause as
    long as the connection ran before, so all such connections together have at most half of the worker's time, however many
    they are. The pause is a timer's, not `sleep(0)`: everything else that is ready runs first, what waits for the network
    included.
    """

    def __init__(self) -> None:
        self._last = Event()
        self._last.set()
        self._others_ran = 0.0

    def waited(self, now: float) -> None:
        """A connection had to wait for its client, until `now` on the monotonic clock: others have run meanwhile."""
        self._others_ran = now

    def give_way(self) -> None:
        """If no connection has waited for its client for a while, return when everything else that is ready has run."""
        if time.monotonic() - self._others_ran > SLICE:
            gevent.sleep(0)
            self._others_ran = time.monotonic()

    def take_turn(self, ran: float) -> None:
        """Return when it is this connection's turn again; it `ran` for so many seconds."""
        before, mine = self._last, Event()
        self._last = mine
        try:
            before.wait()
            gevent.sleep(min(max(ran, SHORTEST_PAUSE), LONGEST_PAUSE))
        finally:
            mine.set()


class Places:
    """The places of a worker: how many connections each address has, and which one goes when the places run out.

    Connections from trusted proxies carry many clients: they are not counted by address, and never cut off.
    """

    def __init__(self, most: int, per_address: int, trusted: Sequence[Network]) -> None:
        """`trusted` are the networks of the proxies."""
        self._most = most * FULL
        self._per_address = per_address
        self._trusted = [unmapped_network(each) for each in trusted]
        self._taken = 0
        self._by_address: Counter[str] = Counter()
        self._strangers: set[DeadlineSocket] = set()

    @contextmanager
    def place(self, sock: DeadlineSocket, addr: Any) -> Iterator[bool]:
        """A place for as long as the context lasts; false where the address has as many as one may have."""
        address = self._counted(addr)
        if address and self._by_address[address] >= self._per_address:
            yield False
            return
        self._enter(sock, address)
        try:
            yield True
        finally:
            self._leave(sock, address)

    def _enter(self, sock: DeadlineSocket, address: str) -> None:
        if self._taken >= self._most:
            self._cut_off_longest_waiting()
        self._taken += 1
        if address:
            self._by_address[address] += 1
            self._strangers.add(sock)

    def _leave(self, sock: DeadlineSocket, address: str) -> None:
        self._taken -= 1
        self._strangers.discard(sock)
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]

    def _cut_off_longest_waiting(self) -> None:
        waiting = [sock for sock in self._strangers if sock.waiting_since]
        if waiting:
            min(waiting, key=lambda sock: sock.waiting_since).cut_off()

    def _counted(self, addr: Any) -> str:
        """What the client's address counts by; nothing for a trusted proxy, nor over a socket file, where only proxies come."""
        if not isinstance(addr, tuple):
            return ""
        found = unmapped(ip_address(addr[0].partition("%")[0]))
        return "" if any(found in network for network in self._trusted) else grouped(addr[0])
