"""Sends the notifications of the simulated provider over an unreliable way: lost, doubled, late and in another order.

They are made and signed as the provider makes and signs them, and go to the server's own address for notifications.
"""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from random import Random

import httpx
from pymongo.errors import PyMongoError

from app.contracts.base import Unavailable
from app.payments.providers import entries, signed_notifications
from app.payments.providers.signed_notifications import NotificationMessage
from app.storage.mongodb import Database, Document, Store

LATE_SECONDS = (0.2, 6.0)
REVERSED_COUNT = (2, 5)
POLL_SECONDS = 0.1
RETRY_SECONDS = 0.5
TIMEOUT = 3.0
STOP_SECONDS = 20.0
BATCH = 100
TAKEN, LOST, TWICE, LATE, REVERSED, REFUSED = "taken", "lost", "sent twice", "late", "in another order", "refused"


class UnreliableNotifier(threading.Thread):
    """Takes the notices from the provider's ledger and sends them, except a share of `lost`.

    `url` and `uri` return the server's base URL and the URI of its database now, `name` is the database with the ledger.
    `counts` says how many notifications had which fate, and how many requests the server has taken.
    """

    def __init__(
        self, url: Callable[[], str], uri: Callable[[], str], name: str, random: Random, lost: float = 0.3
    ) -> None:
        super().__init__(name="unreliable-notifier", daemon=True)
        self._url = url
        self._uri = uri
        self._name = name
        self._random = random
        self._lost = lost
        self._due: list[tuple[float, int, NotificationMessage]] = []
        self._numbers = count()
        self._to_reverse: list[NotificationMessage] = []
        self._stopping = threading.Event()
        self._database: Database | None = None
        self._database_uri, self._secret = "", b""
        self.counts: Counter[str] = Counter()

    def stop(self) -> None:
        """Sends what is still to be sent, and ends the thread."""
        self._stopping.set()
        self.join(STOP_SECONDS)

    def run(self) -> None:
        with httpx.Client(timeout=TIMEOUT, trust_env=False) as http:
            while not self._stopping.is_set():
                self._take_notices()
                self._send_due(http, time.monotonic())
                self._stopping.wait(POLL_SECONDS)
            self._take_notices()
            self._flush_reversed()
            deadline = time.monotonic() + STOP_SECONDS / 2
            while self._due and time.monotonic() < deadline:
                self._send_due(http, float("inf"))
                time.sleep(POLL_SECONDS)
        if self._database:
            self._database.close()

    def _take_notices(self) -> None:
        """Removes the notices from the ledger, as a provider that has sent them, and decides about each one."""
        # The database may be down: that is a fault of the run.
        with suppress(PyMongoError, Unavailable), self._ledger().with_deadline() as ledger:
            for entry in ledger.find({"notices.at": {"$exists": True}}).limit(BATCH):
                for notice in entry["notices"]:
                    mine = {"_id": entry["_id"], "notices.id": notice["id"]}
                    if ledger.update_one(mine, {"$pull": {"notices": {"id": notice["id"]}}}).modified_count:
                        self._decide(_message(entry, notice))

    def _ledger(self) -> Store:
        uri = self._uri()
        if self._database is None or uri != self._database_uri:
            if self._database:
                self._database.close()
            self._database, self._database_uri = Database(uri, self._name), uri
        return self._database.collection("ledger", TIMEOUT)

    def _decide(self, message: NotificationMessage) -> None:
        if self._random.random() < self._lost:
            self.counts[LOST] += 1
            return
        fate = self._random.choice(("", TWICE, LATE, REVERSED))
        if fate:
            self.counts[fate] += 1
        if fate == REVERSED:
            self._to_reverse.append(message)
            if len(self._to_reverse) >= self._random.randint(*REVERSED_COUNT):
                self._flush_reversed()
            return
        self._schedule(self._random.uniform(*LATE_SECONDS) if fate == LATE else 0.0, message)
        if fate == TWICE:
            self._schedule(self._random.uniform(0.0, LATE_SECONDS[1]), message)

    def _flush_reversed(self) -> None:
        for message in reversed(self._to_reverse):
            self._schedule(0.0, message)
        self._to_reverse.clear()

    def _schedule(self, seconds: float, message: NotificationMessage) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), message))

    def _send_due(self, http: httpx.Client, until: float) -> None:
        """Sends what is due until then; what was not taken is due again, as real providers repeat it."""
        due = []
        while self._due and self._due[0][0] <= until:
            due.append(heapq.heappop(self._due)[2])
        for message in due:
            status = self._send(http, message)
            if status == httpx.codes.OK:
                self.counts[TAKEN] += 1
            elif httpx.codes.is_client_error(status):
                self.counts[REFUSED] += 1
            else:
                self._schedule(RETRY_SECONDS, message)

    def _send(self, http: httpx.Client, message: NotificationMessage) -> int:
        """Returns the status of the answer; 0 without one."""
        try:
            ledger = self._ledger()
            self._secret = self._secret or ledger.secret("simulated-notifications")
            body, headers = signed_notifications.encode(message, self._secret, ledger.clock.now())
            url = f"{self._url()}/providers/simulated/notifications"
            return http.post(url, content=body, headers=headers).status_code
        except (httpx.TransportError, PyMongoError, Unavailable):
            return 0


def _message(entry: Document, notice: Document) -> NotificationMessage:
    return NotificationMessage(
        id=notice["id"], type=notice["type"], reference=entries.reference(entry), order_id=entry["orderId"]
    )
