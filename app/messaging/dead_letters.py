"""The dead letters of one module as operators see them."""

from collections.abc import Sequence
from datetime import datetime

from app.contracts.base import DeadLetter, DeadLetterList, Money, rfc3339
from app.messaging.outbox import Outbox
from app.storage.mongodb import Document


def list_dead_letters(outboxes: Sequence[Outbox], module: str, limit: int) -> DeadLetterList:
    """At most `limit` dead letters in the outboxes of `module`, oldest first."""
    found, now = [doc for outbox in outboxes for doc in outbox.dead_letters(limit + 1)], outboxes[0].now()
    found.sort(key=lambda doc: doc["deadLetter"]["at"])
    return DeadLetterList(
        dead_letters=tuple(_dead_letter(doc, module, now) for doc in found[:limit]), more=len(found) > limit
    )


def _dead_letter(doc: Document, module: str, now: datetime) -> DeadLetter:
    letter, total = doc["deadLetter"], doc["total"]
    return DeadLetter(
        module=module,
        order_id=str(doc["_id"]),
        user_id=doc["userId"],
        amount=Money(int(total["value"]), total["currency"]),
        event=doc["outbox"][0]["type"] if doc["outbox"] else "",
        at=rfc3339(letter["at"]),
        age_seconds=max(0, int((now - letter["at"]).total_seconds())),
        failures=letter["failures"],
        reason=letter["reason"],
    )
