"""The invariants of stored orders, their payments and the provider's ledger. It imports nothing of app/."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

HOUR = {"unit": "hour", "amount": 1}
NOBODY_PAYS = ("Declined", "Cancelled")
UNFINISHED = ("Processing", "Refunding")
PARKED = "Unknown"


class Stored(NamedTuple):
    """The three collections, in one database or several."""

    orders: Any
    payments: Any
    ledger: Any

    @classmethod
    def of(cls, database: Any) -> Self:
        """Returns the collections of a system in one process."""
        return cls(database["orders"], database["payments"], database["ledger"])


@dataclass(frozen=True)
class StoredOrder:
    """One order with its payment and the provider's charges for it."""

    order: dict[str, Any]
    payment: dict[str, Any] | None
    charges: Sequence[dict[str, Any]]

    @property
    def parked(self) -> bool:
        """Whether its payment is parked."""
        return self.payment is not None and self.payment["status"] == PARKED

    @property
    def dead(self) -> bool:
        """Whether it has a dead letter."""
        return "deadLetter" in self.order or "deadLetter" in (self.payment or {})


def violations(stored: Stored, acknowledged: Sequence[str], *, operator_comes: bool = False) -> Iterator[str]:
    """Yields all violations once no work runs, each with the name of its invariant.

    If an `operator_comes`, an order that waits for one is checked only by the invariants of every order.
    """
    cases = {str(case.order["_id"]): case for case in _cases(stored)}
    for order_id in {*acknowledged} - cases.keys():
        yield f"acknowledged order: {order_id} is not stored"
    for order_id in [doc["_id"] for doc in stored.payments.find() if doc["_id"] not in cases]:
        yield f"no orphan: a payment of {order_id}, which is not stored"
    for case in cases.values():
        yield from _invariant_violations(case)
        if case.parked or case.dead:
            if not operator_comes:
                yield f"operator: {'parked' if case.parked else 'a dead letter'}"
        else:
            yield from _settled_violations(case)


def waiting_for_operator(stored: Stored) -> set[str]:
    """Returns the ids of the orders with a parked payment or a dead letter."""
    return {str(case.order["_id"]) for case in _cases(stored) if case.parked or case.dead}


def booked(stored: Stored, order_id: str) -> tuple[tuple[str, int, int], ...]:
    """Returns the ledger entries of an order: response, refunded amount, number of refunds."""
    entries = stored.ledger.find({"orderId": order_id})
    return tuple((one["answer"], one["refunded"], len(one["refunds"])) for one in entries)


def at_rest(stored: Stored) -> bool:
    """Whether no work runs: each delivery marks the receiver's work before it removes the sender's mark."""
    return not (
        stored.orders.find_one({"relayDue": {"$exists": True}}, {"_id": 1})
        or stored.payments.find_one({"$or": [{"dueAt": {"$exists": True}}, {"relayDue": {"$exists": True}}]})
    )


def let_time_pass(stored: Stored) -> None:
    """Makes all leased and postponed work due, and all calls so old that they have ended."""
    for documents, due in ((stored.orders, "relayDue"), (stored.payments, "relayDue"), (stored.payments, "dueAt")):
        earlier = {"$dateSubtract": {"startDate": f"${due}", **HOUR}}
        documents.update_many({due: {"$exists": True}}, [{"$set": {due: earlier}}])
    at = {"at": {"$dateSubtract": {"startDate": "$$one.at", **HOUR}}}
    older = {"$map": {"input": "$attempts", "as": "one", "in": {"$mergeObjects": ["$$one", at]}}}
    stored.payments.update_many({"attempts.0": {"$exists": True}}, [{"$set": {"attempts": older}}])


def under_way(stored: Stored) -> list[dict[str, Any]]:
    """Returns the fields that show unfinished work."""
    shown = (
        "orderStatus",
        "paymentStatus",
        "status",
        "relayDue",
        "relayFailures",
        "dueAt",
        "owner",
        "fencingToken",
        "retryCount",
    )
    return [
        {name: doc[name] for name in shown if name in doc}
        for documents in (stored.orders, stored.payments)
        for doc in documents.find()
    ]


def _cases(stored: Stored) -> Iterator[StoredOrder]:
    charges = defaultdict(list)
    for entry in stored.ledger.find():
        charges[entry["orderId"]].append(entry)
    for order in stored.orders.find():
        order_id = str(order["_id"])
        yield StoredOrder(order, stored.payments.find_one({"_id": order_id}), charges[order_id])


def _invariant_violations(case: StoredOrder) -> Iterator[str]:
    captured = [charge for charge in case.charges if charge["answer"] == "captured"]
    if len(captured) > 1:
        yield f"single charge: {len(captured)} are captured"
    for charge in case.charges:
        refunds = [refund["value"] for refund in charge["refunds"]]
        if charge["refunded"] != sum(refunds) or charge["refunded"] > charge["value"]:
            yield f"ledger balance: {charge['refunded']} refunded of {charge['value']} in {refunds}"
        if charge["value"] != case.order["total"]["value"]:
            yield f"single charge: of {charge['value']} instead of {case.order['total']['value']}"
    for doc in filter(None, (case.order, case.payment)):
        if doc["outbox"] and "relayDue" not in doc and "deadLetter" not in doc:
            yield f"event delivery: {len(doc['outbox'])} events of {doc['_id']} are neither due nor a dead letter"
    yield from _timeline_violations(case.order)


def _timeline_violations(order: dict[str, Any]) -> Iterator[str]:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        yield f"timeline: {len(entries)} entries up to {order['sequence']}"
    came_from = ["(new)", *(entry["to"] for entry in entries)]
    if [entry["from"] for entry in entries] != came_from[:-1]:
        yield "timeline: a transition does not begin where the one before ended"
    if (entries[-1]["to"], entries[-1]["paymentStatus"]) != (order["orderStatus"], order["paymentStatus"]):
        yield "timeline: the last transition is not the order's state"
    heard = sum(entry["actor"] == "payments" for entry in entries)
    if heard != order["paymentSequence"]:
        yield f"in sequence: {heard} events of payments are applied, the last of them is number {order['paymentSequence']}"


def _settled_violations(case: StoredOrder) -> Iterator[str]:
    order, payment = case.order, case.payment
    states = f"{order['orderStatus']} / {order['paymentStatus']}"
    if order["orderStatus"] == "Processing" or order["paymentStatus"] in UNFINISHED:
        yield f"settled in time: the order is {states}"
    if payment is None:
        yield "settled in time: there is no payment"
        return
    if payment["status"] in UNFINISHED:
        yield f"settled in time: the payment is {payment['status']}"
    if payment["status"] != order["paymentStatus"]:
        yield f"payment status: the order is {states}, the payment {payment['status']}"
    yield from _ledger_violations(case, payment)
    yield from _delivery_violations(order, payment)


def _ledger_violations(case: StoredOrder, payment: dict[str, Any]) -> Iterator[str]:
    order = case.order
    captured = sum(charge["value"] for charge in case.charges if charge["answer"] == "captured")
    refunded = sum(charge["refunded"] for charge in case.charges)
    standing = [refund for refund in order.get("refunds", ()) if refund["id"] not in order.get("failedRefunds", ())]
    asked_back = sum(refund["value"] for refund in standing)
    due = 0 if order["orderStatus"] in NOBODY_PAYS else order["total"]["value"] - asked_back
    if captured - refunded != due:
        yield f"ledger balance: {order['orderStatus']}, the provider holds {captured - refunded} instead of {due}"
    done = sum(refund["value"] for refund in payment["refunds"] if refund["status"] == "done")
    if (payment["captured"], done) != (captured, refunded):
        yield f"ledger balance: {payment['captured']} - {done} by the payment, {captured} - {refunded} by the provider"
    asked = Counter(refund["id"] for refund in standing)
    known = Counter(refund["refund_id"] for refund in payment["refunds"])
    if asked - known or {*known} - {*asked} - {"cancel"}:
        yield f"payment status: the order wants the refunds {[*asked]}, the payment has {[*known]}"


def _delivery_violations(order: dict[str, Any], payment: dict[str, Any]) -> Iterator[str]:
    for doc in (order, payment):
        left = [name for name in ("relayDue", "dueAt", "owner") if name in doc]
        if doc["outbox"] or left:
            yield f"event delivery: {len(doc['outbox'])} events wait, with {left}"
    told = [entry["sequence"] for entry in order["events"] if _told_payments(entry)]
    if payment["orderSequence"] != told[-1]:
        yield f"in sequence: payments was told {told}, and knows {payment['orderSequence']}"
    if payment["sequence"] != order["paymentSequence"]:
        yield f"in sequence: payments has told {payment['sequence']}, and orders knows {order['paymentSequence']}"


def _told_payments(entry: dict[str, Any]) -> bool:
    if entry["type"] == "OrderCancelled":
        return entry["from"] != "Declined"
    return entry["type"] in ("OrderCreated", "RefundRequested")
