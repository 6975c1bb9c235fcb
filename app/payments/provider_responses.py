"""What a response of the provider leads to: an outcome, another try, or an operator. Pure functions.

A call that was not attempted may be repeated at once. After an unknown outcome it is repeated with the same key, until it is
settled or an operator is needed.
"""

from dataclasses import replace
from datetime import datetime

from app.contracts.payments import PaymentDeclined, PaymentStatus
from app.payments.charge_outcomes import authorized, captured, decline_reason, opened, pending, settled, voided
from app.payments.payment import NOT_SETTLED, Payment, PaymentDecision, RetryPolicy, backoff, park
from app.payments.provider_calls import names_payment, next_call, next_kind
from app.payments.provider_port import CallKind, ProviderCall, ProviderResponse, ResponseCode
from app.payments.provider_record import retrieved
from app.payments.refund_outcomes import parked_by, refund_answered


def apply_response(
    payment: Payment,
    call: ProviderCall,
    response: ProviderResponse,
    key_age: float,
    policy: RetryPolicy,
    now: datetime,
) -> PaymentDecision:
    """What the provider's response to `call` leads to; `key_age` as in `may_send`."""
    decision = _answered(payment, call, response, key_age, policy, now)
    return replace(decision, request_id=_cause_of_event(decision, call))


def park_if_exhausted(payment: Payment, policy: RetryPolicy) -> PaymentDecision | None:
    """Park a payment that was claimed more than `max_tries` times without a result; None where it was not."""
    if payment.retry_count <= policy.max_tries or next_kind(payment) == CallKind.RETRIEVE:
        return None
    call = next_call(payment)
    decision = park(payment, f"not settled after {policy.max_tries} tries")
    return replace(decision, request_id=call.request_id if call else payment.request_id)


def _answered(
    payment: Payment,
    call: ProviderCall,
    response: ProviderResponse,
    key_age: float,
    policy: RetryPolicy,
    now: datetime,
) -> PaymentDecision:
    if call.kind == CallKind.RETRIEVE:
        return retrieved(payment, call, response, policy, now)
    still_authorized = call.kind == CallKind.VOID and response.code == ResponseCode.AUTHORIZED
    if response.code in NOT_SETTLED or still_authorized:
        return _retry_or_park(payment, response, key_age, policy)
    if call.kind == CallKind.REFUND:
        return refund_answered(payment, call, response, policy)
    match call.kind, response.code:
        case CallKind.OPEN, ResponseCode.OPENED:
            return opened(payment, response)
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.CAPTURED):
            return captured(payment, call, response)
        case ((CallKind.OPEN | CallKind.CHARGE | CallKind.VOID), ResponseCode.DECLINED):
            return settled(payment, PaymentStatus.DECLINED, PaymentDeclined, decline_reason(response))
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.VOIDED):
            return voided(payment, call, response)
        case CallKind.CHARGE, ResponseCode.AUTHORIZED:
            return authorized(payment, response, policy, now)
        case ((CallKind.CHARGE | CallKind.VOID | CallKind.CAPTURE), ResponseCode.PENDING):
            return pending(payment, response, policy, now)
    return parked_by(payment, call, response)


def _cause_of_event(decision: PaymentDecision, call: ProviderCall) -> str:
    """The HTTP request that caused what a response to `call` has led to; nothing that happened at the provider by itself."""
    found = call.kind == CallKind.RETRIEVE and (decision.dispute or decision.refund)
    if decision.refund and decision.refund.request_id:
        return decision.refund.request_id
    return decision.payment.refresh_request_id if found else call.request_id


def _retry_or_park(
    payment: Payment, response: ProviderResponse, key_age: float, policy: RetryPolicy
) -> PaymentDecision:
    payment = _after_failure(payment, response)
    too_old = not names_payment(payment) and key_age >= min(policy.horizon, policy.key_life)
    if response.counts_as_try and (payment.retry_count >= policy.max_tries or too_old):
        return park(payment, response.reason)
    pause = max(backoff(payment.retry_count, policy), response.retry_after)
    return PaymentDecision(payment=payment, due_in=pause, detail=response.reason)


def _after_failure(payment: Payment, response: ProviderResponse) -> Payment:
    # The key stays unsent where no attempt has ever got it to the provider.
    unsent = payment.first_send and response.code == ResponseCode.NOT_ATTEMPTED
    retry_count = payment.retry_count if response.counts_as_try else max(0, payment.retry_count - 1)
    return replace(payment, retry_count=retry_count, key_sent=payment.key_sent and not unsent)
