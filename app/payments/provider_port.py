"""The port to payment providers: what payments ask for and what a provider answers. Pure.

An effect happens at most once for each idempotency key, as long as the provider remembers the key. A provider that opens
payments gives each one an id before anything is charged; what happened to it is then found by that id at any time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class ResponseCode(StrEnum):
    """What a provider may answer. Refused: it will never take this call, and only an operator can find out why."""

    OPENED = "opened"
    CAPTURED = "captured"
    AUTHORIZED = "authorized"
    DECLINED = "declined"
    VOIDED = "voided"
    REFUNDED = "refunded"
    PENDING = "pending"
    NOT_ATTEMPTED = "not attempted"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class CallKind(StrEnum):
    """The calls to a provider. All but `retrieve` change something there."""

    OPEN = "open"
    CHARGE = "charge"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    RETRIEVE = "retrieve"


class ActionKind(StrEnum):
    """How the customer continues a payment: at a page of the provider, or in the shop's page with a secret."""

    REDIRECT = "redirect"
    CONFIRM = "confirm"


class DisputeStatus(StrEnum):
    """What became of a dispute. A dispute that is open or lost has taken its amount back."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a provider can do.

    `key_lifetime` is for how many seconds it remembers an idempotency key. `opens`: a payment gets its id before it is charged.
    `captures_later`: a payment can be authorized first. `notifies`: it sends notifications. `currencies` are ISO 4217 codes,
    empty for all.
    """

    name: str
    key_lifetime: float
    opens: bool = False
    captures_later: bool = False
    notifies: bool = False
    currencies: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class NextAction:
    """What the customer must do: open `url`, or confirm with `client_secret` in a page of the shop.

    `expires_at` is until when the provider lets the customer do it, in UTC; None where it does not say.
    """

    type: ActionKind
    url: str = ""
    client_secret: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class ProviderCall:
    """One call to a provider; `key` is its idempotency key and never changes for the same effect.

    `value` is in minor units of `currency`: the total of a charge, the part of a capture or refund. `reference` is the provider's
    id of the payment, empty where it is not known. `refresh` is the number of the latest request to refresh the payment.
    `request_id` is the HTTP request that caused the call, for the records only; empty where none did.
    """

    kind: CallKind
    key: str
    charge_key: str
    order_id: str
    product_id: str
    value: int
    currency: str
    refund_id: str = ""
    reference: str = ""
    payment_method: str = ""
    return_url: str = ""
    manual_capture: bool = False
    refresh: int = 0
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ProviderRefund:
    """A refund as the provider lists it: refunded, pending or declined; `refund_id` is empty where it was made elsewhere."""

    reference: str
    value: int
    code: ResponseCode
    refund_id: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ProviderDispute:
    """A dispute as the provider lists it; `value` in minor units."""

    reference: str
    value: int
    status: DisputeStatus
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ProviderResponse:
    """A provider's answer to a call. `retry_after` is the pause that it asks for, in seconds.

    `value` is what was captured or authorized, in minor units; 0 stands for the value of the call. `decline_code` is the provider's
    word for a decline, and `retry_helps` whether the customer may succeed another time. `action` is what the customer must do
    while the payment is pending. `refunds` and `disputes` answer a `retrieve`: all that the provider knows of the payment.

    `counts_as_try` is false where the provider was not called. `blames_provider` is false where a failure says nothing
    about the provider's health.
    """

    code: ResponseCode
    reference: str = ""
    reason: str = ""
    value: int = 0
    decline_code: str = ""
    retry_helps: bool = False
    action: NextAction | None = None
    refunds: tuple[ProviderRefund, ...] = ()
    disputes: tuple[ProviderDispute, ...] = ()
    retry_after: float = 0.0
    counts_as_try: bool = True
    blames_provider: bool = True


@dataclass(frozen=True, kw_only=True)
class ProviderNotification:
    """A message of the provider that something happened to a payment. It is a reason to refresh the payment and no proof.

    `reference` is the provider's id of the payment and `order_id` the order, each empty where the message does not have it.
    """

    event_id: str
    type: str
    reference: str = ""
    order_id: str = ""


@dataclass(frozen=True, kw_only=True)
class ProviderPayment:
    """A payment in the provider's own list. Amounts in minor units; `order_id` is empty where another program made it.

    `disputed` is what disputes have taken back, and `disputes` how many took something at any time: won ones included.
    """

    reference: str
    order_id: str
    at: datetime
    code: ResponseCode
    currency: str
    captured: int = 0
    refunded: int = 0
    disputed: int = 0
    disputes: int = 0


class NotificationRefused(Exception):
    """A notification that the provider did not send, or sent for something else; the text is one sentence."""


class Provider(Protocol):
    """Moves money. Calls may take long and may come from many threads; failures are returned as a ProviderResponse.

    Each effect happens at most once per `call.key`: a repeated call with the same key returns the response to the first.
    An exception counts as an unknown outcome.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What the provider can do."""

    def open(self, call: ProviderCall) -> ProviderResponse:
        """Create the payment without charging it: opened, with its reference, or declined, not attempted, unknown."""

    def charge(self, call: ProviderCall) -> ProviderResponse:
        """Take `call.value`: captured, authorized, declined, pending, voided, not attempted or unknown."""

    def capture(self, call: ProviderCall) -> ProviderResponse:
        """Take `call.value` of what is authorized and release the rest: captured, voided, not attempted or unknown."""

    def void(self, call: ProviderCall) -> ProviderResponse:
        """Make sure that the payment is never charged: voided, or the response to the charge that came before."""

    def refund(self, call: ProviderCall) -> ProviderResponse:
        """Give `call.value` of the charge back: refunded, pending, declined, not attempted or unknown.

        One that was made and has failed is declined with its reference; one that is refused has none.
        """

    def find(self, call: ProviderCall) -> ProviderResponse | None:
        """The response to an earlier `call`; None where the provider does not know of it, which proves nothing."""

    def retrieve(self, call: ProviderCall) -> ProviderResponse:
        """The state of the payment `call.reference`, with all its refunds and disputes."""

    def notifications(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        """The verified notifications in a request of the provider. Raises NotificationRefused."""

    def list_payments(self, since: datetime) -> Iterator[ProviderPayment]:
        """The provider's own list of payments made since then. Raises OSError where it cannot be read."""
