"""Clients as they should be: they repeat what was not clearly answered, with the same Idempotency-Key.

They cancel orders at all moments and ask for refunds of drawn amounts, some of them of more than is left.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

import httpx

TIMEOUT = 5.0
PAUSE = 0.15
GIVE_UP_SECONDS = 30.0
FOLLOW_SECONDS = 5.0
RECENT = 40
RECONNECT = 10
# When after an order was placed its payment is likely to be under way.
CALL_SECONDS = (0.0, 0.5)
# By what clients write: minor units and currency.
TOTALS = {"RM 99": (9900, "MYR"), "RM 12.50": (1250, "MYR"), "USD 7.05": (705, "USD"), "JPY 1200": (1200, "JPY")}
PLACED = ("POST order", "201")
PRODUCTS = ("1", "1", "1", "1", "1", "1", "1", "2", "2", "3")


@dataclass(frozen=True)
class Sent:
    """One request and what it was answered with, by the monotonic clock."""

    what: str
    answer: str
    began: float
    ended: float

    @property
    def took(self) -> float:
        """How many seconds the answer took."""
        return self.ended - self.began


@dataclass(frozen=True)
class Placed:
    """An acknowledged order and its total in minor units."""

    order_id: str
    value: int
    currency: str


@dataclass
class Book:
    """What clients were answered, all of them together.

    `refunded` has the value of each acknowledged refund, by the ids of the order and of the refund; `asked` and
    `overdrawn` count the refunds that were asked for, and those refused because they exceed the balance.
    """

    acknowledged: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    refunded: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: int = 0
    overdrawn: int = 0
    settlements: list[tuple[float, float]] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    @property
    def answers(self) -> Counter[str]:
        """How often each answer was given."""
        return Counter(f"{one.what}: {one.answer}" for one in self.sent)

    @property
    def slowest(self) -> float:
        """How many seconds the slowest answer took."""
        return max((one.took for one in self.sent), default=0.0)

    def recovery(self, at: float) -> float | None:
        """Seconds from `at` to the first success of a POST that began after it."""
        ends = [one.ended for one in self.sent if one.began >= at and (one.what, one.answer) == PLACED]
        return min(ends) - at if ends else None

    def settlement(self, at: float) -> float | None:
        """Seconds from `at` until an order that was placed after it was seen to be settled."""
        ends = [settled for placed, settled in self.settlements if placed >= at]
        return min(ends) - at if ends else None


class Client(threading.Thread):
    """One client: places orders, repeats, cancels, refunds, until told to stop; then ends what is unclear."""

    def __init__(
        self,
        where: Callable[[], str],
        number: int,
        seed: int,
        pace: float,
        book: Book,
        stopping: threading.Event,
        *,
        keep_alive: bool = True,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._where = where
        self._number = number
        self._random = Random(f"{seed}-{number}")  # noqa: S311 - a simulation
        self._pace = pace
        self._book = book
        self._stopping = stopping
        self._timeout = timeout
        self._limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        self._recent: deque[Placed] = deque(maxlen=RECENT)
        self._count = 0
        self.gave_up = 0

    def run(self) -> None:
        while not self._stopping.is_set():
            with httpx.Client(timeout=self._timeout, limits=self._limits, trust_env=False) as http:
                for _ in range(RECONNECT):
                    began = time.monotonic()
                    self._order(http)
                    if self._stopping.wait(max(0.0, self._pace * self._random.uniform(0.5, 1.5) - _since(began))):
                        return

    def _order(self, http: httpx.Client) -> None:
        self._count += 1
        key = f"{self._number}-{self._count}"
        text = self._random.choice([*TOTALS])
        body = {
            "userId": f"user-{self._random.randrange(20)}",
            "productId": self._random.choice(PRODUCTS),
            "productName": "Espresso machine",
            "totalOrderAmount": text,
        }
        answers = {self._post(http, key, body)}
        if self._random.random() < 0.2:
            answers.add(self._post(http, key, body))
        known = sorted(filter(None, answers))
        if len(known) > 1:
            self._book.contradictions.append(f"key {key} was answered with {known}")
        placed = [Placed(order_id, *TOTALS[text]) for order_id in known]
        self._recent.extend(placed)
        if self._random.random() < 0.08:
            self._cancel_soon(http, placed)
        if self._recent and self._random.random() < 0.08:
            self._cancel(http, self._random.choice(self._recent))
        if self._recent and self._random.random() < 0.2:
            self._refund_some(http, self._random.choice(self._recent), key)

    def _post(self, http: httpx.Client, key: str, body: dict[str, Any]) -> str | None:
        def send() -> httpx.Response:
            return http.post(f"{self._where()}/orders", json=body, headers={"Idempotency-Key": key})

        answer = self._clear("POST order", send, {201})
        if answer is None:
            return None
        order_id = str(answer.json()["created"]["id"])
        self._book.acknowledged.add(order_id)
        return order_id

    def _cancel_soon(self, http: httpx.Client, orders: Sequence[Placed]) -> None:
        """Cancel at once, or about when the payment is made."""
        self._stopping.wait(self._random.choice((0.0, self._random.uniform(*CALL_SECONDS))))
        for order in orders:
            self._cancel(http, order)

    def _cancel(self, http: httpx.Client, order: Placed) -> None:
        body = {"orderId": order.order_id, "orderStatus": "Cancelled"}
        if self._clear("PUT cancel", lambda: http.put(f"{self._where()}/orders", json=body), {200}, {409}):
            self._book.cancelled.add(order.order_id)

    def _refund_some(self, http: httpx.Client, order: Placed, key: str) -> None:
        """Up to three refunds of one order: of a part, of all that is left, or of more than there is."""
        for number in range(self._random.randint(1, 3)):
            value = self._random.choice((0, order.value + 1, *(self._random.randint(1, order.value) for _ in range(4))))
            self._refund(http, order, value, f"r-{key}-{number}")

    def _refund(self, http: httpx.Client, order: Placed, value: int, key: str) -> None:
        body = {"amount": {"value": value, "currency": order.currency}} if value else {}
        url = f"/orders/one/{order.order_id}/refunds"

        def send() -> httpx.Response:
            return http.post(f"{self._where()}{url}", json=body, headers={"Idempotency-Key": key})

        self._book.asked += 1
        answer = self._clear("POST refund", send, {201}, {409})
        if answer:
            refund = answer.json()["refund"]
            self._book.refunded[order.order_id, refund["id"]] = refund["amount"]["value"]

    def _clear(
        self, what: str, send: Callable[[], httpx.Response], good: set[int], refused: set[int] = frozenset()
    ) -> httpx.Response | None:
        """Send until the answer is clear; the answer where it is a good one."""
        gives_up: float | None = None
        while True:
            answer = self._once(what, send)
            if answer is not None and answer.status_code in good:
                return answer
            if answer is not None and answer.status_code in refused:
                self._book.overdrawn += answer.json().get("code") == "refund_exceeds_balance"
                return None
            if answer is not None and answer.status_code != 503:
                self._book.unexpected.append(f"{what}: {answer.status_code} {answer.text[:300]}")
                if answer.status_code < 500:
                    return None
            if self._stopping.is_set():
                gives_up = gives_up or time.monotonic() + GIVE_UP_SECONDS
                if time.monotonic() > gives_up:
                    self.gave_up += 1
                    return None
            time.sleep(PAUSE * self._random.uniform(0.5, 1.5))

    def _once(self, what: str, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        began, answer, told = time.monotonic(), None, ""
        try:
            answer = send()
            told = str(answer.status_code)
        except httpx.TransportError as exc:
            told = type(exc).__name__
        self._book.sent.append(Sent(what, told, began, time.monotonic()))
        return answer


class Follower(Client):
    """A client that waits for each order to be settled, and has some of the money given back, before it places the next."""

    def _order(self, http: httpx.Client) -> None:
        self._count += 1
        began = time.monotonic()
        body = {"userId": "follower", "productId": "1", "productName": "Grinder", "totalOrderAmount": "RM 99"}
        order_id = self._post(http, f"{self._number}-{self._count}", body)
        if order_id and self._settled(http, order_id, began + FOLLOW_SECONDS):
            self._book.settlements.append((began, time.monotonic()))
            self._refund_some(
                http, Placed(order_id, *TOTALS[body["totalOrderAmount"]]), f"{self._number}-{self._count}"
            )

    def _settled(self, http: httpx.Client, order_id: str, until: float) -> bool:
        def send() -> httpx.Response:
            return http.get(f"{self._where()}/orders/status/{order_id}", params={"wait": 1})

        while time.monotonic() < until and not self._stopping.is_set():
            answer = self._clear("GET status", send, {200})
            if answer and answer.json()["orderStatus"] != "Processing":
                return True
        return False


def _since(began: float) -> float:
    return time.monotonic() - began


class Load:
    """Some clients at work, from entering to leaving it; `rate` is orders a second, all together.

    `url` is where they send to, or tells it anew for each request. `follow` adds a client that waits until each of its
    orders is settled.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        clients: int = 8,
        rate: float = 30.0,
        seed: int = 0,
        keep_alive: bool = True,
        timeout: float = TIMEOUT,
        follow: bool = False,
    ) -> None:
        self.book = Book()
        self._timeout = timeout
        self._stopping = threading.Event()

        def client(kind: type[Client], number: int) -> Client:
            where = url if callable(url) else lambda: url
            return kind(
                where, number, seed, clients / rate, self.book, self._stopping, keep_alive=keep_alive, timeout=timeout
            )

        self._clients = [client(Client, number) for number in range(1, clients + 1)]
        if follow:
            self._clients.append(client(Follower, 0))

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let no new order be placed, and what is unclear become clear."""
        self._stopping.set()
        for client in self._clients:
            client.join(GIVE_UP_SECONDS + 4 * self._timeout)

    @property
    def gave_up(self) -> int:
        """How many requests were never answered clearly."""
        return sum(client.gave_up for client in self._clients)
