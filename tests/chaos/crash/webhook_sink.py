"""The receiver of the webhooks of all cells: it lives in the process of the tests, so that it outlives every victim."""

from collections import defaultdict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from tests.webhooks.receiver import Answer, Received, Receiver, running
from tools.auditor.webhooks import ReceivedWebhook

TAKEN: Answer = (204, {}, b"")
# At the end of an endpoint's URL: the first webhook of the cell is taken, and its answer does not come.
UNANSWERED = "?unanswered"


class WebhookSink:
    """Takes every webhook; each cell has a path of its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received: dict[str, list[Received]] = defaultdict(list)
        self._running = running(Receiver(answer=self._answer))
        self._url = self._running.__enter__().url

    def close(self) -> None:
        """Ends the server."""
        self._running.__exit__(None, None, None)

    def url(self, cell: str) -> str:
        """The URL of a cell's endpoint."""
        return f"{self._url}/{cell}"

    def take(self, cell: str) -> Sequence[ReceivedWebhook]:
        """Removes and returns what a cell's endpoint has received."""
        with self._lock:
            return [
                ReceivedWebhook(receiver="the endpoint", webhook_id=one.headers["webhook-id"], body=one.body)
                for one in self._received.pop(cell, [])
            ]

    def _answer(self, request: Received, _count: int) -> Answer | None:
        cell = request.path.partition("?")[0].rpartition("/")[2]
        with self._lock:
            received = self._received[cell]
            received.append(request)
            lost = request.path.endswith(UNANSWERED) and len(received) == 1
        return None if lost else TAKEN


def told_twice(deliveries: Any) -> list[str]:
    """Violations: events that are recorded more than once for an endpoint."""
    twice = deliveries.aggregate([
        {"$group": {"_id": {"event": "$eventId", "endpoint": "$endpointId"}, "times": {"$sum": 1}}},
        {"$match": {"times": {"$gt": 1}}},
    ])  # fmt: skip
    return [f"recorded once: {one['_id']['event']} has {one['times']} deliveries" for one in twice]
