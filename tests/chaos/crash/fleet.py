"""The crash matrix between processes: one of a fleet dies at a database command of its own, and gunicorn replaces it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import httpx
from pymongo import MongoClient

from tests.chaos.crash import judge
from tests.chaos.crash.armed import FIRED, POINT_FILE, SABOTAGE
from tests.chaos.crash.judge import Stored
from tools.cluster.fleet import Fleet
from tools.cluster.servers import GUNICORN

WORKER = (*GUNICORN, "tests.chaos.crash.armed:create_app()")
SECONDS = 60.0
PASSES = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.CONFLICT)


class Death(NamedTuple):
    """Which process dies, and at which point of what happens to an order: while it is paid for, or cancelled later."""

    process: str
    point: str
    cancelled: bool = False


class FleetLaboratory:
    """A gateway, an orders and a payments process, over a broker and one database server; sound ones, or broken ones."""

    def __init__(
        self, folder: Path, mongo: MongoClient, mongodb_uri: str, bus_url: str, prefix: str, sabotage: str = ""
    ) -> None:
        self._folder = folder
        self._fleet = Fleet(
            folder,
            each=lambda name, *_: {POINT_FILE: str(self._file(name)), SABOTAGE: sabotage},
            mongodb_uri=mongodb_uri,
            bus_url=bus_url,
            prefix=prefix,
            worker=WORKER,
        )
        names = self._fleet.databases()
        self._stored = Stored(
            mongo[names["orders"]]["orders"], mongo[names["payments"]]["payments"], mongo[names["payments"]]["ledger"]
        )
        self._acknowledged: list[str] = []

    def __enter__(self) -> Self:
        self._fleet.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._fleet.kill()

    def troubles(self, death: Death) -> list[str]:
        """What is wrong after a process died and its work was done by the one that came instead."""
        fired = self._file(death.process).with_name(FIRED)
        fired.unlink(missing_ok=True)
        if death.cancelled:
            order_id = self._place()
            self._come_to_rest()
            self._arm(death)
            self._cancel(order_id)
        else:
            self._arm(death)
            order_id = self._place()
        _wait_until(fired.exists, f"the point never came: {death}")
        judge.let_time_pass(self._stored)
        self._come_to_rest()
        return [*judge.troubles(self._stored, self._acknowledged), *self._wrong_end(order_id, death)]

    def _wrong_end(self, order_id: str, death: Death) -> list[str]:
        order = next(doc for doc in self._stored.orders.find() if str(doc["_id"]) == order_id)
        state = order["orderStatus"], order["paymentStatus"]
        expected = ("Cancelled", "Refunded") if death.cancelled else ("Success", "Captured")
        return [] if state == expected else [f"the order ended as {state}"]

    def _file(self, process: str) -> Path:
        return self._folder / process / "point"

    def _arm(self, death: Death) -> None:
        whole = self._file(death.process).with_name("next")
        whole.write_text(death.point)
        whole.rename(self._file(death.process))

    def _place(self) -> str:
        body = {"userId": "user-7", "productId": "1", "productName": "Espresso", "totalOrderAmount": "MYR 99.00"}
        answer = self._ask("POST", body, {"Idempotency-Key": uuid4().hex})
        self._acknowledged.append(answer["created"]["id"])
        return self._acknowledged[-1]

    def _cancel(self, order_id: str) -> None:
        self._ask("PUT", {"orderId": order_id, "orderStatus": "Cancelled"}, {})

    def _ask(self, method: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """What a patient client gets: it asks again while the system cannot answer."""
        ends = time.monotonic() + SECONDS
        while True:
            answer = httpx.request(
                method, f"{self._fleet.any_url()}/orders", json=body, headers=headers, timeout=SECONDS, trust_env=False
            )
            if answer.is_success:
                return answer.json()
            assert answer.status_code in PASSES, answer.text
            assert time.monotonic() < ends, answer.text

    def _come_to_rest(self) -> None:
        _wait_until(lambda: judge.at_rest(self._stored), f"work goes on and on: {judge.under_way(self._stored)}")


def _wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    ends = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < ends, otherwise
        time.sleep(0.02)
