"""A receiver of webhooks on this machine, whose answers a test decides."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]
OK: Answer = (204, {}, b"")


@dataclass
class Received:
    """A request that came, from which port: header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    port: int


@dataclass
class Receiver:
    """Records requests; `answer` is called with each, and with how many came before: None closes the connection."""

    answer: Callable[[Received, int], Answer | None] = lambda _request, _count: OK
    requests: list[Received] = field(default_factory=list)
    url: str = ""
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def record(self, request: Received) -> Answer | None:
        with self._arrived:
            count = len(self.requests)
            self.requests.append(request)
            self._arrived.notify_all()
        return self.answer(request, count)

    def wait_for(self, count: int, seconds: float = 60.0) -> list[Received]:
        """The requests, once there are `count` of them."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests) >= count, seconds), (
                f"{len(self.requests)} of {count} requests came"
            )
            return [*self.requests]


@contextmanager
def running(
    receiver: Receiver, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """Serve HTTP on an address of this machine, and on a free port unless one is named; with `tls` over TLS as `localhost`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            names = {name.lower(): value for name, value in self.headers.items()}
            decided = receiver.record(Received(self.path, names, body, self.client_address[1]))
            if decided is None:
                self.close_connection = True
                return
            status, headers, answer = decided
            self.send_response(status)
            for name, value in {"Content-Length": str(len(answer)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    receiver.url = f"http://{host}:{server.server_port}/hooks"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        receiver.url = f"https://localhost:{server.server_port}/hooks"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def raw(respond: Callable[[socket.socket], None], reads: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection by `respond`, after the head of a request; yields its URL and what it was sent.

    Without `reads` it reads nothing: `respond` does.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []
    threads: list[threading.Thread] = []
    stopping = threading.Event()
    listener.settimeout(0.05)

    def serve() -> None:
        while not stopping.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(10)
                threads.append(threading.Thread(target=handle, args=(connection,), daemon=True))
                threads[-1].start()

    def handle(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if reads:
                seen.append(connection.recv(65_536))
            respond(connection)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hooks", seen
    finally:
        stopping.set()
        server.join()
        for thread in threads:
            thread.join()
        listener.close()
