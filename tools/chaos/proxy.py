"""A TCP proxy that can refuse, drop, delay, reset or fragment what it forwards, or drop the answers only."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from enum import StrEnum

HOST = "127.0.0.1"
SLICE = 24
SLICE_SECONDS = 0.0002
LATENCY_SECONDS = 2.0


class Mode(StrEnum):
    """What the proxy does with connections and data."""

    FORWARD = "forward"
    CUT = "cut"
    HALF_OPEN = "half-open"
    LATENCY = "2 s latency"
    RESET = "reset"
    SLICED = "small packets"
    ANSWERS_LOST = "answers lost"


REQUESTS_DROPPED = frozenset({Mode.HALF_OPEN})
ANSWERS_DROPPED = REQUESTS_DROPPED | {Mode.ANSWERS_LOST}


class Direction:
    """One direction of one connection; keeps the order of bytes under any delay."""

    def __init__(self, proxy: "Proxy", writer: asyncio.StreamWriter, dropped_in: frozenset[Mode]) -> None:
        self._proxy = proxy
        self._writer = writer
        self._dropped_in = dropped_in
        self._due = 0.0
        self.silent = False

    async def pump(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self._forward(data)
        self._call_after(0.0, self._writer.close)

    def _forward(self, data: bytes) -> None:
        # Dropped bytes cannot be sent later, so the connection stays silent for ever.
        self.silent = self.silent or self._proxy.mode in self._dropped_in
        if self.silent:
            return
        if self._proxy.mode == Mode.SLICED:
            for start in range(0, len(data), SLICE):
                self._call_after(SLICE_SECONDS, self._writer.write, data[start : start + SLICE])
            return
        self._call_after(LATENCY_SECONDS if self._proxy.mode == Mode.LATENCY else 0.0, self._writer.write, data)

    def _call_after(self, seconds: float, action, *args) -> None:
        loop = asyncio.get_running_loop()
        if not seconds and self._due <= loop.time():
            action(*args)
            return
        step = SLICE_SECONDS if seconds == SLICE_SECONDS else 1e-5
        self._due = max(self._due + step, loop.time() + seconds)
        loop.call_at(self._due, action, *args)


class Proxy:
    """Listens on `port` and forwards to the port `target`; `set_mode` changes what it does."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.mode = Mode.FORWARD
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set_mode(self, mode: Mode) -> None:
        """Changes the mode for open and new connections."""
        self._run(self._set_mode(mode))

    def _run(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set_mode(self, mode: Mode) -> None:
        self.mode = mode
        if mode == Mode.CUT:
            self._server.close()
        elif not self._server.is_serving():
            await self._listen()
        if mode in (Mode.CUT, Mode.RESET):
            self._abort_connections(reset=mode == Mode.RESET)

    async def _close(self) -> None:
        self._server.close()
        self._abort_connections(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=5) if others else None

    def _abort_connections(self, *, reset: bool) -> None:
        for writer in list(self._writers):
            if reset:
                with suppress(OSError):
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        self._writers |= writers
        try:
            if self.mode == Mode.RESET:
                self._abort_connections(reset=True)
                return
            target_reader, target_writer = await asyncio.open_connection(HOST, self._target)
            writers.add(target_writer)
            self._writers |= writers
            await asyncio.gather(
                Direction(self, target_writer, REQUESTS_DROPPED).pump(reader),
                Direction(self, writer, ANSWERS_DROPPED).pump(target_reader),
            )
        except OSError:
            pass
        finally:
            self._writers -= writers
            for writer in writers:
                writer.close()
