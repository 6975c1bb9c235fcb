"""Correct clients: they repeat a request that got no clear answer, with the same Idempotency-Key.

They cancel orders at any moment and request refunds of random amounts, some of them above the order's balance. Where a payment
waits for somebody, they capture, approve, refuse, decide the dispute, or do nothing.
"""

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, Self

import httpx

from tools.auditor.history import (
    ACCEPTED,
    REFUSED,
    UNANSWERED,
    Answer,
    CaptureAnswer,
    PlaceAnswer,
    ReadAnswer,
    RefundAnswer,
    StatusAnswer,
)

TIMEOUT = 5.0
PAUSE = 0.15
GIVE_UP_SECONDS = 30.0
FOLLOW_SECONDS = 5.0
RECENT = 40
LAST_REFUNDED = 3
RECONNECT = 10
# Seconds after placing an order in which its payment is probably being made.
CALL_SECONDS = (0.0, 0.5)
# Minor units and currency of each amount that clients send.
TOTALS = {"RM 99": (9900, "MYR"), "RM 12.50": (1250, "MYR"), "USD 7.05": (705, "USD"), "JPY 1200": (1200, "JPY")}
PLACED = ("POST order", "201")
PRODUCTS = ("1", "1", "1", "1", "1", "1", "1", "2", "2", "3")
# Products whose payment waits or changes later, where the provider has its demonstrations on; each is ordered once in so many orders.
WAITING_PRODUCTS = ("pending", "pending-declined", *("action-required", "refund-fails-later", "disputed") * 2)
ONE_OF = 25
MANUAL_SHARE = 0.12
# A client looks from time to time whether its order waits for somebody; until then, and no longer.
FOLLOW_UP_PAUSE, FOLLOW_UP_SECONDS = 1.0, 15.0
ACTION_PAGE = re.compile(r"/providers/simulated/actions/\w+")
# The payment statuses that wait for somebody, by product; manual orders wait for a capture.
AWAITED = {"action-required": "ActionRequired", "disputed": "Disputed"}
AUTHORIZED = "Authorized"
# What comes of a decision on the provider's page, by payment status: of an approval, and of a refusal.
DECIDED = {"ActionRequired": ("approved", "refused"), "Disputed": ("won", "lost")}


@dataclass(frozen=True)
class SentRequest:
    """One request and its answer: a status or an error's name. Times are of the monotonic clock."""

    operation: str
    answer: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """The time from request to answer."""
        return self.ended - self.began


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended with all its repetitions: its outcome as the auditor names it, and the successful answer.

    It began with the first repetition, since that one may have taken effect. It counts as refused only if the first one was.
    """

    outcome: str
    began: float
    ended: float
    answer: httpx.Response | None = None

    @property
    def version(self) -> int:
        """The order's version in the entity tag; 0 if there is none."""
        tag = self.answer.headers.get("ETag", "") if self.answer else ""
        return int(tag.strip('"').rpartition("-")[2] or 0)

    @property
    def members(self) -> dict[str, Any]:
        """The members of every answer that the auditor judges."""
        return {"outcome": self.outcome, "version": self.version, "began": self.began, "ended": self.ended}


@dataclass(frozen=True)
class PlacedOrder:
    """An acknowledged order and its total in minor units."""

    order_id: str
    value: int
    currency: str


@dataclass(frozen=True)
class FollowUp:
    """An order that will wait for somebody, in this payment status: looked at again at `due`, and not after `ends`."""

    order: PlacedOrder
    payment_status: str
    due: float
    ends: float


@dataclass
class ClientRecord:
    """All answers that clients received; `outcomes` has them as the auditor judges them.

    `refunded` has the value of each acknowledged refund by order id and refund id. `refunds_requested` counts all refund
    requests, `refunds_over_balance` those refused because they exceed the balance. `settlements` are pairs of monotonic
    times: when an order was placed and when it was seen settled. `acts` counts what was done for payments that wait.
    """

    acknowledged: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    refunded: dict[tuple[str, str], int] = field(default_factory=dict)
    refunds_requested: int = 0
    refunds_over_balance: int = 0
    settlements: list[tuple[float, float]] = field(default_factory=list)
    sent: list[SentRequest] = field(default_factory=list)
    outcomes: list[Answer] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    acts: Counter[str] = field(default_factory=Counter)

    @property
    def answers(self) -> Counter[str]:
        """The number of requests by operation and answer."""
        return Counter(f"{request.operation}: {request.answer}" for request in self.sent)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest answer."""
        return max((request.seconds for request in self.sent), default=0.0)

    def recovery(self, at: float) -> float | None:
        """Seconds from `at` to the first success of a POST that began later; None if there was none."""
        ends = [one.ended for one in self.sent if one.began >= at and (one.operation, one.answer) == PLACED]
        return min(ends) - at if ends else None

    def settlement(self, at: float) -> float | None:
        """Seconds from `at` until the first order placed later was seen settled; None if there was none."""
        ends = [settled for placed, settled in self.settlements if placed >= at]
        return min(ends) - at if ends else None


class Client(threading.Thread):
    """A client that places, cancels and refunds orders until `stopping`, then repeats its open requests."""

    def __init__(
        self,
        base_url: Callable[[], str],
        number: int,
        seed: int,
        interval: float,
        record: ClientRecord,
        stopping: threading.Event,
        *,
        keep_alive: bool = True,
        timeout: float = TIMEOUT,
        waiting_products: bool = False,
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._base_url = base_url
        self._number = number
        self._random = Random(f"{seed}-{number}")  # noqa: S311 - a simulation
        self._interval = interval
        self._record = record
        self._stopping = stopping
        self._timeout = timeout
        self._limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        self._waiting_products = waiting_products
        self._follow_ups: deque[FollowUp] = deque()
        self._recent: deque[PlacedOrder] = deque(maxlen=RECENT)
        self._count = 0
        self.gave_up = 0

    def run(self) -> None:
        while not self._stopping.is_set():
            with httpx.Client(timeout=self._timeout, limits=self._limits, trust_env=False) as http:
                for _ in range(RECONNECT):
                    began = time.monotonic()
                    self._order(http)
                    if self._stopping.wait(
                        max(0.0, self._interval * self._random.uniform(0.5, 1.5) - (time.monotonic() - began))
                    ):
                        return

    def refund_recent(self) -> None:
        """Requests refunds of the last orders, once the thread has ended."""
        with httpx.Client(timeout=self._timeout, limits=self._limits, trust_env=False) as http:
            for number, order in enumerate([*self._recent][-LAST_REFUNDED:]):
                self._refund_some(http, order, f"{self._number}-last-{number}")

    def _order(self, http: httpx.Client) -> None:
        self._count += 1
        key = f"{self._number}-{self._count}"
        text = self._random.choice([*TOTALS])
        body = {
            "userId": f"user-{self._random.randrange(20)}",
            "productId": self._choose_product(),
            "productName": "Espresso machine",
            "totalOrderAmount": text,
        }
        if self._captures_by_hand():
            body["capture"] = "manual"
        answers = {self._post(http, key, body)}
        if self._random.random() < 0.2:
            answers.add(self._post(http, key, body))
        known = sorted(filter(None, answers))
        if len(known) > 1:
            self._record.contradictions.append(f"key {key} was answered with {known}")
        placed = [PlacedOrder(order_id, *TOTALS[text]) for order_id in known]
        self._recent.extend(placed)
        self._plan_follow_ups(placed, body)
        self._follow_up(http)
        if self._random.random() < 0.08:
            self._cancel_soon(http, placed)
        if self._recent and self._random.random() < 0.08:
            self._cancel(http, self._random.choice(self._recent))
        if self._recent and self._random.random() < 0.2:
            self._refund_some(http, self._random.choice(self._recent), key)
        if self._recent and self._random.random() < 0.3:
            self._read(http, self._random.choice(self._recent))

    def _post(self, http: httpx.Client, key: str, body: dict[str, Any]) -> str | None:
        def send() -> httpx.Response:
            return http.post(f"{self._base_url()}/orders", json=body, headers={"Idempotency-Key": key})

        sent = self._send_until_answered("POST order", send, {201})
        order_id = str(sent.answer.json()["created"]["id"]) if sent.answer else ""
        value, _ = TOTALS[body["totalOrderAmount"]]
        self._record.outcomes.append(PlaceAnswer(order_id=order_id, value=value, key=key, **sent.members))
        if order_id:
            self._record.acknowledged.add(order_id)
        return order_id or None

    def _choose_product(self) -> str:
        if self._waiting_products and self._count == 1:
            # So that also a short run has each of them.
            return WAITING_PRODUCTS[self._number % len(WAITING_PRODUCTS)]
        waits = self._waiting_products and self._random.random() < len(WAITING_PRODUCTS) / ONE_OF
        return self._random.choice(WAITING_PRODUCTS if waits else PRODUCTS)

    def _captures_by_hand(self) -> bool:
        return self._waiting_products and (self._count == 2 or self._random.random() < MANUAL_SHARE)

    def _plan_follow_ups(self, orders: Sequence[PlacedOrder], body: Mapping[str, Any]) -> None:
        statuses = [AUTHORIZED] if "capture" in body else []
        if self._waiting_products and body["productId"] in AWAITED:
            statuses.append(AWAITED[body["productId"]])
        now = time.monotonic()
        for order in orders:
            for status in statuses:
                self._follow_ups.append(FollowUp(order, status, now + FOLLOW_UP_PAUSE, now + FOLLOW_UP_SECONDS))

    def _follow_up(self, http: httpx.Client) -> None:
        """Looks at one order that may wait for somebody, and acts if it does."""
        now = time.monotonic()
        following = next((one for one in self._follow_ups if one.due <= now), None)
        if following is None:
            return
        self._follow_ups.remove(following)
        shown = self._read(http, following.order)
        if shown and shown["paymentStatus"] == following.payment_status:
            self._act(http, following)
        elif now < following.ends:
            self._follow_ups.append(replace(following, due=now + FOLLOW_UP_PAUSE))

    def _act(self, http: httpx.Client, following: FollowUp) -> None:
        act = self._random.choice(("do", "do", "refuse", "ignore"))
        if act == "ignore":
            self._record.acts[f"{following.payment_status}: ignored"] += 1
        elif following.payment_status != AUTHORIZED:
            self._decide(http, following, approve=act == "do")
        elif act == "do":
            self._capture(http, following.order)
        else:
            self._record.acts[f"{AUTHORIZED}: cancelled"] += 1
            self._cancel(http, following.order)

    def _decide(self, http: httpx.Client, following: FollowUp, *, approve: bool) -> None:
        """Decides on the provider's page, to which the order or its timeline leads, about a payment or a dispute."""
        url = f"{self._base_url()}/orders/one/{following.order.order_id}"
        texts = [
            self._send_until_answered("GET order", partial(http.get, url + part), {200}) for part in ("", "/events")
        ]
        page = next((found for one in texts if one.answer and (found := ACTION_PAGE.search(one.answer.text))), None)
        if page is None:
            return
        choice = "approve" if approve else "refuse"

        def send() -> httpx.Response:
            return http.post(f"{self._base_url()}{page.group()}", content=f"decision={choice}")

        if self._send_until_answered("POST decision", send, {303}).answer:
            approved, refused = DECIDED[following.payment_status]
            self._record.acts[f"{following.payment_status}: {approved if approve else refused}"] += 1

    def _capture(self, http: httpx.Client, order: PlacedOrder) -> None:
        """Captures what is authorized, or a part of it."""
        part = self._random.choice((0, self._random.randint(1, order.value)))
        body = {"amount": {"value": part, "currency": order.currency}} if part else {}
        url = f"/orders/one/{order.order_id}/capture"

        def send() -> httpx.Response:
            return http.post(f"{self._base_url()}{url}", json=body)

        sent = self._send_until_answered("POST capture", send, {202}, {409})
        value = sent.answer.json()["capture"]["amount"]["value"] if sent.answer else 0
        self._record.outcomes.append(CaptureAnswer(order_id=order.order_id, value=value, **sent.members))
        if sent.answer:
            self._record.acts[f"{AUTHORIZED}: captured {'in part' if value < order.value else 'whole'}"] += 1

    def _cancel_soon(self, http: httpx.Client, orders: Sequence[PlacedOrder]) -> None:
        """Cancels at once or about when the payment is made."""
        self._stopping.wait(self._random.choice((0.0, self._random.uniform(*CALL_SECONDS))))
        for order in orders:
            self._cancel(http, order)

    def _cancel(self, http: httpx.Client, order: PlacedOrder) -> None:
        body = {"orderId": order.order_id, "orderStatus": "Cancelled"}
        sent = self._send_until_answered(
            "PUT cancel", lambda: http.put(f"{self._base_url()}/orders", json=body), {200}, {409}
        )
        self._record.outcomes.append(StatusAnswer(order_id=order.order_id, status="Cancelled", **sent.members))
        if sent.answer:
            self._record.cancelled.add(order.order_id)

    def _read(self, http: httpx.Client, order: PlacedOrder) -> dict[str, Any] | None:
        url = f"/orders/one/{order.order_id}"
        sent = self._send_until_answered("GET order", lambda: http.get(f"{self._base_url()}{url}"), {200})
        if sent.answer is None:
            return None
        shown: dict[str, Any] = sent.answer.json()["order"]
        self._record_read(order.order_id, sent, shown)
        return shown

    def _record_read(self, order_id: str, sent: Outcome, shown: dict[str, Any]) -> None:
        statuses = {"order_status": shown["orderStatus"], "payment_status": shown.get("paymentStatus", "")}
        self._record.outcomes.append(ReadAnswer(order_id=order_id, **statuses, **sent.members))

    def _refund_some(self, http: httpx.Client, order: PlacedOrder, key: str) -> None:
        """Requests up to three refunds of one order: of a part, of the balance, or of more than the total."""
        for number in range(self._random.randint(1, 3)):
            value = self._random.choice((0, order.value + 1, *(self._random.randint(1, order.value) for _ in range(4))))
            self._refund(http, order, value, f"r-{key}-{number}")

    def _refund(self, http: httpx.Client, order: PlacedOrder, value: int, key: str) -> None:
        body = {"amount": {"value": value, "currency": order.currency}} if value else {}
        url = f"/orders/one/{order.order_id}/refunds"

        def send() -> httpx.Response:
            return http.post(f"{self._base_url()}{url}", json=body, headers={"Idempotency-Key": key})

        self._record.refunds_requested += 1
        sent = self._send_until_answered("POST refund", send, {201}, {409})
        refund = sent.answer.json()["refund"] if sent.answer else {"id": key, "amount": {"value": value}}
        refund_id, reserved = refund["id"], refund["amount"]["value"]
        self._record.outcomes.append(
            RefundAnswer(order_id=order.order_id, refund_id=refund_id, value=reserved, **sent.members)
        )
        if sent.answer:
            self._record.refunded[order.order_id, refund_id] = reserved

    def _send_until_answered(
        self, operation: str, send: Callable[[], httpx.Response], good: set[int], refused: set[int] = frozenset()
    ) -> Outcome:
        """Repeats until the answer has an expected status; the outcome has it if the status is in `good`."""
        began, refusal = time.monotonic(), REFUSED
        for _ in self._repetitions():
            answer = self._send_once(operation, send)
            if answer is not None and answer.status_code in good:
                return Outcome(outcome=ACCEPTED, began=began, ended=time.monotonic(), answer=answer)
            if answer is not None and self._is_final(operation, answer, refused):
                return Outcome(outcome=refusal, began=began, ended=time.monotonic())
            refusal = UNANSWERED
        self.gave_up += 1
        return Outcome(outcome=UNANSWERED, began=began, ended=time.monotonic())

    def _repetitions(self) -> Iterator[None]:
        """Pauses between two repetitions, and ends some time after the run."""
        deadline: float | None = None
        while deadline is None or time.monotonic() <= deadline:
            yield
            if self._stopping.is_set():
                deadline = deadline or time.monotonic() + GIVE_UP_SECONDS
            time.sleep(PAUSE * self._random.uniform(0.5, 1.5))

    def _is_final(self, operation: str, answer: httpx.Response, refused: set[int]) -> bool:
        """Whether the request need not be repeated; records an answer that is not expected."""
        if answer.status_code in refused:
            self._record.refunds_over_balance += answer.json().get("code") == "refund_exceeds_balance"
            return True
        if answer.status_code != 503:
            self._record.unexpected.append(f"{operation}: {answer.status_code} {answer.text[:300]}")
        return answer.status_code < 500

    def _send_once(self, operation: str, send: Callable[[], httpx.Response]) -> httpx.Response | None:
        began, answer, text = time.monotonic(), None, ""
        try:
            answer = send()
            text = str(answer.status_code)
        except httpx.TransportError as exc:
            text = type(exc).__name__
        self._record.sent.append(SentRequest(operation, text, began, time.monotonic()))
        return answer


class WaitingClient(Client):
    """A client that waits until its order is settled and refunds a part of it before it places the next one."""

    def _order(self, http: httpx.Client) -> None:
        self._count += 1
        began = time.monotonic()
        body = {"userId": "waiting-client", "productId": "1", "productName": "Grinder", "totalOrderAmount": "RM 99"}
        order_id = self._post(http, f"{self._number}-{self._count}", body)
        if order_id and self._settled(http, order_id, began + FOLLOW_SECONDS):
            self._record.settlements.append((began, time.monotonic()))
            self._refund_some(
                http, PlacedOrder(order_id, *TOTALS[body["totalOrderAmount"]]), f"{self._number}-{self._count}"
            )

    def _settled(self, http: httpx.Client, order_id: str, until: float) -> bool:
        def send() -> httpx.Response:
            return http.get(f"{self._base_url()}/orders/status/{order_id}", params={"wait": 1})

        while time.monotonic() < until and not self._stopping.is_set():
            sent = self._send_until_answered("GET status", send, {200})
            if sent.answer:
                self._record_read(order_id, sent, sent.answer.json())
                if sent.answer.json()["orderStatus"] != "Processing":
                    return True
        return False


class LoadGenerator:
    """Runs clients from entering to leaving a `with` block; `rate` is orders a second of all clients together.

    `url` is the base URL, or a function that returns one for each request. `wait` adds a client that waits until each of
    its orders is settled. With `waiting_products`, orders whose payments wait or change later are among them.
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
        wait: bool = False,
        waiting_products: bool = False,
    ) -> None:
        self.record = ClientRecord()
        self._timeout = timeout
        self._stopping = threading.Event()

        def client(kind: type[Client], number: int) -> Client:
            base_url = url if callable(url) else lambda: url
            return kind(
                base_url,
                number,
                seed,
                clients / rate,
                self.record,
                self._stopping,
                keep_alive=keep_alive,
                timeout=timeout,
                waiting_products=waiting_products,
            )

        self._clients = [client(Client, number) for number in range(1, clients + 1)]
        if wait:
            self._clients.append(client(WaitingClient, 0))

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the placing of orders and waits until open requests are answered or given up."""
        self._stopping.set()
        for client in self._clients:
            client.join(GIVE_UP_SECONDS + 4 * self._timeout)

    def refund_recent(self) -> None:
        """Requests refunds of each client's last orders, after the block: on a busy machine few orders are paid for within it."""
        for client in self._clients:
            client.refund_recent()

    @property
    def gave_up(self) -> int:
        """The number of requests that never got a clear answer."""
        return sum(client.gave_up for client in self._clients)
