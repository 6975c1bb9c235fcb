"""The invariants of stored orders, their payments and the provider's ledger. It imports nothing of app/."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

HOUR = {"unit": "hour", "amount": 1}
NOBODY_PAYS = ("Declined", "Cancelled")
UNFINISHED = ("Processing", "Refunding", "Pending", "ActionRequired")
TAKEN_BACK = ("open", "lost")
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
    """Whether no work runs: each delivery marks the receiver's work before it removes the sender's mark.

    So the sender is looked at first: the provider, which has work where its ledger still changes by itself or where it has told
    nobody of a change yet, then the notifications, which are applied by making a payment due, then orders and payments, and
    webhooks last.
    """
    notifications = stored.payments.database["notifications"]
    provider_works = {"$or": [{"changesAt": {"$exists": True}}, {"notices.0": {"$exists": True}}]}
    return not (
        stored.ledger.find_one(provider_works, {"_id": 1})
        or notifications.find_one({"dueAt": {"$exists": True}}, {"_id": 1})
        or stored.orders.find_one({"relayDue": {"$exists": True}}, {"_id": 1})
        or stored.orders.find_one({"changesDue": {"$exists": True}}, {"_id": 1})
        or any(
            not _only_held(payment)
            for payment in stored.payments.find(
                {"$or": [{"dueAt": {"$exists": True}}, {"relayDue": {"$exists": True}}]}
            )
        )
        or deliveries_of(stored).find_one({"dueAt": {"$exists": True}}, {"_id": 1})
        or _held_for_an_enabled_endpoint(stored)
    )


def _held_for_an_enabled_endpoint(stored: Stored) -> bool:
    """Whether deliveries are about to become due by themselves."""
    held = deliveries_of(stored).distinct("endpointId", {"status": "held"})
    enabled = {"_id": {"$in": held}, "disabledReason": {"$exists": False}}
    return bool(held) and stored.orders.database["webhook_endpoints"].find_one(enabled, {"_id": 1}) is not None


def deliveries_of(stored: Stored) -> Any:
    """Returns the deliveries of webhooks about these orders."""
    return stored.orders.database["webhook_deliveries"]


def let_time_pass(stored: Stored) -> None:
    """Makes all leased and postponed work due, also the provider's, and all calls so old that they have ended."""
    for documents, due in (
        (stored.orders, "relayDue"),
        (stored.orders, "changesDue"),
        (stored.payments, "relayDue"),
        (stored.payments, "dueAt"),
        (stored.ledger, "changesAt"),
        (deliveries_of(stored), "dueAt"),
    ):
        earlier = {"$dateSubtract": {"startDate": f"${due}", **HOUR}}
        documents.update_many({due: {"$exists": True}}, [{"$set": {due: earlier}}])
    at = {"at": {"$dateSubtract": {"startDate": "$$one.at", **HOUR}}}
    for documents, name in ((stored.payments, "attempts"), (stored.ledger, "notices")):
        older = {"$map": {"input": f"${name}", "as": "one", "in": {"$mergeObjects": ["$$one", at]}}}
        documents.update_many({f"{name}.0": {"$exists": True}}, [{"$set": {name: older}}])


def under_way(stored: Stored) -> list[dict[str, Any]]:
    """Returns the fields that show unfinished work."""
    shown = (
        "orderStatus",
        "paymentStatus",
        "status",
        "relayDue",
        "relayFailures",
        "changesDue",
        "dueAt",
        "owner",
        "fencingToken",
        "retryCount",
    )
    return [
        {name: doc[name] for name in shown if name in doc}
        for documents in (stored.orders, stored.payments, deliveries_of(stored))
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
        if charge.get("authorized", charge["value"]) != case.order["total"]["value"]:
            yield f"single charge: of {charge['value']} instead of {case.order['total']['value']}"
        if "authorized" in charge and charge["value"] != case.order.get("captureRequested"):
            yield f"single charge: {charge['value']} captured instead of {case.order.get('captureRequested')}"
    for doc in filter(None, (case.order, case.payment)):
        if doc["outbox"] and "relayDue" not in doc and "deadLetter" not in doc:
            yield f"event delivery: {len(doc['outbox'])} events of {doc['_id']} are neither due nor a dead letter"
    yield from _timeline_violations(case.order)


def _is_of_payments(entry: dict[str, Any]) -> bool:
    """Whether an event of payments made this entry; an operator can have events of both modules delivered again."""
    replay_of_orders = entry["detail"].startswith("dead letter of orders")
    return entry["type"].startswith("Payment") or (entry["type"] == "DeadLetterReplayed" and not replay_of_orders)


def _timeline_violations(order: dict[str, Any]) -> Iterator[str]:
    entries = order["events"]
    if [entry["sequence"] for entry in entries] != list(range(1, order["sequence"] + 1)):
        yield f"timeline: {len(entries)} entries up to {order['sequence']}"
    came_from = ["(new)", *(entry["to"] for entry in entries)]
    if [entry["from"] for entry in entries] != came_from[:-1]:
        yield "timeline: a transition does not begin where the one before ended"
    if (entries[-1]["to"], entries[-1]["paymentStatus"]) != (order["orderStatus"], order["paymentStatus"]):
        yield "timeline: the last transition is not the order's state"
    heard = sum(map(_is_of_payments, entries))
    if heard != order["paymentSequence"]:
        yield f"in sequence: {heard} events of payments are applied, the last of them is number {order['paymentSequence']}"


def _settled_violations(case: StoredOrder) -> Iterator[str]:
    order, payment = case.order, case.payment
    states = f"{order['orderStatus']} / {order['paymentStatus']}"
    unfinished = order["orderStatus"] == "Processing" or order["paymentStatus"] in UNFINISHED
    if unfinished and not _waits_for_capture(order):
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
    yield from _dispute_violations(case, payment)
    standing = [refund for refund in order.get("refunds", ()) if refund["status"] != "failed"]
    asked_back = sum(refund["value"] for refund in standing)
    due = _due(order, asked_back, captured if _disputed(case) else 0)
    if captured - refunded != due:
        yield f"ledger balance: {order['orderStatus']}, the provider holds {captured - refunded} instead of {due}"
    done = sum(refund["value"] for refund in payment["refunds"] if refund["status"] == "done")
    if (payment["captured"], done) != (captured, refunded):
        yield f"ledger balance: {payment['captured']} - {done} by the payment, {captured} - {refunded} by the provider"
    asked = Counter(refund["id"] for refund in standing)
    known = Counter(refund["refund_id"] for refund in payment["refunds"] if refund["status"] != "failed")
    failed = {refund["refund_id"] for refund in payment["refunds"] if refund["status"] == "failed"}
    given_up = {refund["id"] for refund in order.get("refunds", ()) if refund["status"] == "failed"}
    if failed - given_up:
        yield f"payment status: the refunds {failed} have failed, the order knows {given_up}"
    if asked - known or {*known} - {*asked} - {"cancel"}:
        yield f"payment status: the order wants the refunds {[*asked]}, the payment has {[*known]}"


def _due(order: dict[str, Any], asked_back: int, disputed: int) -> int:
    """What the provider holds; of a cancelled order whose charge is disputed, what the cancellation cannot give back."""
    if order["orderStatus"] in NOBODY_PAYS:
        return disputed - asked_back if disputed else 0
    if _waits_for_capture(order):
        return 0
    captured: int = order.get("captureRequested", order["total"]["value"])
    return captured - asked_back


def _disputed(case: StoredOrder) -> bool:
    return any(charge.get("dispute", {}).get("status") in TAKEN_BACK for charge in case.charges)


def _dispute_violations(case: StoredOrder, payment: dict[str, Any]) -> Iterator[str]:
    booked = [(one["dispute"]["value"], one["dispute"]["status"]) for one in case.charges if "dispute" in one]
    known = [(one["value"], one["status"]) for one in payment.get("disputes", ())]
    if known != booked:
        yield f"payment status: the payment has the disputes {known}, the provider {booked}"
    if (payment["status"] == "Disputed") != _disputed(case):
        yield f"payment status: the payment is {payment['status']}, the provider has the disputes {booked}"


def _waits_for_capture(order: dict[str, Any]) -> bool:
    states = (order["orderStatus"], order["paymentStatus"])
    return states == ("Processing", "Authorized") and "captureRequested" not in order


def _only_held(payment: dict[str, Any]) -> bool:
    """Whether a payment is only refreshed until a client captures or cancels it."""
    return (
        payment["status"] == "Authorized"
        and "relayDue" not in payment
        and not (payment["cancelled"] or payment.get("captureValue") or payment.get("expired") or "owner" in payment)
        and payment.get("refreshesRequested", 0) == payment.get("refreshesMade", 0)
        and payment["dueAt"] > datetime.now(UTC).replace(tzinfo=payment["dueAt"].tzinfo)
    )


def _delivery_violations(order: dict[str, Any], payment: dict[str, Any]) -> Iterator[str]:
    for doc in (order, payment):
        allowed = {"dueAt"} if doc is payment and _only_held(payment) else set()
        left = [name for name in ("relayDue", "dueAt", "owner") if name in doc and name not in allowed]
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
    return entry["type"] in ("OrderCreated", "RefundRequested", "CaptureRequested")
