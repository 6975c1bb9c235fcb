"""The rules for webhooks: what receivers got, against the timelines of the orders that clients were acknowledged."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.auditor.audit import Violation
from tools.auditor.history import FinalOrder, TimelineStep

TOLD = "webhooks"


@dataclass(frozen=True, kw_only=True)
class ReceivedWebhook:
    """A request that a receiver got: which receiver, its `webhook-id`, and its body as it came."""

    receiver: str
    webhook_id: str
    body: bytes

    @property
    def content(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


def audit_webhooks(
    received: Iterable[ReceivedWebhook], final: Mapping[str, FinalOrder], receivers: Iterable[str]
) -> list[Violation]:
    """Returns every violation: each of the living `receivers` must have got every step of every order in `final`.

    Any webhook may have come several times, with the same id and body; and in any order. Of receivers that are not named, what
    they got must be true, but need not be all.
    """
    by_receiver: dict[str, list[ReceivedWebhook]] = {receiver: [] for receiver in receivers}
    others: dict[str, list[ReceivedWebhook]] = defaultdict(list)
    for one in received:
        by_receiver.get(one.receiver, others[one.receiver]).append(one)
    found = []
    for receiver, webhooks in {**others, **by_receiver}.items():
        orders = final if receiver in by_receiver else {}
        for order_id, detail in (*_untrue(webhooks, final), *_not_told(webhooks, orders)):
            found.append(Violation(TOLD, order_id, f"{receiver}: {detail}"))
    return found


def _untrue(webhooks: Sequence[ReceivedWebhook], final: Mapping[str, FinalOrder]) -> Iterator[tuple[str, str]]:
    bodies: dict[str, bytes] = {}
    ids: dict[tuple[str, int], str] = {}
    for one in webhooks:
        if bodies.setdefault(one.webhook_id, one.body) != one.body:
            yield "", f"{one.webhook_id} came with two bodies"
        content = one.content
        if content["id"] != one.webhook_id:
            yield "", f"{one.webhook_id} has the body of {content['id']}"
        if "order" not in content["data"]:
            continue
        order_id, sequence = content["data"]["order"]["id"], content["data"]["sequence"]
        if ids.setdefault((order_id, sequence), one.webhook_id) != one.webhook_id:
            yield order_id, f"{sequence} came as {ids[order_id, sequence]} and as {one.webhook_id}"
        if order_id in final:
            yield from ((order_id, detail) for detail in _contradictions(content["data"], final[order_id].timeline))


def _contradictions(data: Mapping[str, Any], timeline: Sequence[TimelineStep]) -> Iterator[str]:
    step = next((step for step in timeline if step.sequence == data["sequence"]), None)
    if step is None:
        yield f"{data['sequence']} was told and is not in the timeline"
        return
    told = (data["order"]["orderStatus"], data["order"]["paymentStatus"])
    if told != (step.to_status, step.payment_status):
        yield f"{step.sequence} was told as {told} and is {(step.to_status, step.payment_status)}"
    # A new order comes from no status.
    if step.sequence > 1 and data["previousStatus"] != step.from_status:
        yield f"{step.sequence} was told as coming from {data['previousStatus']} and comes from {step.from_status}"


def _not_told(webhooks: Sequence[ReceivedWebhook], final: Mapping[str, FinalOrder]) -> Iterator[tuple[str, str]]:
    told: dict[str, set[int]] = defaultdict(set)
    for one in webhooks:
        data = one.content["data"]
        if "order" in data:
            told[data["order"]["id"]].add(data["sequence"])
    for order_id, order in final.items():
        missing = sorted({step.sequence for step in order.timeline} - told[order_id])
        if missing:
            yield order_id, f"never told {missing} of {len(order.timeline)} steps"
