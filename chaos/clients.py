"""Clients as they should be: they repeat what was not clearly answered, with the same Idempotency-Key."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

import httpx

TIMEOUT = 5.0
PAUSE = 0.15
GIVE_UP_SECONDS = 30.0
RECENT = 40
RECONNECT = 10
TOTALS = ("RM 99", "RM 12.50", "USD 7.05", "JPY 1200")
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


@dataclass
class Book:
    """What clients were told, all of them together."""

    acknowledged: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    refunded: set[tuple[str, str]] = field(default_factory=set)
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
        self._recent: deque[str] = deque(maxlen=RECENT)
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
        body = {
            "userId": f"user-{self._random.randrange(20)}",
            "productId": self._random.choice(PRODUCTS),
            "productName": "Espresso machine",
            "totalOrderAmount": self._random.choice(TOTALS),
        }
        told = {self._post(http, key, body)}
        if self._random.random() < 0.2:
            told.add(self._post(http, key, body))
        known = told - {None}
        if len(known) > 1:
            self._book.contradictions.append(f"key {key} told {sorted(filter(None, known))}")
        self._recent.extend(filter(None, known))
        if self._recent and self._random.random() < 0.15:
            self._cancel(http, self._random.choice(self._recent))
        if self._recent and self._random.random() < 0.12:
            self._refund(http, self._random.choice(self._recent), f"r-{key}")

    def _post(self, http: httpx.Client, key: str, body: dict[str, Any]) -> str | None:
        def send() -> httpx.Response:
            return http.post(f"{self._where()}/orders", json=body, headers={"Idempotency-Key": key})

        answer = self._clear("POST order", send, {201})
        if answer is None:
            return None
        order_id = str(answer.json()["created"]["id"])
        self._book.acknowledged.add(order_id)
        return order_id

    def _cancel(self, http: httpx.Client, order_id: str) -> None:
        body = {"orderId": order_id, "orderStatus": "Cancelled"}
        if self._clear("PUT cancel", lambda: http.put(f"{self._where()}/orders", json=body), {200}, {409}):
            self._book.cancelled.add(order_id)

    def _refund(self, http: httpx.Client, order_id: str, key: str) -> None:
        def send() -> httpx.Response:
            return http.post(
                f"{self._where()}/orders/one/{order_id}/refunds", json={}, headers={"Idempotency-Key": key}
            )

        answer = self._clear("POST refund", send, {201}, {409})
        if answer:
            self._book.refunded.add((order_id, answer.json()["refund"]["id"]))

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


def _since(began: float) -> float:
    return time.monotonic() - began


class Load:
    """Some clients at work, from entering to leaving it; `rate` is orders a second, all together.

    `url` is where they send to, or tells it anew for each request.
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
    ) -> None:
        self.book = Book()
        self._timeout = timeout
        self._stopping = threading.Event()
        self._clients = [
            Client(
                url if callable(url) else lambda: url,
                number,
                seed,
                clients / rate,
                self.book,
                self._stopping,
                keep_alive=keep_alive,
                timeout=timeout,
            )
            for number in range(1, clients + 1)
        ]

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
