"""The auditor's judgement of a system whose process died: by what clients were answered and read, and by the ledger."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.chaos.crash import judge
from tests.chaos.crash.clients import TOTAL
from tests.chaos.crash.judge import Stored
from tools.auditor.audit import audit
from tools.auditor.history import Answer, History, PlaceAnswer, StatusAnswer
from tools.auditor.reading import Document, Get, movements, read_orders


class Auditing:
    """Collects the answers to clients; `get` reads from the system as a client does."""

    def __init__(self, stored: Stored, get: Get, acknowledged: Iterable[str] = ()) -> None:
        self._stored = stored
        self._get = get
        self._answers: list[Answer] = []
        for order_id in acknowledged:
            self.placed(order_id)

    def placed(self, order_id: str) -> None:
        """An order of TOTAL was acknowledged."""
        self._answers.append(PlaceAnswer(order_id=order_id, value=TOTAL))

    def cancelled(self, order_id: str) -> None:
        """A cancellation was acknowledged."""
        self._answers.append(StatusAnswer(order_id=order_id, status="Cancelled"))

    def violations(self, *, operator_comes: bool = False) -> Sequence[str]:
        """Returns all violations once no work runs; if an `operator_comes`, an order that waits for one may be unsettled."""
        stored = {str(order["_id"]) for order in self._stored.orders.find({}, {"_id": 1})}
        history = History(
            answers=self._answers,
            final=read_orders(self._get, {*stored, *(answer.order_id for answer in self._answers)}),
            movements=list(movements(self._stored.ledger.find())),
            operator_list=judge.waiting_for_operator(self._stored) if operator_comes else set(),
            ended_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )
        return [f"the auditor: {violation}" for violation in audit(history)]


def getter(client: Any) -> Get:
    """Returns how a test client of Flask reads a path."""

    def get(path: str) -> Document | None:
        answer = client.get(path)
        assert answer.status_code in (200, 404), answer.text
        return answer.json if answer.status_code == 200 else None

    return get
