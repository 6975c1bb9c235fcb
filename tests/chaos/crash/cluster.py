"""The crash matrix between processes: one process of a cluster dies at a database command, and gunicorn replaces it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import uuid4

import httpx
from pymongo import MongoClient

from tests.chaos.crash import judge
from tests.chaos.crash.armed_app import FIRED, POINT_FILE, VARIANT
from tests.chaos.crash.auditing import Auditing
from tests.chaos.crash.judge import Stored
from tools.cluster.cluster import Cluster
from tools.cluster.servers import GUNICORN

WORKER = (*GUNICORN, "tests.chaos.crash.armed_app:create_app()")
SECONDS = 60.0
TEMPORARY = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.CONFLICT)


class Death(NamedTuple):
    """The process that dies and the point at which it dies: while an order is paid for, or cancelled later."""

    process: str
    point: str
    cancelled: bool = False


class CrashCluster:
    """A gateway, an orders and a payments process over RabbitMQ and one mongod; `variant` breaks their code."""

    def __init__(
        self, folder: Path, mongo: MongoClient, mongodb_uri: str, bus_url: str, prefix: str, variant: str = ""
    ) -> None:
        self._folder = folder
        self._cluster = Cluster(
            folder,
            extra_environ=lambda name, *_: {POINT_FILE: str(self._file(name)), VARIANT: variant},
            mongodb_uri=mongodb_uri,
            bus_url=bus_url,
            prefix=prefix,
            worker=WORKER,
        )
        names = self._cluster.databases()
        self._stored = Stored(
            mongo[names["orders"]]["orders"], mongo[names["payments"]]["payments"], mongo[names["payments"]]["ledger"]
        )
        self._acknowledged: list[str] = []
        self._auditing = Auditing(self._stored, self._get)

    def __enter__(self) -> Self:
        self._cluster.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.kill()

    def violations(self, death: Death) -> list[str]:
        """Returns the violations after a process died and its replacement did its work."""
        fired = self._file(death.process).with_name(FIRED)
        fired.unlink(missing_ok=True)
        if death.cancelled:
            order_id = self._place()
            self._wait_until_settled()
            self._arm(death)
            self._cancel(order_id)
        else:
            self._arm(death)
            order_id = self._place()
        _wait_until(fired.exists, f"the point was never reached: {death}")
        judge.let_time_pass(self._stored)
        self._wait_until_settled()
        return [
            *judge.violations(self._stored, self._acknowledged),
            *self._auditing.violations(),
            *self._wrong_end(order_id, death),
        ]

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
        answer = self._request("POST", body, {"Idempotency-Key": uuid4().hex})
        self._acknowledged.append(answer["created"]["id"])
        self._auditing.placed(self._acknowledged[-1])
        return self._acknowledged[-1]

    def _cancel(self, order_id: str) -> None:
        self._request("PUT", {"orderId": order_id, "orderStatus": "Cancelled"}, {})
        self._auditing.cancelled(order_id)

    def _get(self, path: str) -> dict[str, Any] | None:
        return self._request("GET", None, {}, path)

    def _request(
        self, method: str, body: dict[str, Any] | None, headers: dict[str, str], path: str = "/orders"
    ) -> dict[str, Any] | None:
        """Returns the answer, None if nothing is found; repeats the request while the system cannot answer."""
        deadline = time.monotonic() + SECONDS
        while True:
            answer = httpx.request(
                method,
                f"{self._cluster.any_url()}{path}",
                json=body,
                headers=headers,
                timeout=SECONDS,
                trust_env=False,
            )
            if answer.is_success:
                return answer.json()
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            assert answer.status_code in TEMPORARY, answer.text
            assert time.monotonic() < deadline, answer.text

    def _wait_until_settled(self) -> None:
        _wait_until(lambda: judge.at_rest(self._stored), f"work does not end: {judge.under_way(self._stored)}")


def _wait_until(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)
