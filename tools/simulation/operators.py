"""Operators: what they do about dead letters and parked payments."""

from datetime import UTC, datetime
from typing import Any

from app.contracts.base import NotPossible
from app.contracts.orders import ReplayOrderEvents
from app.contracts.payments import ReplayPaymentEvents
from app.payments.documents import LeasedPayment
from app.payments.payment import CANCELLATION_REFUND
from app.payments.payment_commands import retry
from app.payments.provider_calls import next_call
from app.payments.provider_port import CallKind, ProviderCall, ResponseCode
from tools.simulation.process import SimulatedProcess
from tools.simulation.scheduler import START

# How a difference says that a refresh mends it.
REFRESH = "payments refresh "


class SimulatedOperator:
    """An operator who looks at dead letters and parked payments, and acts."""

    def __init__(self, world: Any, process: SimulatedProcess) -> None:
        self._world = world
        self._process = process

    def waiting(self) -> dict[str, str]:
        """The ids of the orders that wait for an operator, with the reasons."""
        review = self._process.payments.manual_review
        letters = [*self._process.orders.outbox.dead_letters(1000), *self._process.payments.outbox.dead_letters(1000)]
        parked = {leased.payment.order_id: leased.payment.parked_reason for leased in review.list_parked(1000)}
        return parked | {str(letter["_id"]): letter["deadLetter"]["reason"] for letter in letters}

    def replay(self) -> None:
        """Replay every dead letter."""
        for message, module in (
            (ReplayOrderEvents, self._process.orders),
            (ReplayPaymentEvents, self._process.payments),
        ):
            for letter in module.outbox.dead_letters(1000):
                self._world.took("recovery", "dead letter replayed")
                order_id = str(letter["_id"])
                request = message(request_id="operator", order_id=order_id, operator="Ada", reason="it is mended")
                self._process.bus.request(request)

    def reconcile(self) -> None:
        """Compare the provider's list with the payments, and refresh those that differ."""
        if not self._world.notifier:
            return
        for difference in [*self._process.payments.reconciliation.differences(datetime.fromtimestamp(START, UTC))]:
            if difference.mend.startswith(REFRESH) and self._refresh(difference.order_id):
                self._world.took("recovery", f"reconciled: {difference.kind}")

    def _refresh(self, order_id: str) -> bool:
        return bool(self._process.payments.notifications.refresh(order_id))

    def review(self, *, only_retry: bool = False) -> None:
        """Retry or settle every parked payment, and pay what was recorded before an operator could pay it."""
        self._world.pay_outs.pay_recorded()
        for leased in self._process.payments.manual_review.list_parked(1000):
            try:
                self._settle(leased) if not only_retry else self._retry(leased.payment.order_id)
            except NotPossible as exc:
                self._world.took("recovery", f"operator is told: {str(exc).split(':')[0][:60]}")

    def _retry(self, order_id: str) -> None:
        self._process.payments.manual_review.retry(order_id, "Ada", "it works again")
        self._world.took("recovery", "payment retried by hand")

    def _take_over(self, order_id: str, kind: CallKind) -> None:
        try:
            self._retry(order_id)
        except NotPossible:
            if kind != CallKind.VOID or not self._world.notifier.void(order_id):
                raise
            self._process.payments.manual_review.resolve(
                order_id, ResponseCode.VOIDED, "", "Ada", "voided at the provider"
            )
            self._world.took("recovery", "payment voided at the provider")

    def _settle(self, leased: LeasedPayment) -> None:
        order_id, review = leased.payment.order_id, self._process.payments.manual_review
        call = next_call(retry(leased.payment).payment)
        if call is None:
            return
        notifier = self._world.notifier
        if notifier and call.kind != CallKind.REFUND and notifier.knows(order_id):
            # The provider has a record of the payment: what it says is taken over, and nothing is done twice.
            self._take_over(order_id, call.kind)
            return
        if notifier and notifier.disputed(order_id):
            self._refresh(order_id)
            return
        if call.kind != CallKind.REFUND:
            nothing = ResponseCode.VOIDED if leased.payment.cancelled else ResponseCode.DECLINED
            code = ResponseCode.CAPTURED if self._world.captured(order_id) else nothing
        elif self._world.refunded(call.key):
            code = ResponseCode.REFUNDED
        elif call.refund_id.partition("-")[0] != CANCELLATION_REFUND:
            review.drop_refund(order_id, call.refund_id, "Ada", "the card is closed")
            self._world.took("recovery", "refund dropped by hand")
            return
        elif (ends := review.call_ends(leased)) and self._world.scheduler.now < ends.timestamp():
            # Nothing would refuse the refund itself: the operator was told to wait.
            return
        elif self._world.by_other_means(order_id):
            self._pay_out(call)
            return
        elif notifier.refund_by_operator(call):
            code = ResponseCode.REFUNDED
        else:
            # Refunds at the provider have left too little for it.
            self._refresh(order_id)
            return
        review.resolve(order_id, code, "by hand", "Ada", "found at the bank")
        self._world.took("recovery", f"payment resolved by hand as {code}")

    def _pay_out(self, call: ProviderCall) -> None:
        """Give a cancelled order's money back by other means: record it first, then pay what was recorded."""
        world, order_id = self._world, call.order_id
        if not world.pay_outs.begin(order_id):
            return
        if world.notifier and not world.notifier.covers(call):
            # The operator looks at the provider before: what went back there is not paid again.
            self._refresh(order_id)
            return
        self._process.payments.manual_review.resolve(order_id, ResponseCode.REFUNDED, "", "Ada", "a bank transfer")
        world.took("recovery", "payment resolved by hand as refunded")
        world.pay_outs.pay_recorded()
