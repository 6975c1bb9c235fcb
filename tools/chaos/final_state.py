"""The end of a run: what a client reads of each order from the running system, and what the provider booked."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import httpx
from pymongo.errors import PyMongoError

from tools.auditor.history import FinalOrder, History, Movement
from tools.auditor.reading import Document, movements, read_order
from tools.chaos.clients import ClientRecord
from tools.cluster.mongod import mongo_client

THREADS = 4
TIMEOUT = 5.0
PAUSE = 0.2
READ_SECONDS = 60.0


class UnreachableError(RuntimeError):
    """The orders could not be read within READ_SECONDS."""


@dataclass(frozen=True, kw_only=True)
class FinalState:
    """The orders that a client found and the provider's books; `problem` says why they could not be read."""

    orders: dict[str, FinalOrder] = field(default_factory=dict)
    movements: list[Movement] = field(default_factory=list)
    problem: str = ""

    def history(self, record: ClientRecord, parked: set[str]) -> History:
        """Returns the history of the run; only its problem if the final state could not be read."""
        if self.problem:
            return History(problems=[self.problem])
        return History(answers=list(record.outcomes), final=self.orders, movements=self.movements, operator_list=parked)


def read_final_state(url: Callable[[], str], uri: str, ledger: str, acknowledged: Iterable[str]) -> FinalState:
    """Reads every order that was acknowledged or that money moved for.

    `url` returns the base URL for each request, `ledger` is the name of the database with the provider's ledger at `uri`.
    """
    try:
        booked = _booked(uri, ledger)
        order_ids = sorted({*acknowledged} | {movement.order_id for movement in booked})
        return FinalState(orders=_read_orders(url, order_ids), movements=booked)
    except (UnreachableError, PyMongoError) as exc:
        return FinalState(problem=f"the end could not be read: {exc}")


def _booked(uri: str, name: str) -> list[Movement]:
    with mongo_client(uri) as client:
        return list(movements(client[name].ledger.find()))


def _read_orders(url: Callable[[], str], order_ids: Iterable[str]) -> dict[str, FinalOrder]:
    with httpx.Client(timeout=TIMEOUT, trust_env=False) as http, ThreadPoolExecutor(THREADS) as threads:
        get = partial(_get, http, url, time.monotonic() + READ_SECONDS)
        read = threads.map(lambda order_id: (order_id, read_order(get, order_id)), order_ids)
        return {order_id: order for order_id, order in read if order}


def _get(http: httpx.Client, url: Callable[[], str], deadline: float, path: str) -> Document | None:
    """Repeats until the system answers, at most until the deadline of all reads."""
    reason = "no time is left"
    while time.monotonic() <= deadline:
        try:
            answer = http.get(f"{url()}{path}")
            if answer.status_code in (httpx.codes.OK, httpx.codes.NOT_FOUND):
                return answer.json() if answer.is_success else None
            reason = str(answer.status_code)
        except httpx.TransportError as exc:
            reason = type(exc).__name__
        time.sleep(PAUSE)
    raise UnreachableError(f"GET {path}: {reason}")
