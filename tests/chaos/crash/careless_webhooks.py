"""Copies of the application in which a delivery of webhooks can be lost, or recorded twice."""

from typing import Any
from uuid import uuid4

from app.webhooks import service
from app.webhooks.delivery import AttemptResult
from app.webhooks.sender import Sender


def random_id_of_a_delivery() -> None:
    """An event that is delivered again to the module is recorded again."""
    service.delivery_id = lambda _event_id, _endpoint_id: uuid4().hex


def result_before_the_attempt() -> None:
    """A delivery counts as taken before it is sent."""
    usual = Sender._record

    def attempt(self: Any, delivery: Any) -> Any:
        usual(self, delivery, AttemptResult(status=200))
        endpoint = self._cache.get(delivery.endpoint_id)
        body = delivery.body.encode()
        return self._post(endpoint.url, self._headers(endpoint, delivery, body), body)

    Sender.attempt = attempt


def held_for_good() -> None:
    """What is held is sent by the request that enables its endpoint, and by nothing else."""
    Sender.settle_held = lambda _self: None


VARIANTS = {one.__name__: one for one in (random_id_of_a_delivery, result_before_the_attempt, held_for_good)}
