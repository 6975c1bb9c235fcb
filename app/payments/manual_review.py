"""What an operator can do with parked payments, and with payments that an operator has resolved."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import ParamSpec

from app.contracts.base import NotFound, NotPossible
from app.contracts.payments import PaymentStatus
from app.observability.logging import log
from app.payments import corrections, payment_commands, provider_calls
from app.payments.documents import LeasedPayment
from app.payments.payment import ManualDecision, PaymentDecision, RetryPolicy
from app.payments.provider_port import Provider, ProviderCall, ProviderResponse, ResponseCode
from app.payments.refund_outcomes import with_other_means
from app.payments.repository import PaymentRepository
from app.payments.results import ProviderResult, ResultWriter

P = ParamSpec("P")


class ManualReview:
    """Lists, retries and settles parked payments, and corrects how they were settled.

    Every change is an entry of the payment's log and of the order's timeline, with the operator's name and reason. All commands
    return the payment's new status and raise NotFound and NotPossible; `request_id` is the operator's own request. Until when a call may
    reach the provider is stored with the payment; where an older version has not, it is within `call_seconds` after its outcome was
    recorded as unknown, or never.
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

    def list_parked(self, limit: int, after_id: str = "") -> list[LeasedPayment]:
        """Payments that wait for an operator, by order id, of orders with an id greater than `after_id`."""
        return self._payments.list_parked(limit, after_id)

    def now(self) -> datetime:
        """The database's time."""
        return self._payments.now()

    def call_ends(self, parked: LeasedPayment) -> datetime | None:
        """Until when a call may reach the provider and change what an operator finds there; None where the last one is answered."""
        if parked.unknown_since is None:
            return None
        # An older version has not recorded it.
        return parked.call_ends or parked.unknown_since + self._call_time

    def pending_call(self, parked: LeasedPayment) -> ProviderCall | None:
        """The call of a parked payment whose outcome is not known; None where there is none."""
        return provider_calls.next_call(_decide(payment_commands.retry, parked.payment).payment)

    def retry(self, order_id: str, operator: str, reason: str, request_id: str = "") -> PaymentStatus:
        """Retry a parked payment with the same key.

        Once the provider may have forgotten the key, nothing is sent: the payment is settled by what the provider finds.
        """
        current = self._find(order_id)
        decision = _decide(payment_commands.retry, current.payment)
        if provider_calls.may_send(decision.payment, current.key_age(self.now()), self._policy):
            note = f"retried: {reason}"
            return self._save(current, decision, ResponseCode.UNKNOWN, operator, note, request_id)
        found = self._find_at_provider(current)
        if found is None:
            raise NotPossible("the provider may have forgotten this key: find out there, then resolve it by hand")
        decision = _decide(payment_commands.resolve, current.payment, found, self._policy, self.now())
        note = f"retried, and the provider says {found.code}: {reason}"
        return self._save(current, decision, found.code, operator, note, request_id)

    def resolve(
        self, order_id: str, code: ResponseCode, reference: str, operator: str, reason: str, request_id: str = ""
    ) -> PaymentStatus:
        """Settle a parked payment as an operator found it at the provider, once its last call cannot arrive any more.

        Where an operator has resolved it before, this corrects that resolution; the same command again changes nothing. A refund
        that is resolved as refunded without its `reference` was given back by other means, which is refused where the provider says
        that it has made the refund, or is about to.
        """
        current = self._find(order_id)
        resolution = ManualDecision(outcome=code, operator=operator, reason=reason, reference=reference)
        if corrections.is_correction(current.payment, code):
            return self._correct(current, resolution, request_id)
        call = self.pending_call(current)
        response = ProviderResponse(code=code, reference=reference)
        decision = _decide(payment_commands.resolve, current.payment, response, self._policy, self.now())
        self._forbid_during_call(current)
        resolution = replace(resolution, refund_id=call.refund_id if call else "")
        if resolution.refund_id and code == ResponseCode.REFUNDED and not reference:
            # A refund that the provider has made is named by its id there.
            self._forbid_second_refund(current)
            by_other_means = with_other_means(decision.payment, resolution.refund_id, f"{operator}: {reason}")
            decision = replace(decision, payment=by_other_means)
        note = f"resolved as {code}: {reason}"
        return self._save(current, _resolved(decision, resolution), code, operator, note, request_id)

    def drop_refund(
        self, order_id: str, refund_id: str, operator: str, reason: str, request_id: str = ""
    ) -> PaymentStatus:
        """Drop the refund that a parked payment waits for, unless the provider has made it, may yet, or cannot say."""
        current = self._find(order_id)
        decision = _decide(payment_commands.drop_refund, current.payment, refund_id, "it was dropped")
        self._forbid_made_refund(current)
        note = f"refund {refund_id} dropped: {reason}"
        return self._save(current, decision, ResponseCode.UNKNOWN, operator, note, request_id)

    def _correct(self, current: LeasedPayment, resolution: ManualDecision, request_id: str) -> PaymentStatus:
        wrong, code = current.payment.resolution, resolution.outcome
        if wrong and wrong.outcome == code:
            if replace(wrong, refund_id="") == resolution:
                return current.payment.status
            raise NotPossible(f"operator {wrong.operator} has resolved this payment as {code} before")
        if current.under_lease and current.lease_end > self.now():
            raise NotPossible("the provider is being called for this payment: look again in a minute")
        decision = _decide(corrections.correct, current.payment, code, resolution.reference, self._policy, self.now())
        if code in corrections.NOTHING and corrections.withdrawn_refund(current.payment):
            self._forbid_made_refund(current)
        old = wrong.outcome if wrong else ""
        note = f"corrected from {old} to {code}: {resolution.reason}"
        decision = replace(_resolved(decision, resolution), corrects=old)
        return self._save(current, decision, code, resolution.operator, note, request_id)

    def _find(self, order_id: str) -> LeasedPayment:
        current = self._payments.find(order_id)
        if current is None:
            raise NotFound(f"there is no payment for order {order_id}")
        return current

    def _forbid_made_refund(self, current: LeasedPayment) -> None:
        self._forbid_during_call(current)
        found = self._find_at_provider(current)
        if found and found.code != ResponseCode.DECLINED:
            raise _says_of_refund(found)

    def _forbid_second_refund(self, current: LeasedPayment) -> None:
        # Where the provider is another one, or cannot say, the money may go back all the same: the operator has looked there.
        if current.payment.provider in ("", self._provider.capabilities.name):
            found = self._find_at_provider(current)
            if found and found.code in (ResponseCode.REFUNDED, ResponseCode.PENDING):
                raise _says_of_refund(found)

    def _forbid_during_call(self, current: LeasedPayment) -> None:
        ends = self.call_ends(current)
        if ends and self.now() < ends:
            raise NotPossible(
                f"the last call may still reach the provider: look there after {ends:%Y-%m-%dT%H:%M:%SZ}, then settle it"
            )

    def _find_at_provider(self, current: LeasedPayment) -> ProviderResponse | None:
        call, at = self.pending_call(current), current.payment.provider
        if at not in ("", self._provider.capabilities.name):
            raise NotPossible(f"the payment is at {at}, which PAYMENT_PROVIDER does not name here")
        try:
            return self._provider.find(call) if call else None
        except Exception as exc:
            log.exception("provider failed", module="payments", order_id=current.payment.order_id)
            return ProviderResponse(code=ResponseCode.UNKNOWN, reason=f"the provider raised {type(exc).__name__}")

    def _save(
        self,
        current: LeasedPayment,
        decision: PaymentDecision,
        code: ResponseCode,
        operator: str,
        note: str,
        request_id: str,
    ) -> PaymentStatus:
        decision = replace(decision, operator=operator, operator_note=note, request_id=request_id)
        response = ProviderResponse(code=code, reason=f"operator {operator}: {note}")
        result = ProviderResult(leased=current, call=None, response=response, request_id=request_id)
        if not self._results.save(current, decision, result):
            raise NotPossible("the payment changed meanwhile; look again")
        payment = decision.payment
        marks = {"order_id": payment.order_id, "request_id": request_id}
        log.info("payment reviewed", module="payments", operator=operator, note=note, **marks)
        if decision.due_in == 0.0:
            self._results.work_due.set()
        return payment.status


def _says_of_refund(found: ProviderResponse) -> NotPossible:
    return NotPossible(f"the provider says of this refund: {found.code}; retry the payment instead")


def _resolved(decision: PaymentDecision, resolution: ManualDecision) -> PaymentDecision:
    return replace(decision, payment=replace(decision.payment, resolution=resolution))


def _decide(decide: Callable[P, PaymentDecision], *args: P.args, **kwargs: P.kwargs) -> PaymentDecision:
    try:
        return decide(*args, **kwargs)
    except ValueError as exc:
        raise NotPossible(str(exc)) from exc
