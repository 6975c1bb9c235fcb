"""A receiver of webhooks that costs next to nothing: it answers 204 and counts; `/hang` never answers.

`python -m tools.bench.peers.sink PORT`. `GET /received` has, by path, how many webhooks came and the milliseconds from the change to
the arrival of each of the last ones.
"""

import asyncio
import json
import re
import sys
import time
from collections import defaultdict, deque
from datetime import datetime

import uvloop

KEPT = 5000
HANG = b"/hang"
RECEIVED = b"/received"
END = b"\r\n\r\n"
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TIMESTAMP = re.compile(rb'"timestamp":"([^"]+)"')


class Arrivals:
    """What came to a path: how many webhooks, and the body of each of the last ones with its time in seconds since 1970."""

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[tuple[float, bytes]] = deque(maxlen=KEPT)

    def add(self, body: bytes) -> None:
        """Count a webhook. Its delay is computed when somebody asks for it: the sink shares the processors with the server."""
        self.count += 1
        self._last.append((time.time(), body))

    @property
    def delays(self) -> list[float]:
        """The milliseconds from the change to the arrival of each of the last ones."""
        return [
            (at - datetime.fromisoformat(found[1].decode()).timestamp()) * 1000
            for at, body in self._last
            if (found := TIMESTAMP.search(body))
        ]


class SinkConnection(asyncio.Protocol):
    """Takes the requests of one connection."""

    def __init__(self, arrivals: dict[bytes, Arrivals]) -> None:
        self._arrivals = arrivals
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (body_at := self._received.find(END) + len(END)) >= len(END):
            length = LENGTH.search(self._received, 0, body_at)
            ends = body_at + (int(length[1]) if length else 0)
            if len(self._received) < ends:
                return
            path, body = self._received.split(b" ", 2)[1], self._received[body_at:ends]
            self._received = self._received[ends:]
            self._take(path, body)

    def _take(self, path: bytes, body: bytes) -> None:
        if path == RECEIVED:
            self._transport.write(self._answer())
            return
        self._arrivals[path].add(body)
        if path != HANG:
            self._transport.write(TAKEN)

    def _answer(self) -> bytes:
        text = json.dumps(
            {path.decode(): {"count": one.count, "ms": one.delays} for path, one in self._arrivals.items()}
        ).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


async def main(port: int) -> None:
    """Serves until it is killed."""
    arrivals: dict[bytes, Arrivals] = defaultdict(Arrivals)
    server = await asyncio.get_running_loop().create_server(lambda: SinkConnection(arrivals), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
