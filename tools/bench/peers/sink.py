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
from contextlib import suppress
from datetime import datetime

KEPT = 5000
HANG = "/hang"
TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TIMESTAMP = re.compile(rb'"timestamp":"([^"]+)"')


class Sink:
    """Counts what comes."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = defaultdict(int)
        self._delays: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if path == HANG:
                    await asyncio.sleep(3600)
                writer.write(self._answer(path, body))
                await writer.drain()
        writer.close()

    def _answer(self, path: str, body: bytes) -> bytes:
        if not body:
            text = json.dumps(
                {path: {"count": count, "ms": [*self._delays[path]]} for path, count in self._counts.items()}
            )
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text.encode())
        self._counts[path] += 1
        found = TIMESTAMP.search(body)
        if found:
            changed = datetime.fromisoformat(found[1].decode()).timestamp()
            self._delays[path].append((time.time() - changed) * 1000)
        return TAKEN


async def main(port: int) -> None:
    """Serves until it is killed."""
    server = await asyncio.start_server(Sink().serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
