"""Compares the provider's own list of payments with the stored ones, by id and amount."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from app.payments import payment as domain
from app.payments import provider_calls
from app.payments.documents import LeasedPayment
from app.payments.payment import Payment, RefundStatus
from app.payments.provider_port import (
    CallKind,
    DisputeStatus,
    Provider,
    ProviderPayment,
    ProviderResponse,
    ResponseCode,
)
from app.payments.repository import PaymentRepository
from app.storage.bulk import in_batches

BATCH = 200


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """The money of a payment, in minor units of its currency."""

    currency: str
    captured: int
    refunded: int
    disputed: int

    def __str__(self) -> str:
        sums = f"captured {self.captured}, refunded {self.refunded}, disputed {self.disputed}"
        return f"{sums} in minor units of {self.currency}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something in which the provider and the stored payment differ, and the command that mends it."""

    kind: str
    order_id: str
    reference: str
    detail: str
    mend: str


class Reconciliation:
    """Reads both lists; changes nothing."""

    def __init__(self, provider: Provider, payments: PaymentRepository) -> None:
        self._provider = provider
        self._payments = payments

    def differences(self, since: datetime) -> Iterator[Difference]:
        """The differences among payments made since then. Raises OSError where the provider's list cannot be read.

        A difference is confirmed by another read of both sides, since a payment may change while the lists are read.
        """
        listed: set[str] = set()
        for batch in in_batches(self._provider.list_payments(since), BATCH):
            stored = self._payments.find_many([one.order_id for one in batch if one.order_id])
            for one in batch:
                if one.order_id:
                    listed.add(one.reference)
                    yield from self._compare(one, stored.get(one.order_id))
        for payment in self._payments.captured_since(since, self._provider.capabilities.name):
            if payment.reference not in listed:
                yield from self._not_listed(payment)

    def _compare(self, listed: ProviderPayment, payment: Payment | None) -> Iterator[Difference]:
        moved = Amounts(
            currency=listed.currency, captured=listed.captured, refunded=listed.refunded, disputed=listed.disputed
        )
        if payment is None:
            yield _difference("no payment", listed, f"the provider has {moved}", "refund it at the provider")
        elif payment.reference not in ("", listed.reference):
            if listed.captured > listed.refunded:
                detail = f"the provider has {moved}, beside the payment {payment.reference}"
                yield _difference("charged twice", listed, detail, "refund it at the provider")
        elif moved != _sums(payment) or _open_disputes(payment) or listed.disputes > len(payment.disputes):
            yield from self._confirmed(listed)

    def _confirmed(self, listed: ProviderPayment) -> Iterator[Difference]:
        current = self._payments.find(listed.order_id)
        if current is None or _in_progress(current):
            return
        payment = current.payment
        record = self._record(payment, listed.reference)
        moved = _sums_of_record(record, listed.currency)
        known = _sums(payment, record)
        if moved != known:
            detail = f"the provider has {moved}, the payment {known}"
            yield _difference("amounts", listed, detail, f"payments refresh {payment.order_id}")
        elif differing := _differing_disputes(record, payment):
            yield _difference("dispute", listed, differing[0], f"payments refresh {payment.order_id}")

    def _not_listed(self, payment: Payment) -> Iterator[Difference]:
        record = self._record(payment, payment.reference)
        known = _sums(payment, record)
        if record.code in domain.NOT_SETTLED or _sums_of_record(record, known.currency) != known:
            yield Difference(
                kind="not at the provider",
                order_id=payment.order_id,
                reference=payment.reference,
                detail=f"the payment has {known}, the provider says {record.code}",
                mend=f"payments refresh {payment.order_id}",
            )

    def _record(self, payment: Payment, reference: str) -> ProviderResponse:
        return self._provider.retrieve(provider_calls.retrieval(payment, reference))


def _in_progress(current: LeasedPayment) -> bool:
    """Whether a call is to be made, or is being made, that settles what is open."""
    call = provider_calls.next_call(current.payment)
    return current.under_lease or (call is not None and call.kind != CallKind.RETRIEVE)


def _difference(kind: str, listed: ProviderPayment, detail: str, mend: str) -> Difference:
    return Difference(kind=kind, order_id=listed.order_id, reference=listed.reference, detail=detail, mend=mend)


def _sums(payment: Payment, record: ProviderResponse | None = None) -> Amounts:
    """What of the payment the provider has to know: not the refunds by other means, unless its record has them."""
    lost = sum(dispute.value for dispute in payment.disputes if dispute.status != DisputeStatus.WON)
    recorded = {one.refund_id for one in record.refunds if one.code == ResponseCode.REFUNDED} if record else set()
    elsewhere = sum(
        one.value
        for one in payment.refunds
        if one.status == RefundStatus.DONE and one.by_other_means and one.refund_id not in recorded
    )
    return Amounts(
        currency=payment.total.currency,
        captured=payment.captured,
        refunded=payment.refunded - elsewhere,
        disputed=lost,
    )


def _open_disputes(payment: Payment) -> set[str]:
    return {dispute.dispute_id for dispute in payment.disputes if dispute.status == DisputeStatus.OPEN}


def _differing_disputes(record: ProviderResponse, payment: Payment) -> list[str]:
    """The disputes whose difference no amount shows: those that were won unseen, and lost ones that the payment has as open."""
    known = {dispute.dispute_id: dispute.status for dispute in payment.disputes}
    differing = ((known.get(one.reference), one.status) for one in record.disputes)
    return [
        f"the provider says {status}, the payment {before or 'has no dispute'}"
        for before, status in differing
        if before is None or (before == DisputeStatus.OPEN and status != before)
    ]


def _sums_of_record(record: ProviderResponse, currency: str) -> Amounts:
    return Amounts(
        currency=currency,
        captured=record.value if record.code == ResponseCode.CAPTURED else 0,
        refunded=sum(refund.value for refund in record.refunds if refund.code == ResponseCode.REFUNDED),
        disputed=sum(dispute.value for dispute in record.disputes if dispute.status != DisputeStatus.WON),
    )
