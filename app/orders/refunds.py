"""The refunds of an order, and how much of its money was taken, went back, is going back and is left. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple

PENDING = "pending"
SUCCEEDED = "succeeded"
FAILED = "failed"

# The id of the refund that payments makes for a cancellation; later ones are `cancel-2`, `cancel-3` and so on.
CANCELLATION = "cancel"
BY_CANCELLATION = "the order was cancelled"
AT_PROVIDER = "made at the provider"


@dataclass(frozen=True, kw_only=True)
class OrderRefund:
    """A part of what was taken that goes back to the payer; `value` in minor units.

    `status` is PENDING, SUCCEEDED or FAILED, with the reason of the provider in `failure`. It is empty where it is not known: a
    refund of an order that was stored before refunds had a status. `requested` is how a client asked for the amount, and `reason`
    why. `at` is when the refund was recorded, None until then.
    """

    refund_id: str
    value: int
    status: str = PENDING
    requested: str = ""
    reason: str = ""
    failure: str = ""
    at: datetime | None = None


class OrderAmounts(NamedTuple):
    """The money of an order, in minor units; `captured` is the sum of the others.

    `refundable` can be refunded now; `blocked` cannot: a dispute is open or lost, or an operator has to find out what happened.
    """

    captured: int
    refunded: int
    pending: int
    refundable: int
    blocked: int


NOTHING = OrderAmounts(0, 0, 0, 0, 0)


def divided(captured: int, refunds: Iterable[OrderRefund], *, all_returns: bool, refundable: bool) -> OrderAmounts:
    """What `refunds` make of what was captured.

    `all_returns`: what is left goes back without being asked for. `refundable`: what is left can be refunded. Refunds at the provider
    may exceed what was captured, and then count only up to that.
    """
    values = dict.fromkeys((SUCCEEDED, PENDING, FAILED), 0)
    for one in refunds:
        values[one.status or PENDING] += one.value
    refunded = min(values[SUCCEEDED], captured)
    left = captured - refunded
    pending = left if all_returns else min(values[PENDING], left)
    left -= pending
    return OrderAmounts(captured, refunded, pending, left if refundable else 0, 0 if refundable else left)


def reserved(refunds: Iterable[OrderRefund]) -> int:
    """How much is refunded or reserved for refunds, in minor units."""
    return sum(one.value for one in refunds if one.status != FAILED)


def find(refunds: Iterable[OrderRefund], refund_id: str) -> OrderRefund | None:
    """The refund with this id; None where there is none."""
    return next((one for one in refunds if one.refund_id == refund_id), None)


def with_outcome(
    refunds: tuple[OrderRefund, ...], refund_id: str, value: int, failure: str | None = None
) -> tuple[OrderRefund, ...]:
    """The refunds after one has succeeded, or has failed for the reason `failure`, maybe after it had succeeded.

    One with an unknown id was made at the provider or by a cancellation.
    """
    known = find(refunds, refund_id)
    before = known or OrderRefund(refund_id=refund_id, value=value, reason=_origin(refund_id))
    after = replace(
        before,
        # What payments gives back for a cancellation may differ from what was left when it was recorded here.
        value=value if is_cancellation(refund_id) else before.value,
        status=SUCCEEDED if failure is None else FAILED,
        failure=failure or "",
    )
    return tuple(after if one is known else one for one in refunds) if known else (*refunds, after)


def with_rest(refunds: tuple[OrderRefund, ...], captured: int) -> tuple[OrderRefund, ...]:
    """The refunds of an order of which everything goes back: a pending one of the cancellation covers all that others leave."""
    waiting = next((one for one in refunds if is_cancellation(one.refund_id) and one.status == PENDING), None)
    others = tuple(one for one in refunds if one is not waiting)
    rest = captured - reserved(others)
    if rest <= 0:
        return others
    if waiting:
        return tuple(replace(one, value=rest) if one is waiting else one for one in refunds)
    earlier = sum(is_cancellation(one.refund_id) for one in others)
    refund_id = f"{CANCELLATION}-{earlier + 1}" if earlier else CANCELLATION
    return (*others, OrderRefund(refund_id=refund_id, value=rest, reason=BY_CANCELLATION))


def is_cancellation(refund_id: str) -> bool:
    """Whether payments makes this refund for a cancellation."""
    return refund_id.partition("-")[0] == CANCELLATION


def _origin(refund_id: str) -> str:
    return BY_CANCELLATION if is_cancellation(refund_id) else AT_PROVIDER
