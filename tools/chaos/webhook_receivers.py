"""Receivers of webhooks in a chaos run: one that lives, and others that fail in each of their ways."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Self

import httpx
from pymongo.errors import PyMongoError

from tools.auditor.audit import Violation
from tools.auditor.webhooks import TOLD, ReceivedWebhook, audit_webhooks
from tools.chaos.final_state import FinalState
from tools.cluster.mongod import mongo_client
from tools.cluster.processes import free_port
from tools.cluster.programs import LOCAL_HOST

# How long the one that dies and comes back is there, and away.
UP_SECONDS, DOWN_SECONDS = 2.0, 3.0
# A new endpoint is told of changes from about three seconds on.
KNOWN_SECONDS = 4.0
HANG_SECONDS = 30.0
TOLD_SECONDS = 60.0
TIMEOUT = 10.0
# Orders with changes that webhooks have not been told of yet.
UNTOLD = {"changes": {"$exists": True}}


class Behaviour(StrEnum):
    """What a receiver does with what it gets."""

    LIVING = "takes all"
    RECOVERING = "dies and comes back"
    HANGING = "hangs"
    FAILING = "500"
    OVERLOADED = "429 with Retry-After"
    REDIRECTING = "redirects"
    CLOSING = "closes half-way"
    FOLLOWED = "is where the redirect leads"


# These must get everything in the end.
LIVING = (Behaviour.LIVING, Behaviour.RECOVERING)
# Enough for the others to fail all the time. A redirect is the failure of one webhook, so that each of them is repeated.
EVENTS = {behaviour: ["*"] for behaviour in LIVING} | {Behaviour.REDIRECTING: ["order.cancelled"]}
OTHER_EVENTS = ["order.created"]
STATUSES = {
    Behaviour.LIVING: 204,
    Behaviour.RECOVERING: 204,
    Behaviour.FAILING: 500,
    Behaviour.OVERLOADED: 429,
    Behaviour.REDIRECTING: 302,
    Behaviour.FOLLOWED: 204,
}
ALL = tuple(behaviour for behaviour in Behaviour if behaviour != Behaviour.FOLLOWED)


class WebhookReceivers:
    """Runs the receivers from entering to leaving a `with` block, at an address of this machine, and keeps what they got."""

    def __init__(self, behaviours: Sequence[Behaviour] = ALL, host: str = LOCAL_HOST.address) -> None:
        self._behaviours = behaviours
        self._host = host
        self._lock = threading.Lock()
        self._received: list[tuple[float, ReceivedWebhook]] = []
        self._endpoint_ids: list[str] = []
        self._stopping = threading.Event()
        self._server = self._start(free_port())
        self._port_of_recovering = free_port()
        self._recovering = threading.Thread(target=self._die_and_come_back, daemon=True)
        self._to_stay_up = threading.Event()

    def __enter__(self) -> Self:
        self._recovering.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._to_stay_up.set()
        self._recovering.join()
        _stop(self._server)

    def add_endpoints(self, url: str) -> None:
        """Adds an endpoint for each receiver to the server at `url`, and waits until all its workers know them."""
        with httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
            for behaviour in self._behaviours:
                is_recovering = behaviour == Behaviour.RECOVERING
                port = self._port_of_recovering if is_recovering else self._server.server_port
                body = {
                    "url": f"http://{self._host}:{port}/{behaviour.name}",
                    "events": EVENTS.get(behaviour, OTHER_EVENTS),
                }
                endpoint = http.post("/webhooks/endpoints", json=body).raise_for_status().json()["endpoint"]
                if behaviour in LIVING:
                    self._endpoint_ids.append(endpoint["id"])
        time.sleep(KNOWN_SECONDS)

    def wait_until_told(self, uri: str, name: str, seconds: float = TOLD_SECONDS, *, orders: str = "") -> None:
        """Lets the one that dies come back for good, and waits until nothing is pending for the living, at most `seconds`.

        `name` is the database with the deliveries, `orders` that of the orders if it is another one.
        """
        self._to_stay_up.set()
        deadline = time.monotonic() + seconds
        pending = {"endpointId": {"$in": self._endpoint_ids}, "status": {"$ne": "succeeded"}}
        with mongo_client(uri) as client:
            stores = ((client[orders or name].orders, UNTOLD), (client[name].webhook_deliveries, pending))
            while time.monotonic() < deadline:
                with suppress(PyMongoError):
                    if not any(store.find_one(query, {"_id": 1}) for store, query in stores):
                        return
                time.sleep(0.1)

    def violations(self, final: FinalState, aged: Collection[str] = ()) -> list[Violation]:
        """Judges what was received by the orders that a client found at the end.

        The run has changed the stored times of the orders `aged`: their times may differ from webhook to webhook.
        """
        living = [str(behaviour) for behaviour in self._behaviours if behaviour in LIVING]
        with self._lock:
            received = [_without_times(one) if _order_of(one) in aged else one for _, one in self._received]
        followed = [one for one in received if one.receiver == Behaviour.FOLLOWED]
        redirects = [Violation(TOLD, "", f"{one.webhook_id} followed a redirect") for one in followed]
        return [*redirects, *audit_webhooks(received, final.orders, living)]

    @property
    def counts(self) -> dict[str, int]:
        """How many requests each receiver got."""
        with self._lock:
            return dict(Counter(one.receiver for _, one in self._received))

    @property
    def delay(self) -> float:
        """The median of the seconds from a change to its first arrival at the one that takes all; 0 where nothing came."""
        first: dict[str, float] = {}
        with self._lock:
            for at, one in self._received:
                if one.receiver == Behaviour.LIVING:
                    changed = datetime.fromisoformat(one.content["timestamp"]).timestamp()
                    first.setdefault(one.webhook_id, at - changed)
        return median(first.values()) if first else 0.0

    def _die_and_come_back(self) -> None:
        while not self._stopping.is_set():
            server = self._start(self._port_of_recovering)
            self._to_stay_up.wait(UP_SECONDS)
            if self._to_stay_up.is_set():
                self._stopping.wait()
            _stop(server)
            self._to_stay_up.wait(DOWN_SECONDS)

    def _start(self, port: int) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer((self._host, port), _handler(self._record, self._stopping))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def _record(self, behaviour: Behaviour, webhook_id: str, body: bytes) -> None:
        with self._lock:
            self._received.append(
                (time.time(), ReceivedWebhook(receiver=str(behaviour), webhook_id=webhook_id, body=body))
            )


def _order_of(webhook: ReceivedWebhook) -> str:
    """The order that a webhook is about; empty where it is about none."""
    return str(webhook.content["data"].get("order", {}).get("id", ""))


def _without_times(webhook: ReceivedWebhook) -> ReceivedWebhook:
    content = webhook.content
    del content["timestamp"]
    for name in ("createdAt", "updatedAt"):
        del content["data"]["order"][name]
    return replace(webhook, body=json.dumps(content).encode())


def _handler(
    record: Callable[[Behaviour, str, bytes], None], stopping: threading.Event
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A connection for each request: the one that dies must not live on in one that is kept.
        protocol_version = "HTTP/1.0"

        def do_POST(self) -> None:
            behaviour = Behaviour[self.path.strip("/")]
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length // 2 if behaviour == Behaviour.CLOSING else length)
            if behaviour == Behaviour.CLOSING:
                self.close_connection = True
                return
            record(behaviour, self.headers["webhook-id"], body)
            if behaviour == Behaviour.HANGING:
                stopping.wait(HANG_SECONDS)
                self.close_connection = True
                return
            self.send_response(STATUSES[behaviour])
            self.send_header("Content-Length", "0")
            if behaviour == Behaviour.OVERLOADED:
                self.send_header("Retry-After", "1")
            if behaviour == Behaviour.REDIRECTING:
                self.send_header("Location", f"/{Behaviour.FOLLOWED.name}")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
