"""The entries of the simulated provider's ledger: how they change by themselves or by a decision, and what they say. Pure.

An entry's `answer` is what became of the charge, and `value` what it captured, or else the amount that was asked for.
`refunded` is the sum of `refunds`, which are those that have not failed. An entry that changes by itself has the time of the
next change in `changesAt`, and one that a person decides about has the `token` of its page.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.payments.provider_port import (
    ActionKind,
    DisputeStatus,
    NextAction,
    ProviderCall,
    ProviderDispute,
    ProviderPayment,
    ProviderRefund,
    ProviderResponse,
    ResponseCode,
)
from app.payments.providers.demonstrations import PaymentPlan

Entry = dict[str, Any]

REFERENCE_PREFIX = "sim_"
PAGE = "/providers/simulated/actions/"
# How long after the charge, the capture or the refund something happens by itself.
DELAY = timedelta(seconds=5)
# How long the customer has.
ACTION_LIFE = timedelta(minutes=15)
# What is neither taken nor given up.
HELD = frozenset({ResponseCode.PENDING, ResponseCode.AUTHORIZED})
# Declines after which the customer may succeed another time.
RETRY_HELPS = frozenset({"insufficient_funds", "authentication_failed", "action_expired"})
TAKEN_BACK = (DisputeStatus.OPEN.value, DisputeStatus.LOST.value)


@dataclass(frozen=True, kw_only=True)
class EntryUpdate:
    """A change of an entry by compare-and-set: only while the entry has the members `expected`.

    The others are members to set, to remove, and entries to remove from or append to its arrays. `notice` is the type of the
    notification about the change, empty for none.
    """

    expected: Entry
    sets: Entry = field(default_factory=dict)
    unsets: tuple[str, ...] = ()
    pulls: Entry = field(default_factory=dict)
    pushes: Entry = field(default_factory=dict)
    notice: str = ""


def plan_members(plan: PaymentPlan, call: ProviderCall, now: datetime, token: str) -> Entry:
    """The members that the new entry of a charge has for its plan."""
    manual = call.manual_capture
    members: Entry = {"plan": plan.value, "manual": manual, "returnUrl": call.return_url}
    if plan in (PaymentPlan.ASK_CUSTOMER, PaymentPlan.DISPUTE):
        members["token"] = token
    if plan == PaymentPlan.ASK_CUSTOMER:
        members["changesAt"] = now + ACTION_LIFE
    elif plan in (PaymentPlan.CAPTURE_LATER, PaymentPlan.DECLINE_LATER) or _disputed_later(members, manual):
        members["changesAt"] = now + DELAY
    return members


def _disputed_later(entry: Entry, manual: bool) -> bool:
    return entry.get("plan") == PaymentPlan.DISPUTE and not manual


def captured(entry: Entry, value: int, now: datetime) -> EntryUpdate:
    """The capture of `value` of an authorized entry; the rest is released."""
    disputed = {"changesAt": now + DELAY} if _disputed_later(entry, manual=False) else {}
    return EntryUpdate(
        expected={"answer": ResponseCode.AUTHORIZED.value},
        sets={"answer": ResponseCode.CAPTURED.value, "value": value, "authorized": entry["value"], **disputed},
    )


def voided(entry: Entry) -> EntryUpdate:
    """The release of an entry that is authorized or pending."""
    return EntryUpdate(
        expected={"answer": entry["answer"]}, sets={"answer": ResponseCode.VOIDED.value}, unsets=("changesAt",)
    )


def due_update(entry: Entry, now: datetime) -> EntryUpdate | None:
    """The change that the entry makes by itself by now; None for none."""
    if "changesAt" not in entry or entry["changesAt"] > now:
        return None
    match entry["plan"]:
        case PaymentPlan.CAPTURE_LATER:
            return _accepted(entry)
        case PaymentPlan.DECLINE_LATER:
            return _declined("the account does not cover it", "insufficient_funds")
        case PaymentPlan.ASK_CUSTOMER:
            return _declined("the customer did not act in time", "action_expired")
        case PaymentPlan.DISPUTE:
            return _disputed(entry, now)
    return _refund_failed(entry, now)


def decision_update(entry: Entry, approve: bool) -> EntryUpdate | None:
    """The change by a person's decision: the customer approves, or the dispute is won. None where there is nothing to decide."""
    if awaits_customer(entry):
        refused = _declined("the customer refused", "authentication_failed")
        return _accepted(entry) if approve else refused
    if disputed(entry) == DisputeStatus.OPEN:
        status = DisputeStatus.WON if approve else DisputeStatus.LOST
        return EntryUpdate(
            expected={"dispute.status": DisputeStatus.OPEN.value},
            sets={"dispute.status": status.value},
            notice="dispute.closed",
        )
    return None


def awaits_decision(entry: Entry) -> bool:
    """Whether a person has to decide."""
    return awaits_customer(entry) or disputed(entry) == DisputeStatus.OPEN


def awaits_customer(entry: Entry) -> bool:
    """Whether the customer must act."""
    return bool(entry["answer"] == ResponseCode.PENDING and entry["plan"] == PaymentPlan.ASK_CUSTOMER)


def disputed(entry: Entry) -> DisputeStatus | None:
    """What became of the entry's dispute; None where it has none."""
    return DisputeStatus(entry["dispute"]["status"]) if "dispute" in entry else None


def _accepted(entry: Entry) -> EntryUpdate:
    code = ResponseCode.AUTHORIZED if entry["manual"] else ResponseCode.CAPTURED
    return EntryUpdate(
        expected={"answer": ResponseCode.PENDING.value},
        sets={"answer": code.value},
        unsets=("changesAt",),
        notice=f"payment.{code}",
    )


def _declined(reason: str, decline_code: str) -> EntryUpdate:
    return EntryUpdate(
        expected={"answer": ResponseCode.PENDING.value},
        sets={"answer": ResponseCode.DECLINED.value, "reason": reason, "declineCode": decline_code},
        unsets=("changesAt",),
        notice="payment.declined",
    )


def _disputed(entry: Entry, now: datetime) -> EntryUpdate:
    rest = entry["value"] - entry["refunded"]
    expected = {"refunded": entry["refunded"], "dispute": {"$exists": False}}
    if not rest:
        return EntryUpdate(expected=expected, unsets=("changesAt",))
    dispute = {"value": rest, "status": DisputeStatus.OPEN.value, "at": now}
    return EntryUpdate(expected=expected, sets={"dispute": dispute}, unsets=("changesAt",), notice="dispute.opened")


def _refund_failed(entry: Entry, now: datetime) -> EntryUpdate:
    """The failure of the oldest refund; the amount is the merchant's again."""
    failing, *others = sorted((one for one in entry["refunds"] if "failsAt" in one), key=lambda one: one["failsAt"])
    failed = {**failing, "failedAt": now}
    following = {"changesAt": others[0]["failsAt"]} if others else {}
    return EntryUpdate(
        expected={"refunded": entry["refunded"], "refunds.key": failing["key"]},
        sets={"refunded": entry["refunded"] - failing["value"], **following},
        unsets=() if others else ("changesAt",),
        pulls={"refunds": {"key": failing["key"]}},
        pushes={"failedRefunds": failed},
        notice="refund.failed",
    )


def reference(entry: Entry) -> str:
    """The provider's id of the payment."""
    return f"{REFERENCE_PREFIX}{entry['_id']}"


def charge_response(entry: Entry) -> ProviderResponse:
    """What became of the charge."""
    code = ResponseCode(entry["answer"])
    decline_code = entry.get("declineCode", "")
    return ProviderResponse(
        code=code,
        reference=reference(entry),
        reason=entry.get("reason", ""),
        value=entry["value"] if code in (ResponseCode.CAPTURED, ResponseCode.AUTHORIZED) else 0,
        decline_code=decline_code,
        retry_helps=decline_code in RETRY_HELPS,
        action=_action(entry) if awaits_customer(entry) else None,
    )


def refunds(entry: Entry) -> tuple[ProviderRefund, ...]:
    """All refunds of the entry, those that failed included."""
    return (
        *(_refund(one, ResponseCode.REFUNDED) for one in entry["refunds"]),
        *(_refund(one, ResponseCode.DECLINED, REFUND_FAILED) for one in entry.get("failedRefunds", ())),
    )


REFUND_FAILED = "the payer's bank did not accept the refund"


def refund_reference(key: str) -> str:
    """The reference of the refund with this key."""
    return f"{REFERENCE_PREFIX}{key}"


def _refund(refund: Entry, code: ResponseCode, reason: str = "") -> ProviderRefund:
    return ProviderRefund(
        reference=refund_reference(refund["key"]),
        value=refund["value"],
        code=code,
        refund_id=refund.get("refundId", ""),
        reason=reason,
    )


def disputes(entry: Entry) -> tuple[ProviderDispute, ...]:
    """The dispute of the entry, if it has one."""
    status = disputed(entry)
    if status is None:
        return ()
    reason = "the payer does not know the charge"
    return (
        ProviderDispute(
            reference=f"{reference(entry)}:dispute",
            value=entry["dispute"]["value"],
            status=status,
            reason=f"{reason}; decide at {_page(entry)}" if status == DisputeStatus.OPEN else reason,
        ),
    )


def listed_payment(entry: Entry) -> ProviderPayment:
    """The entry as the provider's own list has it."""
    code = ResponseCode(entry["answer"])
    return ProviderPayment(
        reference=reference(entry),
        order_id=entry["orderId"],
        at=entry["at"],
        code=code,
        currency=entry["currency"],
        captured=entry["value"] if code == ResponseCode.CAPTURED else 0,
        refunded=entry["refunded"],
        disputed=entry["dispute"]["value"] if disputed(entry) in (DisputeStatus.OPEN, DisputeStatus.LOST) else 0,
        disputes=len(disputes(entry)),
    )


def _action(entry: Entry) -> NextAction:
    return NextAction(type=ActionKind.REDIRECT, url=_page(entry), expires_at=entry.get("changesAt"))


def _page(entry: Entry) -> str:
    return f"{PAGE}{entry['token']}"
