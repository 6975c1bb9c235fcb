"""What an operator can do with parked payments."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import ParamSpec

from app.observability.logging import log
from app.payments import payment as domain
from app.payments.documents import LeasedPayment
from app.payments.payment import PaymentDecision, RetryPolicy
from app.payments.provider_port import Provider, ProviderResponse, ResponseCode
from app.payments.repository import PaymentRepository
from app.payments.results import ProviderResult, ResultWriter

P = ParamSpec("P")


class NotPossible(Exception):
    """An operator's command cannot be carried out; the text is one sentence that says why."""


class ManualReview:
    """Lists, retries and settles parked payments. Every change is an entry of the payment's log.

    All commands return the payment's new status and raise NotPossible. A call reaches the provider within `call_seconds`
    after its outcome was recorded as unknown, or never.
    """

    def __init__(
        self,
        payments: PaymentRepository,
        provider: Provider,
        results: ResultWriter,
        policy: RetryPolicy,
        call_seconds: float,
    ) -> None:
        self._payments = payments
        self._provider = provider
        self._results = results
        self._policy = policy
        self._call_time = timedelta(seconds=call_seconds)

    def list_parked(self, limit: int) -> list[LeasedPayment]:
        """Payments that wait for an operator."""
        return self._payments.list_parked(limit)

    def call_ends(self, parked: LeasedPayment) -> datetime | None:
        """Until when the last call may reach the provider and change what an operator finds there; None where it is answered."""
        return parked.unknown_since + self._call_time if parked.unknown_since else None

    def retry(self, order_id: str) -> str:
        """Retry a parked payment with the same key.

        Once the provider may have forgotten the key, nothing is sent: the payment is settled by what the provider finds.
        """
        current = self._find(order_id)
        decision = _decide(domain.retry, current.payment)
        if domain.may_send(decision.payment, current.key_age(self._payments.now()), self._policy):
            return self._save(current, decision, ResponseCode.UNKNOWN, "retried by hand")
        found = self._find_at_provider(current)
        if found is None:
            raise NotPossible("the provider may have forgotten this key: find out there, then resolve it by hand")
        decision = _decide(domain.resolve, current.payment, found, self._policy, self._payments.now())
        return self._save(current, decision, found.code, found.reason)

    def resolve(self, order_id: str, code: ResponseCode, reference: str, reason: str) -> str:
        """Settle a parked payment as an operator found it at the provider, once its last call cannot arrive any more."""
        current = self._find(order_id)
        response = ProviderResponse(code=code, reference=reference, reason=reason)
        decision = _decide(domain.resolve, current.payment, response, self._policy, self._payments.now())
        self._forbid_during_call(current)
        return self._save(current, decision, code, f"resolved by hand: {reason}")

    def drop_refund(self, order_id: str, refund_id: str, reason: str) -> str:
        """Drop the refund that a parked payment waits for, unless the provider has made it, may yet, or cannot say."""
        current = self._find(order_id)
        decision = _decide(domain.drop_refund, current.payment, refund_id, reason)
        self._forbid_during_call(current)
        found = self._find_at_provider(current)
        if found and found.code != ResponseCode.DECLINED:
            raise NotPossible(f"the provider says of this refund: {found.code}; retry the payment instead")
        return self._save(current, decision, ResponseCode.UNKNOWN, f"refund {refund_id} dropped by hand: {reason}")

    def _find(self, order_id: str) -> LeasedPayment:
        current = self._payments.find(order_id)
        if current is None:
            raise NotPossible(f"there is no payment for order {order_id}")
        return current

    def _forbid_during_call(self, current: LeasedPayment) -> None:
        ends = self.call_ends(current)
        if ends and self._payments.now() < ends:
            raise NotPossible(
                f"the last call may still reach the provider: look there after {ends:%Y-%m-%dT%H:%M:%SZ}, then settle it"
            )

    def _find_at_provider(self, current: LeasedPayment) -> ProviderResponse | None:
        call = domain.next_call(_decide(domain.retry, current.payment).payment)
        try:
            return self._provider.find(call) if call else None
        except Exception as exc:
            log.exception("provider failed", module="payments", order_id=current.payment.order_id)
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason=f"the provider raised {type(exc).__name__}")

    def _save(self, current: LeasedPayment, decision: PaymentDecision, code: ResponseCode, reason: str) -> str:
        result = ProviderResult(leased=current, call=None, response=ProviderResponse(code=code, reason=reason))
        if not self._results.save(current, decision, result):
            raise NotPossible("the payment changed meanwhile; look again")
        return decision.payment.status


def _decide(decide: Callable[P, PaymentDecision], *args: P.args, **kwargs: P.kwargs) -> PaymentDecision:
    try:
        return decide(*args, **kwargs)
    except ValueError as exc:
        raise NotPossible(str(exc)) from exc
