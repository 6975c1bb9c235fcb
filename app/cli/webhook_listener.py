"""Receives webhooks on this machine and prints them: the shortest way to see what is told."""

import hmac
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import click
import httpx
import msgspec

from app.cli.output import Unreachable, report_errors, request_id
from app.contracts.base import Money
from app.contracts.webhooks import (
    TEST_EVENT,
    CreateEndpoint,
    DeleteEndpoint,
    EndpointView,
    FindDelivery,
    InvalidEndpointMember,
    SendTestEvent,
    SignatureScheme,
)
from app.gateway.http.money import format_money
from app.messaging.bus import RequestClient
from app.webhooks.signatures import Secret, signature_header

DESCRIPTION = "orderflow webhooks listen"
LOOPBACK = "127.0.0.1"
MAX_BODY = 1024 * 1024
# Older deliveries are refused, so that nobody repeats one that was seen on its way.
TOLERANCE_SECONDS = 300
# Until the modules that run know of a new endpoint.
READY_SECONDS = 3.0
TEST_SECONDS = 20.0
FORWARD_SECONDS = 10.0
NOT_ALLOWED = (
    "webhooks may not go to this machine over http: set ALLOW_UNSAFE=webhook_http, for the server and for this command "
    "(a server of `make run` without other settings allows it)"
)
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
# Called with the headers and the body of a verified delivery; returns the status to answer with, and what to add to the line.
Handle = Callable[[Mapping[str, str], bytes], tuple[int, str]]


def listen(bus: RequestClient, port: int, user_id: str, forward_to: str, as_json: bool) -> None:
    """Print what is delivered to this machine, until the process is interrupted or terminated."""
    stopping = threading.Event()
    receiver = _Receiver(port, lambda headers, body: _forward(forward_to, headers, body), as_json)
    with _until_signal(stopping), receiver.serving(), _endpoint(bus, receiver.url, user_id) as endpoint:
        receiver.secret = endpoint.secret
        created = time.monotonic()
        _check(bus, endpoint.id, receiver.tested, stopping)
        stopping.wait(READY_SECONDS - (time.monotonic() - created))
        whose = f"the orders of {user_id}" if user_id else "all orders"
        click.echo(f"{receiver.url} is told of {whose} as {endpoint.id}; end with Ctrl-C", err=True)
        if forward_to:
            click.echo(f"{endpoint.secret} verifies what is passed on to {forward_to}", err=True)
        stopping.wait()


class _Receiver:
    """A receiver of webhooks on this machine; a request without a valid signature is refused with 401."""

    def __init__(self, port: int, handle: Handle, as_json: bool) -> None:
        self.secret = ""  # known once the endpoint is added  # nosec B105
        self.tested = threading.Event()
        self._handle = handle
        self._as_json = as_json
        self._output = threading.Lock()
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), self._handler())
        except OSError as exc:
            raise click.ClickException(f"port {port} cannot be used: {exc.strerror}") from exc
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Receive in a thread."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()

    def receive(self, headers: Mapping[str, str], body: bytes) -> int:
        """Print a delivery; returns the status to answer with."""
        if not is_signed(self.secret, headers, body, time.time()):
            click.echo("a request without a valid signature was refused", err=True)
            return 401
        event = msgspec.json.decode(body)
        status, added = self._handle(headers, body)
        if event["type"] == TEST_EVENT:
            self.tested.set()
            return status
        with self._output:
            click.echo(body.decode() if self._as_json else f"{line_of(event)}{added}")
        return status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receive = self.receive

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                length = self.headers.get("Content-Length", "")
                if not length.isdecimal() or int(length) > MAX_BODY:
                    self.send_error(413)
                    return
                status = receive(
                    {name.lower(): value for name, value in self.headers.items()}, self.rfile.read(int(length))
                )
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def is_signed(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether one of the signatures is that of the secret, and the delivery is recent; `now` is in seconds since 1970."""
    message_id, timestamp, signatures = (headers.get(name, "") for name in SIGNED)
    if not secret or not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = Secret(value=secret, created_at=datetime.fromtimestamp(0, UTC))
    wanted = signature_header([key], message_id, int(timestamp), body).encode()
    return any(hmac.compare_digest(one.encode(), wanted) for one in signatures.split(" "))


def line_of(event: Mapping[str, Any]) -> str:
    """One line about an event of an order."""
    order, sequence = event["data"]["order"], event["data"]["sequence"]
    amount = format_money(Money(**order["total"]))
    clock = event["timestamp"][11:23]
    return f"{clock}  {event['type']:<21}  {order['id']}  {sequence:>3}  {order['orderStatus']:<10}  {amount}"


@contextmanager
def _until_signal(stopping: threading.Event) -> Iterator[None]:
    """Set `stopping` when the process is interrupted or terminated, instead of ending at once."""
    former = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _endpoint(bus: RequestClient, url: str, user_id: str) -> Iterator[EndpointView]:
    """An endpoint at `url`, which is deleted in the end."""
    message = CreateEndpoint(
        request_id=request_id(),
        endpoint_id=f"we_{secrets.token_hex(12)}",
        user_id=user_id,
        url=url,
        description=DESCRIPTION,
        events=("*",),
        signature=SignatureScheme.HMAC,
    )
    try:
        made = report_errors(bus.request, message)
    except click.ClickException as exc:
        if isinstance(exc.__cause__, InvalidEndpointMember):
            raise click.ClickException(NOT_ALLOWED) from exc
        raise
    try:
        yield made
    finally:
        report_errors(bus.request, DeleteEndpoint(request_id=request_id(), on_behalf_of="", endpoint_id=made.id))


def _check(bus: RequestClient, endpoint_id: str, tested: threading.Event, stopping: threading.Event) -> None:
    """Have the server send a test event, and wait until it has come. Raises ClickException with what is in the way."""
    origin = {"request_id": request_id(), "on_behalf_of": ""}
    test = report_errors(bus.request, SendTestEvent(**origin, endpoint_id=endpoint_id, event_id=uuid4().hex))
    ends = time.monotonic() + TEST_SECONDS
    while not tested.wait(0.1) and not stopping.is_set():
        found = report_errors(bus.request, FindDelivery(**origin, delivery_id=test.id))
        if found.attempts and found.attempts[-1].error:
            raise click.ClickException(
                f"the server cannot reach this machine ({found.attempts[-1].error}); {NOT_ALLOWED}"
            )
        if time.monotonic() > ends:
            raise Unreachable("no server sends webhooks: is `make run` running, or another one on the same database?")


def _forward(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    """Send a delivery on as it came; without a `url` it counts as taken."""
    if not url:
        return 200, ""
    passed = {name: headers[name] for name in SIGNED} | {"Content-Type": "application/json"}
    try:
        status = httpx.post(url, content=body, headers=passed, timeout=FORWARD_SECONDS).status_code
    except httpx.HTTPError as exc:
        return 502, f"  → {type(exc).__name__}"
    return status, f"  → {status}"
