"""Clients that keep a server busy over a few connections: they send without a pause and read whatever comes back.

`python flood.py KIND PORT CONNECTIONS SECONDS FILE` sends until its time is over. FILE holds how many bytes were sent and received
so far, by which a test sees that the flood is still going on. Closed connections are opened again.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

FROM = "127.0.0.2"
SECONDS = 300
BLOCK = 64 * 1024
POST = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"Content-Length: 1000000000000\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
# By kind: what a connection begins with, and what it then repeats.
KINDS = {
    "pipelined requests": (b"", GET + b"\r\n"),
    "pipelined refusals": (b"", b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "an endless body": (POST + ENDLESS, b" "),
    "an endless body that is not read": (GET + ENDLESS, b" "),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n"),
    "chunks that are not read": (GET + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "chunks with long extensions": (CHUNKED, b"1;" + b"a" * 8000 + b"\r\n \r\n"),
}


@dataclass(frozen=True)
class Flood:
    """A flood in a process of its own."""

    process: subprocess.Popen
    progress: Path

    def bytes_moved(self) -> int:
        """How much it has sent and received so far."""
        return int(self.progress.read_text() or "0") if self.progress.exists() else 0

    def goes_on(self) -> bool:
        """Wait until it has sent or received more than by now; false where it has ended."""
        before = self.bytes_moved()
        while self.process.poll() is None:
            if self.bytes_moved() > before:
                return True
            time.sleep(0.01)
        return False


@contextmanager
def flooding(kind: str, port: int, folder: Path, connections: int = 4) -> Iterator[Flood]:
    """Flood a port of this machine for as long as the context lasts; it has begun when the context does."""
    progress = folder / "progress"
    command = [sys.executable, __file__, kind, str(port), str(connections), str(SECONDS), str(progress)]
    process = subprocess.Popen(command)
    flood = Flood(process, progress)
    try:
        assert flood.goes_on()
        yield flood
    finally:
        process.kill()
        process.wait()


class Connection:
    """One connection, which repeats what its kind says."""

    def __init__(self, kind: str, port: int) -> None:
        begin, repeated = KINDS[kind]
        self._port, self._begin = port, begin
        self._block = repeated * max(1, BLOCK // len(repeated))
        self.open()

    def open(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self._port), 10, (FROM, 0))
        self.sock.setblocking(False)
        self._rest = memoryview(self._begin + self._block)

    def send(self) -> int:
        sent = self.sock.send(self._rest)
        self._rest = self._rest[sent:] or memoryview(self._block)
        return sent

    def receive(self) -> int:
        """Throw away what has come; how much it was, 0 where the server has closed."""
        return len(self.sock.recv(BLOCK))


def flood(kind: str, port: int, connections: int, seconds: float, progress: int) -> None:
    """Send over all connections whenever they take something."""
    moved, ends = 0, time.monotonic() + seconds
    with DefaultSelector() as selector:
        for _ in range(connections):
            opened = Connection(kind, port)
            selector.register(opened.sock, EVENT_READ | EVENT_WRITE, opened)
        while time.monotonic() < ends:
            for key, events in selector.select(1):
                moved += _serve(selector, key.data, events)
            os.pwrite(progress, str(moved).encode(), 0)


def _serve(selector: DefaultSelector, opened: Connection, events: int) -> int:
    """Receive and send what can be; how many bytes that were. A closed connection is opened again."""
    moved, alive = 0, True
    try:
        if events & EVENT_READ:
            moved = opened.receive()
            alive = moved > 0
        if alive and events & EVENT_WRITE:
            moved += opened.send()
    except BlockingIOError:
        pass
    except OSError:
        alive = False
    if not alive:
        selector.unregister(opened.sock)
        opened.sock.close()
        opened.open()
        selector.register(opened.sock, EVENT_READ | EVENT_WRITE, opened)
    return moved


if __name__ == "__main__":
    file = os.open(sys.argv[5], os.O_CREAT | os.O_WRONLY, 0o600)
    flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), file)
