"""The products of the simulated provider that are there to be watched, where demonstrations are turned on. Pure."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class ProductFaults:
    """How charging one product goes: its first `failures` calls fail with `fault`; each call takes `latency_ms`."""

    latency_ms: int = 0
    failures: int = 0
    fault: str = ""


class PaymentPlan(StrEnum):
    """What happens to a payment by itself, or by a person's decision, some time after its charge."""

    CAPTURE_LATER = "capture later"
    DECLINE_LATER = "decline later"
    ASK_CUSTOMER = "ask customer"
    FAIL_REFUNDS = "fail refunds"
    DISPUTE = "dispute"


# Both by product id. All products with faults are captured in the end.
DEMONSTRATIONS = {
    "slow": ProductFaults(latency_ms=4000),
    "flaky": ProductFaults(failures=2, fault="fail"),
    "timeout-after-charge": ProductFaults(failures=1, fault="timeout_after"),
}
PLANS = {
    "pending": PaymentPlan.CAPTURE_LATER,
    "pending-declined": PaymentPlan.DECLINE_LATER,
    "action-required": PaymentPlan.ASK_CUSTOMER,
    "refund-fails-later": PaymentPlan.FAIL_REFUNDS,
    "disputed": PaymentPlan.DISPUTE,
}
