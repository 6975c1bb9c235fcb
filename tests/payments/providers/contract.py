"""The contract of payment providers: what each of them must do, as tests.

A provider's own test file derives a class from `ProviderContract`, names it Test…, and gives it the fixture `controls`: a
`ProviderControls` with the provider and with what a test makes happen at the provider's own side. Each test has an order of
its own, so tests may share the provider's books.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import pytest
from bson import ObjectId

from app.payments.provider_port import (
    ActionKind,
    CallKind,
    DisputeStatus,
    NotificationRefused,
    Provider,
    ProviderCall,
    ProviderNotification,
    ProviderResponse,
    ResponseCode,
)

TOTAL = 9900
DUPLICATES = 8
# What a call may say that lost against another one, and that had no effect of its own.
UNSETTLED = {ResponseCode.NOT_ATTEMPTED, ResponseCode.UNKNOWN}
NOT_CAPTURED = {ResponseCode.DECLINED, ResponseCode.VOIDED}
HUGE = 2 * 1024 * 1024
DAY = 86_400.0
Case = TypeVar("Case", bound=Callable[..., Any])


class Behaviour(StrEnum):
    """How a payment goes at the provider; what a call must say for it is a matter of the provider."""

    CAPTURED = "captured"
    DECLINED = "declined"
    PENDING_CAPTURED = "pending, then captured"
    PENDING_DECLINED = "pending, then declined"
    ACTION_REQUIRED = "the customer must act"
    REFUND_FAILS = "captured, and a refund fails after it has succeeded"
    DISPUTED = "captured, and disputed later"


class Fault(StrEnum):
    """Where the line to the provider fails."""

    BEFORE = "the call does not arrive"
    AFTER = "the answer does not arrive"


class ProviderControls:
    """The provider, and what a test makes happen at its own side.

    `opens_first` and `manual` follow from the capabilities. A control that the provider, or what stands in for it, does not have
    is left as it is here, and named in `ProviderContract.cannot`.
    """

    provider: Provider
    currency = "MYR"
    unknown_reference = "unknown"

    def members(self, behaviour: Behaviour) -> dict[str, Any]:
        """The members of a ProviderCall that lead to this behaviour, such as its product or payment method."""
        raise NotImplementedError

    def faulty(self, fault: Fault) -> AbstractContextManager[Provider]:
        """The same provider behind a line on which every call fails like this."""
        raise NotImplementedError

    def settle(self, charge: ProviderCall) -> None:
        """Let a pending payment come to its end."""
        raise NotImplementedError

    def act(self, charge: ProviderCall, approve: bool) -> None:
        """Do what the customer must do, or refuse it."""
        raise NotImplementedError

    def refund_elsewhere(self, charge: ProviderCall, value: int) -> None:
        """Refund as a person does in the provider's dashboard."""
        raise NotImplementedError

    def fail_refund(self, refund: ProviderCall) -> None:
        """Let a refund fail that has succeeded."""
        raise NotImplementedError

    def open_dispute(self, charge: ProviderCall) -> None:
        """Let the payer dispute the charge."""
        raise NotImplementedError

    def close_dispute(self, charge: ProviderCall, won: bool) -> None:
        """Let the dispute end."""
        raise NotImplementedError

    def notification(self, charge: ProviderCall) -> tuple[bytes, dict[str, str]]:
        """The body and headers of a genuine notification about the payment."""
        raise NotImplementedError

    def foreign_notification(self) -> tuple[bytes, dict[str, str]]:
        """A genuine notification about something that is not a payment of this application."""
        raise NotImplementedError

    def headers(self, body: bytes, age: float = 0.0) -> dict[str, str]:
        """The headers of a notification with this body that the provider signed `age` seconds ago; negative in the future."""
        raise NotImplementedError


def needs(*abilities: str) -> Callable[[Case], Case]:
    """Declare what a case needs that a provider, or what stands in for it, may not have."""

    def declare(case: Case) -> Case:
        case.needs = abilities  # type: ignore[attr-defined]
        return case

    return declare


class ProviderContract:
    """The tests. `cannot` has the reason for each ability that is missing, `left_out` how many tests need one of them.

    Abilities: "manual capture", "line faults", "pending", "pending decline", "action", "dashboard refund", "failing refund",
    "dispute", "notifications", "foreign notification", "idempotent charge", "refund limit", "decline code", "listing".
    """

    cannot: ClassVar[Mapping[str, str]] = {}
    left_out: ClassVar[int] = 0

    # Helpers

    @pytest.fixture(autouse=True)
    def prepared(self, request: pytest.FixtureRequest, controls: ProviderControls) -> None:
        for ability in getattr(request.function, "needs", ()):
            if ability in self.cannot:
                pytest.skip(f"{controls.provider.capabilities.name} has no {ability}: {self.cannot[ability]}")
        self.controls = controls
        self.provider = controls.provider
        self.began = datetime.now(UTC) - timedelta(minutes=1)

    def new_charge(self, behaviour: Behaviour = Behaviour.CAPTURED, **members: Any) -> ProviderCall:
        """A charge of an order of its own, opened where the provider opens payments."""
        order_id = str(ObjectId())
        charge = ProviderCall(
            kind=CallKind.CHARGE,
            key=f"{order_id}:1",
            charge_key=f"{order_id}:1",
            order_id=order_id,
            product_id="any",
            value=TOTAL,
            currency=self.controls.currency,
            return_url="https://shop.example/thanks",
        )
        charge = replace(charge, **self.controls.members(behaviour), **members)
        return self.opened(charge) if self.provider.capabilities.opens else charge

    def opened(self, charge: ProviderCall) -> ProviderCall:
        answer = self.provider.open(replace(charge, kind=CallKind.OPEN, key=f"{charge.key}:open:1"))
        assert answer.code == ResponseCode.OPENED
        assert answer.reference
        return replace(charge, reference=answer.reference)

    def charged(
        self, behaviour: Behaviour = Behaviour.CAPTURED, code: ResponseCode = ResponseCode.CAPTURED, **members: Any
    ) -> ProviderCall:
        """A charge that was answered with `code`, with its reference."""
        charge = self.new_charge(behaviour, **members)
        answer = self.provider.charge(charge)
        assert answer.code == code, answer
        return replace(charge, reference=answer.reference or charge.reference)

    def void_of(self, charge: ProviderCall) -> ProviderCall:
        return replace(charge, kind=CallKind.VOID)

    def capture_of(self, charge: ProviderCall, value: int = TOTAL, number: str = "") -> ProviderCall:
        return replace(charge, kind=CallKind.CAPTURE, key=f"{charge.key}:capture{number}", value=value)

    def refund_of(self, charge: ProviderCall, value: int = TOTAL, refund_id: str = "cancel") -> ProviderCall:
        return replace(
            charge, kind=CallKind.REFUND, key=f"{charge.key}:refund:{refund_id}", refund_id=refund_id, value=value
        )

    def retrieved(self, charge: ProviderCall) -> ProviderResponse:
        return self.provider.retrieve(replace(charge, kind=CallKind.RETRIEVE))

    def listed(self, charge: ProviderCall) -> list[Any]:
        return [one for one in self.provider.list_payments(self.began) if one.order_id == charge.order_id]

    def books(self, charge: ProviderCall) -> tuple[int, int, int]:
        """What the provider's own list says was captured, refunded and disputed."""
        listed = self.listed(charge)
        return (
            sum(one.captured for one in listed),
            sum(one.refunded for one in listed),
            sum(one.disputed for one in listed),
        )

    def at_once(self, send: Callable[[ProviderCall], ProviderResponse], call: ProviderCall) -> list[ProviderResponse]:
        with ThreadPoolExecutor(DUPLICATES) as pool:
            return list(pool.map(send, [call] * DUPLICATES))

    def refused(self, body: bytes, headers: Mapping[str, str]) -> str:
        with pytest.raises(NotificationRefused) as refusal:
            self.provider.notifications(body, headers)
        return str(refusal.value)

    # What it says of itself

    def test_its_capabilities_are_declared(self):
        declared = self.provider.capabilities
        assert declared.name
        assert declared.key_lifetime > 0
        assert all(len(code) == 3 and code.isupper() for code in declared.currencies)
        assert not declared.currencies or self.controls.currency in declared.currencies

    def test_the_cases_left_out_are_counted_and_each_has_a_reason(self):
        cases = [case for name in dir(type(self)) if name.startswith("test_") and (case := getattr(type(self), name))]
        abilities = {ability for case in cases for ability in getattr(case, "needs", ())}
        assert set(self.cannot) <= abilities
        assert all(self.cannot.values())
        assert len([case for case in cases if set(getattr(case, "needs", ())) & set(self.cannot)]) == self.left_out

    # Charges

    @needs("listing")
    def test_a_charge_is_captured_whole(self):
        charge = self.charged()
        assert charge.reference
        assert [(one.code, one.currency, one.captured) for one in self.listed(charge)] == [
            (ResponseCode.CAPTURED, self.controls.currency, TOTAL)
        ]

    def test_a_captured_charge_is_retrieved_by_its_reference(self):
        charge = self.charged()
        found = self.retrieved(charge)
        assert (found.code, found.reference, found.value or TOTAL) == (ResponseCode.CAPTURED, charge.reference, TOTAL)
        assert (found.refunds, found.disputes, found.action) == ((), (), None)

    @needs("idempotent charge", "listing")
    def test_the_same_key_charges_once_and_gets_the_first_answer(self):
        charge = self.new_charge()
        first = self.provider.charge(charge)
        again = self.provider.charge(charge)
        assert (first.code, again.code, again.reference) == (
            ResponseCode.CAPTURED,
            ResponseCode.CAPTURED,
            first.reference,
        )
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("idempotent charge", "listing")
    def test_the_same_key_with_another_value_takes_nothing_more(self):
        charge = self.charged()
        self.provider.charge(replace(charge, value=TOTAL - 1))
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("idempotent charge", "listing")
    def test_duplicates_at_once_are_charged_once(self):
        charge = self.new_charge()
        answers = self.at_once(self.provider.charge, charge)
        assert ResponseCode.CAPTURED in {answer.code for answer in answers}
        assert {answer.code for answer in answers} <= {ResponseCode.CAPTURED, *UNSETTLED}
        assert len({answer.reference for answer in answers if answer.code == ResponseCode.CAPTURED}) == 1
        assert self.provider.charge(charge).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("listing")
    def test_other_orders_are_other_charges(self):
        first, second = self.charged(), self.charged()
        assert first.reference != second.reference
        assert self.books(first) == self.books(second) == (TOTAL, 0, 0)

    def test_a_decline_says_why(self):
        answer = self.provider.charge(self.new_charge(Behaviour.DECLINED))
        assert answer.code == ResponseCode.DECLINED
        assert answer.reason

    @needs("decline code")
    def test_a_decline_has_the_providers_code(self):
        assert self.provider.charge(self.new_charge(Behaviour.DECLINED)).decline_code

    @needs("listing")
    def test_a_declined_payment_stays_declined(self):
        charge = self.charged(Behaviour.DECLINED, ResponseCode.DECLINED)
        assert self.provider.charge(charge).code in NOT_CAPTURED
        assert self.provider.void(self.void_of(charge)).code in NOT_CAPTURED
        assert self.retrieved(charge).code in NOT_CAPTURED
        assert self.books(charge) == (0, 0, 0)

    def test_a_charge_is_found_by_its_key(self):
        charge = self.charged()
        found = self.provider.find(charge)
        assert found
        assert (found.code, found.reference) == (ResponseCode.CAPTURED, charge.reference)

    def test_an_unknown_charge_is_not_found(self):
        charge = self.new_charge()
        found = self.provider.find(charge)
        # What was opened may be found, as long as it does not look like a charge.
        assert found is None or found.code == ResponseCode.OPENED

    def test_an_unknown_refund_is_not_found(self):
        assert self.provider.find(self.refund_of(self.charged(), 100)) is None

    def test_retrieving_an_unknown_payment_has_a_definite_answer(self):
        answer = self.retrieved(replace(self.new_charge(), reference=self.controls.unknown_reference))
        assert answer.code == ResponseCode.REFUSED
        assert answer.reason
        # That a payment is unknown is no failure of the provider.
        assert not answer.blames_provider

    # Time-outs

    @needs("line faults", "listing")
    def test_a_charge_that_did_not_arrive_is_made_by_the_next_try(self):
        charge = self.new_charge()
        with self.controls.faulty(Fault.BEFORE) as faulty:
            assert faulty.charge(charge).code in UNSETTLED
        assert self.books(charge) == (0, 0, 0)
        assert self.provider.charge(charge).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("line faults", "listing")
    def test_a_charge_whose_answer_was_lost_is_found_and_not_made_again(self):
        charge = self.new_charge()
        with self.controls.faulty(Fault.AFTER) as faulty:
            assert faulty.charge(charge).code == ResponseCode.UNKNOWN
        found = self.provider.find(charge)
        assert found
        assert found.code == ResponseCode.CAPTURED
        assert self.provider.charge(charge).code == ResponseCode.CAPTURED
        assert self.retrieved(replace(charge, reference=found.reference)).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("line faults", "listing")
    @pytest.mark.parametrize("fault", Fault)
    def test_a_refund_that_timed_out_is_made_once(self, fault):
        charge = self.charged()
        refund = self.refund_of(charge, 900)
        with self.controls.faulty(fault) as faulty:
            assert faulty.refund(refund).code in UNSETTLED
        assert self.provider.refund(refund).code == ResponseCode.REFUNDED
        assert self.books(charge) == (TOTAL, 900, 0)

    @needs("line faults", "listing")
    @pytest.mark.parametrize("fault", Fault)
    def test_a_void_that_timed_out_is_made_by_the_next_try(self, fault):
        charge = self.new_charge()
        with self.controls.faulty(fault) as faulty:
            assert faulty.void(self.void_of(charge)).code in UNSETTLED
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.VOIDED
        assert self.provider.charge(charge).code in NOT_CAPTURED
        assert self.books(charge) == (0, 0, 0)

    @needs("line faults", "manual capture", "listing")
    @pytest.mark.parametrize("fault", Fault)
    def test_a_capture_that_timed_out_is_made_once(self, fault):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        with self.controls.faulty(fault) as faulty:
            assert faulty.capture(self.capture_of(charge, 4000)).code in UNSETTLED
        assert self.provider.capture(self.capture_of(charge, 4000)).code == ResponseCode.CAPTURED
        assert self.books(charge) == (4000, 0, 0)

    # Voids

    @needs("listing")
    def test_what_was_voided_before_it_was_charged_is_never_charged(self):
        charge = self.new_charge()
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.VOIDED
        assert self.provider.charge(charge).code in NOT_CAPTURED
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.VOIDED
        assert self.books(charge) == (0, 0, 0)

    @needs("listing")
    def test_what_was_captured_can_not_be_voided(self):
        charge = self.charged()
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("listing")
    def test_a_charge_and_a_void_at_once_agree(self):
        charge = self.new_charge()

        def send(number: int) -> ProviderResponse:
            return self.provider.void(self.void_of(charge)) if number % 2 else self.provider.charge(charge)

        with ThreadPoolExecutor(DUPLICATES) as pool:
            list(pool.map(send, range(DUPLICATES)))
        code = self.provider.void(self.void_of(charge)).code
        assert code in {ResponseCode.CAPTURED, ResponseCode.VOIDED}
        assert self.books(charge) == (TOTAL if code == ResponseCode.CAPTURED else 0, 0, 0)

    # Manual capture

    @needs("manual capture", "listing")
    def test_an_authorization_takes_nothing(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        found = self.retrieved(charge)
        assert (found.code, found.value or TOTAL) == (ResponseCode.AUTHORIZED, TOTAL)
        assert self.books(charge) == (0, 0, 0)

    @needs("manual capture", "listing")
    @pytest.mark.parametrize("value", [TOTAL, 4000, 1])
    def test_a_capture_takes_the_whole_or_a_part(self, value):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        answer = self.provider.capture(self.capture_of(charge, value))
        assert (answer.code, answer.value or value) == (ResponseCode.CAPTURED, value)
        found = self.retrieved(charge)
        assert (found.code, found.value) == (ResponseCode.CAPTURED, value)
        assert self.books(charge) == (value, 0, 0)

    @needs("manual capture", "listing")
    def test_an_authorization_is_captured_once(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        answers = self.at_once(self.provider.capture, self.capture_of(charge, 4000))
        assert ResponseCode.CAPTURED in {answer.code for answer in answers}
        assert self.provider.capture(self.capture_of(charge, 4000)).code == ResponseCode.CAPTURED
        # The rest was released: another capture takes nothing.
        self.provider.capture(self.capture_of(charge, 5000, number="-2"))
        assert self.books(charge) == (4000, 0, 0)

    @needs("manual capture", "listing")
    def test_a_charge_that_is_repeated_after_its_capture_tells_what_was_captured(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        self.provider.capture(self.capture_of(charge, 4000))
        void = self.provider.void(self.void_of(charge))
        assert (void.code, void.value) == (ResponseCode.CAPTURED, 4000)
        assert self.books(charge) == (4000, 0, 0)

    @needs("manual capture", "listing")
    def test_a_capture_above_the_authorization_takes_nothing(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        assert self.provider.capture(self.capture_of(charge, TOTAL + 1)).code != ResponseCode.CAPTURED
        assert self.books(charge) == (0, 0, 0)
        assert self.retrieved(charge).code == ResponseCode.AUTHORIZED

    @needs("manual capture", "listing")
    def test_an_authorization_that_was_voided_is_not_captured(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.VOIDED
        assert self.provider.capture(self.capture_of(charge)).code == ResponseCode.VOIDED
        assert self.retrieved(charge).code == ResponseCode.VOIDED
        assert self.books(charge) == (0, 0, 0)

    @needs("manual capture")
    def test_a_void_that_is_asked_for_does_not_find_the_authorization(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        assert self.provider.find(self.void_of(charge)) is None
        assert self.provider.find(self.capture_of(charge)) is None

    @needs("manual capture", "listing")
    def test_what_is_only_authorized_is_not_refunded(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        assert self.provider.refund(self.refund_of(charge)).code == ResponseCode.DECLINED
        assert self.books(charge) == (0, 0, 0)

    # Refunds

    @needs("listing")
    def test_a_refund_gives_back_the_whole(self):
        charge = self.charged()
        answer = self.provider.refund(self.refund_of(charge))
        assert (answer.code, bool(answer.reference)) == (ResponseCode.REFUNDED, True)
        [refund] = self.retrieved(charge).refunds
        assert (refund.code, refund.value, refund.refund_id) == (ResponseCode.REFUNDED, TOTAL, "cancel")
        assert refund.reference == answer.reference
        assert self.books(charge) == (TOTAL, TOTAL, 0)

    @needs("listing")
    def test_partial_refunds_add_up(self):
        charge = self.charged()
        for number, value in enumerate((900, 4000, 5000)):
            assert self.provider.refund(self.refund_of(charge, value, f"r{number}")).code == ResponseCode.REFUNDED
        refunds = self.retrieved(charge).refunds
        assert sorted((one.refund_id, one.value) for one in refunds) == [("r0", 900), ("r1", 4000), ("r2", 5000)]
        assert self.books(charge) == (TOTAL, TOTAL, 0)

    @needs("idempotent charge", "listing")
    def test_the_same_refund_is_made_once_also_by_duplicates_at_once(self):
        charge = self.charged()
        refund = self.refund_of(charge, 900)
        answers = self.at_once(self.provider.refund, refund)
        assert ResponseCode.REFUNDED in {answer.code for answer in answers}
        assert self.provider.refund(refund).code == ResponseCode.REFUNDED
        assert self.books(charge) == (TOTAL, 900, 0)

    def test_a_refund_is_found_by_its_key(self):
        charge = self.charged()
        self.provider.refund(self.refund_of(charge, 900))
        found = self.provider.find(self.refund_of(charge, 900))
        assert found
        assert found.code == ResponseCode.REFUNDED

    @needs("refund limit", "listing")
    def test_a_refund_above_what_is_left_is_declined_whole(self):
        charge = self.charged()
        refused = self.provider.refund(self.refund_of(charge, TOTAL + 1, "r0"))
        assert (refused.code, refused.reference) == (ResponseCode.DECLINED, "")
        assert self.provider.refund(self.refund_of(charge, 5000, "r1")).code == ResponseCode.REFUNDED
        assert self.provider.refund(self.refund_of(charge, 4901, "r2")).code == ResponseCode.DECLINED
        assert self.books(charge) == (TOTAL, 5000, 0)

    @needs("refund limit", "manual capture", "listing")
    def test_a_refund_is_limited_by_what_was_captured_and_not_by_what_was_authorized(self):
        charge = self.charged(code=ResponseCode.AUTHORIZED, manual_capture=True)
        self.provider.capture(self.capture_of(charge, 4000))
        assert self.provider.refund(self.refund_of(charge, 4001, "r1")).code == ResponseCode.DECLINED
        assert self.provider.refund(self.refund_of(charge, 4000, "r2")).code == ResponseCode.REFUNDED
        assert self.books(charge) == (4000, 4000, 0)

    def test_where_nothing_was_taken_nothing_is_refunded(self):
        declined = self.charged(Behaviour.DECLINED, ResponseCode.DECLINED)
        assert self.provider.refund(self.refund_of(declined)).code == ResponseCode.DECLINED
        voided = self.new_charge()
        self.provider.void(self.void_of(voided))
        assert self.provider.refund(self.refund_of(voided)).code == ResponseCode.DECLINED

    # Pending payments

    @needs("pending", "listing")
    def test_a_pending_payment_is_captured_later(self):
        charge = self.charged(Behaviour.PENDING_CAPTURED, ResponseCode.PENDING)
        assert self.books(charge) == (0, 0, 0)
        assert self.retrieved(charge).code == ResponseCode.PENDING
        self.controls.settle(charge)
        assert self.retrieved(charge).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("pending", "listing")
    def test_a_repeated_charge_of_a_pending_payment_charges_once(self):
        charge = self.charged(Behaviour.PENDING_CAPTURED, ResponseCode.PENDING)
        assert self.provider.charge(charge).code == ResponseCode.PENDING
        self.controls.settle(charge)
        assert self.provider.charge(charge).code in {ResponseCode.PENDING, ResponseCode.CAPTURED}
        assert self.retrieved(charge).code == ResponseCode.CAPTURED
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("pending decline", "listing")
    def test_a_pending_payment_is_declined_later(self):
        charge = self.charged(Behaviour.PENDING_DECLINED, ResponseCode.PENDING)
        self.controls.settle(charge)
        found = self.retrieved(charge)
        assert found.code == ResponseCode.DECLINED
        assert found.reason
        assert self.books(charge) == (0, 0, 0)

    @needs("pending", "listing")
    def test_a_pending_payment_that_was_voided_is_not_captured(self):
        charge = self.charged(Behaviour.PENDING_CAPTURED, ResponseCode.PENDING)
        # A bank may not let go of what it processes: then the void tells so, and a later one what became of it.
        code = self.provider.void(self.void_of(charge)).code
        assert code in {ResponseCode.VOIDED, ResponseCode.PENDING}
        self.controls.settle(charge)
        final = self.retrieved(charge).code
        assert final == (ResponseCode.VOIDED if code == ResponseCode.VOIDED else ResponseCode.CAPTURED)
        assert self.books(charge) == (TOTAL if final == ResponseCode.CAPTURED else 0, 0, 0)

    @needs("pending", "manual capture", "listing")
    def test_a_pending_payment_with_manual_capture_is_authorized_later(self):
        charge = self.charged(Behaviour.PENDING_CAPTURED, ResponseCode.PENDING, manual_capture=True)
        self.controls.settle(charge)
        assert self.retrieved(charge).code == ResponseCode.AUTHORIZED
        assert self.books(charge) == (0, 0, 0)

    # What the customer must do

    @needs("action")
    def test_a_payment_that_needs_its_customer_says_what_is_to_be_done(self):
        answer = self.provider.charge(self.new_charge(Behaviour.ACTION_REQUIRED))
        assert answer.code == ResponseCode.PENDING
        assert answer.action
        assert answer.action.url if answer.action.type == ActionKind.REDIRECT else answer.action.client_secret

    @needs("action", "listing")
    def test_a_repeated_charge_names_the_same_action(self):
        charge = self.new_charge(Behaviour.ACTION_REQUIRED)
        answer = self.provider.charge(charge)
        charge = replace(charge, reference=answer.reference or charge.reference)
        assert self.provider.charge(charge).action == answer.action
        assert self.retrieved(charge).action == answer.action
        assert self.provider.charge(self.new_charge(Behaviour.ACTION_REQUIRED)).action != answer.action
        assert self.books(charge) == (0, 0, 0)

    @needs("action", "listing")
    @pytest.mark.parametrize("approve", [True, False])
    def test_the_customer_decides(self, approve):
        charge = self.charged(Behaviour.ACTION_REQUIRED, ResponseCode.PENDING)
        self.controls.act(charge, approve)
        found = self.retrieved(charge)
        assert found.code == (ResponseCode.CAPTURED if approve else ResponseCode.DECLINED)
        assert found.action is None
        assert self.books(charge) == (TOTAL if approve else 0, 0, 0)

    @needs("action", "manual capture", "listing")
    def test_with_manual_capture_the_customer_approves_an_authorization(self):
        charge = self.charged(Behaviour.ACTION_REQUIRED, ResponseCode.PENDING, manual_capture=True)
        self.controls.act(charge, True)
        assert self.retrieved(charge).code == ResponseCode.AUTHORIZED
        assert self.books(charge) == (0, 0, 0)

    @needs("action", "listing")
    def test_what_waits_for_its_customer_can_be_voided(self):
        charge = self.charged(Behaviour.ACTION_REQUIRED, ResponseCode.PENDING)
        assert self.provider.find(self.void_of(charge)) is None
        assert self.provider.void(self.void_of(charge)).code == ResponseCode.VOIDED
        found = self.retrieved(charge)
        assert (found.code, found.action) == (ResponseCode.VOIDED, None)
        assert self.books(charge) == (0, 0, 0)

    # What happens afterwards

    @needs("dashboard refund", "listing")
    def test_a_refund_made_elsewhere_is_retrieved(self):
        charge = self.charged()
        self.controls.refund_elsewhere(charge, 900)
        [refund] = self.retrieved(charge).refunds
        assert (refund.code, refund.value, refund.refund_id) == (ResponseCode.REFUNDED, 900, "")
        assert refund.reference
        assert self.books(charge) == (TOTAL, 900, 0)

    @needs("dashboard refund", "refund limit", "listing")
    def test_a_refund_made_elsewhere_counts_against_what_is_left(self):
        charge = self.charged()
        self.controls.refund_elsewhere(charge, 900)
        assert self.provider.refund(self.refund_of(charge, 9001, "r1")).code == ResponseCode.DECLINED
        assert self.provider.refund(self.refund_of(charge, 9000, "r2")).code == ResponseCode.REFUNDED
        assert len(self.retrieved(charge).refunds) == 2
        assert self.books(charge) == (TOTAL, TOTAL, 0)

    @needs("failing refund", "listing")
    def test_a_refund_that_fails_after_it_succeeded_is_retrieved(self):
        charge = self.charged(Behaviour.REFUND_FAILS)
        refund = self.refund_of(charge, 900, "r1")
        assert self.provider.refund(refund).code == ResponseCode.REFUNDED
        assert self.books(charge) == (TOTAL, 900, 0)
        self.controls.fail_refund(refund)
        [failed] = self.retrieved(charge).refunds
        assert (failed.code, failed.value, failed.refund_id) == (ResponseCode.DECLINED, 900, "r1")
        assert failed.reason
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("failing refund", "listing")
    def test_a_failed_refund_is_not_made_by_sending_it_again(self):
        charge = self.charged(Behaviour.REFUND_FAILS)
        refund = self.refund_of(charge, 900, "r1")
        self.provider.refund(refund)
        self.controls.fail_refund(refund)
        for answer in (self.provider.refund(refund), self.provider.find(refund)):
            # The reference says that it was made, unlike one that is refused.
            assert (answer.code, bool(answer.reference)) == (ResponseCode.DECLINED, True)
        assert self.books(charge) == (TOTAL, 0, 0)

    @needs("dispute", "listing")
    def test_a_dispute_is_retrieved(self):
        charge = self.charged(Behaviour.DISPUTED)
        assert self.retrieved(charge).disputes == ()
        self.controls.open_dispute(charge)
        found = self.retrieved(charge)
        [dispute] = found.disputes
        assert (found.code, dispute.status, dispute.value) == (ResponseCode.CAPTURED, DisputeStatus.OPEN, TOTAL)
        assert dispute.reference
        assert self.books(charge) == (TOTAL, 0, TOTAL)

    @needs("dispute", "listing")
    @pytest.mark.parametrize("won", [True, False])
    def test_a_dispute_is_won_or_lost(self, won):
        charge = self.charged(Behaviour.DISPUTED)
        self.controls.open_dispute(charge)
        [opened] = self.retrieved(charge).disputes
        self.controls.close_dispute(charge, won)
        [closed] = self.retrieved(charge).disputes
        assert closed.reference == opened.reference
        assert closed.status == (DisputeStatus.WON if won else DisputeStatus.LOST)
        assert self.books(charge) == (TOTAL, 0, 0 if won else TOTAL)
        assert [one.disputes for one in self.listed(charge)] == [1]

    @needs("dispute", "listing")
    def test_a_disputed_charge_is_not_refunded(self):
        charge = self.charged(Behaviour.DISPUTED)
        self.controls.open_dispute(charge)
        assert self.provider.refund(self.refund_of(charge)).code == ResponseCode.DECLINED
        assert self.books(charge) == (TOTAL, 0, TOTAL)

    # The provider's own list

    @needs("listing")
    def test_the_list_begins_at_the_time_that_is_asked_for(self):
        charge = self.charged()
        later = datetime.now(UTC) + timedelta(hours=1)
        assert self.listed(charge)[0].reference == charge.reference
        assert self.listed(charge)[0].at >= self.began
        assert [one for one in self.provider.list_payments(later) if one.order_id == charge.order_id] == []

    # Notifications

    def notified(self, body: bytes, headers: Mapping[str, str]) -> tuple[ProviderNotification, ...]:
        return self.provider.notifications(body, headers)

    @needs("notifications")
    def test_a_notification_names_its_payment(self):
        charge = self.charged()
        [notification] = self.notified(*self.controls.notification(charge))
        assert notification.event_id
        assert notification.type
        assert notification.reference == charge.reference or notification.order_id == charge.order_id

    @needs("notifications")
    def test_a_notification_is_read_as_often_as_it_comes(self):
        request = self.controls.notification(self.charged())
        assert self.notified(*request) == self.notified(*request)

    @needs("notifications")
    def test_header_names_have_no_case(self):
        body, headers = self.controls.notification(self.charged())
        upper = {name.upper(): value for name, value in headers.items()}
        lower = {name.lower(): value for name, value in headers.items()}
        assert self.notified(body, upper) == self.notified(body, lower) == self.notified(body, headers)

    @needs("notifications")
    def test_a_forged_notification_is_refused(self):
        body, headers = self.controls.notification(self.charged())
        assert self.refused(body + b" ", headers)
        assert self.refused(body.replace(body[10:11], b"?", 1), headers)
        assert self.refused(body, {})
        for name in headers:
            for forged in ("", "x", "t=1,v1=00", "t=,v1=", "t=\u0661,v1=\u00e9", "," * 5000, "0" * 5000):
                assert self.refused(body, {**headers, name: forged})

    @needs("notifications")
    @pytest.mark.parametrize("age", [DAY, -DAY, 4 * DAY, -4 * DAY])
    def test_a_notification_of_another_day_is_refused(self, age):
        body, _ = self.controls.notification(self.charged())
        assert self.refused(body, self.controls.headers(body, age))

    @needs("notifications")
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b"7",
            b'"text"',
            b"{",
            b'{"id": 1, "type": [], "data": 7}',
            b"\xff\xfe{}",
            b'{"id": "\xff"}',
            b'{"id": "\\ud800"}',
            b"[" * 20_000,
            b'{"id": NaN}',
            b"9" * 20_000,
        ],
        ids=lambda body: repr(body[:24]),
    )
    def test_a_signed_notification_that_makes_no_sense_is_refused(self, body):
        assert self.refused(body, self.controls.headers(body))

    @needs("notifications")
    def test_a_huge_notification_is_refused(self):
        body, _ = self.controls.notification(self.charged())
        huge = body + b" " * HUGE
        assert self.refused(huge, self.controls.headers(huge))

    @needs("notifications", "foreign notification")
    def test_a_foreign_notification_names_no_payment(self):
        # It may come from another application with the same account, which is no mistake of the sender.
        with suppress(NotificationRefused):
            assert self.notified(*self.controls.foreign_notification()) == ()
