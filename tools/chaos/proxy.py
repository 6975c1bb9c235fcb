"""A TCP proxy that can cut, swallow, delay, reset and slice what goes through it."""

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
    """What it does to what goes through it."""

    THROUGH = "through"
    CUT = "cut"
    HALF_OPEN = "half-open"
    LATENCY = "2 s latency"
    RESET = "reset"
    SLICED = "small packets"


class Way:
    """One direction of one connection; keeps the order of bytes whatever delays they have."""

    def __init__(self, proxy: "Proxy", writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writer = writer
        self._due = 0.0
        self.silent = False

    async def pump(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                self._pass_on(data)
        self._at(0.0, self._writer.close)

    def _pass_on(self, data: bytes) -> None:
        # What was swallowed once cannot be made up for: such a connection stays silent for good.
        self.silent = self.silent or self._proxy.mode == Mode.HALF_OPEN
        if self.silent:
            return
        if self._proxy.mode == Mode.SLICED:
            for start in range(0, len(data), SLICE):
                self._at(SLICE_SECONDS, self._writer.write, data[start : start + SLICE])
            return
        self._at(LATENCY_SECONDS if self._proxy.mode == Mode.LATENCY else 0.0, self._writer.write, data)

    def _at(self, seconds: float, do, *args) -> None:
        loop = asyncio.get_running_loop()
        if not seconds and self._due <= loop.time():
            do(*args)
            return
        step = SLICE_SECONDS if seconds == SLICE_SECONDS else 1e-5
        self._due = max(self._due + step, loop.time() + seconds)
        loop.call_at(self._due, do, *args)


class Proxy:
    """Listens on `port` and passes on to `target`; set `mode` with `be`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.mode = Mode.THROUGH
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def be(self, mode: Mode) -> None:
        """Behave like this from now on, to old connections and new ones."""
        self._do(self._become(mode))

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _become(self, mode: Mode) -> None:
        self.mode = mode
        if mode == Mode.CUT:
            self._server.close()
        elif not self._server.is_serving():
            await self._listen()
        if mode in (Mode.CUT, Mode.RESET):
            self._drop(reset=mode == Mode.RESET)

    async def _end(self) -> None:
        self._server.close()
        self._drop(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=5) if others else None

    def _drop(self, *, reset: bool) -> None:
        for writer in list(self._writers):
            if reset:
                with suppress(OSError):
                    on = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        self._writers |= writers
        try:
            if self.mode == Mode.RESET:
                self._drop(reset=True)
                return
            onward, answers = await asyncio.open_connection(HOST, self._target)
            writers.add(answers)
            self._writers |= writers
            await asyncio.gather(Way(self, answers).pump(reader), Way(self, writer).pump(onward))
        except OSError:
            pass
        finally:
            self._writers -= writers
            for one in writers:
                one.close()
