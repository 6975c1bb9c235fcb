"""What an operator may do with payments that nobody could settle."""

from collections.abc import Callable
from typing import ParamSpec

from app.payments import payment as domain
from app.payments.payment import ProviderResponse, ResponseCode, RetryPolicy
from app.payments.providers import Provider
from app.payments.repository import LeasedPayment, PaymentRepository
from app.payments.results import Settler, log_line

P = ParamSpec("P")


class NotPossible(Exception):
    """One sentence on why the operator's wish cannot be met."""


class ManualReview:
    """Lists parked payments, and takes them up again or settles them. Every step is on the payment's log."""

    def __init__(
        self,
        payments: PaymentRepository,
        provider: Provider,
        settler: Settler,
        patience: RetryPolicy,
    ) -> None:
        self._payments = payments
        self._provider = provider
        self._settler = settler
        self._patience = patience

    def parked(self, limit: int) -> list[LeasedPayment]:
        """Payments that wait for an operator."""
        return self._payments.parked(limit)

    def retry(self, order_id: str) -> str:
        """Take a parked payment up again; tells its status. Raises NotPossible.

        Once the provider may have forgotten the key, the payment is only settled by what the provider still knows of it.
        """
        held = self._held(order_id)
        if domain.may_send(held.payment, held.key_age(self._payments.now()), self._patience):
            return self._record(
                held, self._decided(domain.retried, held.payment), ResponseCode.UNKNOWN, "retried by hand"
            )
        known = self._asked(held)
        if known is None:
            raise NotPossible("the provider may have forgotten this key: find out there, then resolve it by hand")
        change = self._decided(domain.resolved, held.payment, known, self._patience)
        return self._record(held, change, known.answer, known.reason)

    def resolve(self, order_id: str, answer: ResponseCode, reference: str, reason: str) -> str:
        """Settle a parked payment as an operator found it at the provider; tells its status. Raises NotPossible."""
        held = self._held(order_id)
        outcome = ProviderResponse(answer=answer, reference=reference, reason=reason)
        change = self._decided(domain.resolved, held.payment, outcome, self._patience)
        return self._record(held, change, answer, f"resolved by hand: {reason}")

    def drop_refund(self, order_id: str, refund_id: str, reason: str) -> str:
        """Give up the refund that a parked payment waits for; tells the payment's status. Raises NotPossible.

        Refused where the provider has made it, or cannot say.
        """
        held = self._held(order_id)
        change = self._decided(domain.refund_dropped, held.payment, refund_id, reason)
        known = self._asked(held)
        if known and known.answer != ResponseCode.DECLINED:
            raise NotPossible(f"the provider says of this refund: {known.answer}; take the payment up again instead")
        return self._record(held, change, ResponseCode.UNKNOWN, f"refund {refund_id} dropped by hand: {reason}")

    def _held(self, order_id: str) -> LeasedPayment:
        held = self._payments.find(order_id)
        if held is None:
            raise NotPossible(f"there is no payment for order {order_id}")
        return held

    def _asked(self, held: LeasedPayment) -> ProviderResponse | None:
        call = domain.next_call(self._decided(domain.retried, held.payment).payment)
        return self._provider.find(call) if call else None

    def _decided(
        self, decide: Callable[P, domain.PaymentDecision], *args: P.args, **kwargs: P.kwargs
    ) -> domain.PaymentDecision:
        try:
            return decide(*args, **kwargs)
        except ValueError as exc:
            raise NotPossible(str(exc)) from exc

    def _record(self, held: LeasedPayment, change: domain.PaymentDecision, answer: ResponseCode, reason: str) -> str:
        line = log_line(held, None, ProviderResponse(answer=answer, reason=reason), self._payments.now(), 0.0)
        if not self._settler.record(held, change, line):
            raise NotPossible("the payment changed meanwhile; look again")
        return change.payment.status
