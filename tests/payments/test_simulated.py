"""The simulated provider: its decisions, its ledger, its faults."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from random import Random
from types import SimpleNamespace

import pytest

from app.config import BadSettings
from app.contracts.base import Unavailable
from app.payments import providers
from app.payments.provider_port import CallKind, DisputeStatus, ProviderCall, ResponseCode
from app.payments.providers import entries, ledger, simulated
from app.payments.providers.ledger import Ledger
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Database
from tests.payments.providers.movable_clock import MovableClock
from tests.payments.steady_clock import SteadyClock

CHARGE = ProviderCall(
    kind=CallKind.CHARGE,
    key="6920c1b05be0d3a1f2c4e687:1",
    charge_key="6920c1b05be0d3a1f2c4e687:1",
    order_id="6920c1b05be0d3a1f2c4e687",
    product_id="1",
    value=9900,
    currency="MYR",
)
VOID = replace(CHARGE, kind=CallKind.VOID)


def refund(value: int = 9900, refund_id: str = "cancel") -> ProviderCall:
    return replace(
        CHARGE, kind=CallKind.REFUND, key=f"{CHARGE.key}:refund:{refund_id}", refund_id=refund_id, value=value
    )


REFUND = refund()


@pytest.fixture
def ledger_store(settings):
    """The collection of the provider's own."""
    database = Database(settings.mongodb_uri, settings.database)
    made = database.collection("ledger", 30.0)
    made.clock = SteadyClock(made.clock)
    yield made
    database.close()


@pytest.fixture
def simulated_with(ledger_store):
    """The provider, with faults."""

    def make(unknown_product: str = "decline", **faults) -> SimulatedProvider:
        made = SimulatedProvider(Ledger(ledger_store), Faults(**faults), unknown_product)
        made.prepare()
        return made

    return make


@pytest.fixture
def bank(simulated_with):
    """The provider without faults."""
    return simulated_with()


def at_once(work, calls):
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(work, calls))


@pytest.mark.parametrize(
    ("product", "unknown_product", "code", "reason"),
    [
        ("1", "decline", ResponseCode.CAPTURED, ""),
        ("2", "decline", ResponseCode.DECLINED, "declined by the issuer"),
        ("3", "decline", ResponseCode.DECLINED, "unknown product"),
        ("", "decline", ResponseCode.DECLINED, "unknown product"),
        ("1 ", "decline", ResponseCode.DECLINED, "unknown product"),
        ("1", "capture", ResponseCode.CAPTURED, ""),
        ("2", "capture", ResponseCode.DECLINED, "declined by the issuer"),
        ("3", "capture", ResponseCode.CAPTURED, ""),
    ],
)
def test_the_product_decides(simulated_with, database, product, unknown_product, code, reason):
    response = simulated_with(unknown_product).charge(replace(CHARGE, product_id=product))
    assert (response.code, response.reason, bool(response.reference)) == (code, reason, True)
    [entry] = database.ledger.find()
    assert (entry["_id"], entry["orderId"], entry["answer"]) == (CHARGE.key, CHARGE.order_id, code.value)
    assert (entry["value"], entry["currency"], entry["refunded"]) == (9900, "MYR", 0)


def test_the_settings_decide_how_it_behaves(settings, ledger_store, database):
    chosen = replace(settings, simulated_unknown_product="capture", simulated_timeout_after_percent=100)
    bank = providers.make(chosen, ledger_store)
    assert bank.charge(replace(CHARGE, product_id="9")).code == ResponseCode.UNKNOWN
    assert database.ledger.find_one()["answer"] == "captured"
    assert (
        providers.make(settings, ledger_store).charge(replace(CHARGE, key="k", product_id="9")).code
        == ResponseCode.DECLINED
    )


def test_a_provider_that_does_not_exist_is_refused_by_name(settings, ledger_store):
    with pytest.raises(BadSettings, match="no-such-provider"):
        providers.make(replace(settings, payment_provider="no-such-provider"), ledger_store)


def test_the_same_key_from_many_at_once_is_one_entry_and_one_answer(bank, database):
    responses = at_once(bank.charge, [CHARGE] * 20)
    assert len(set(responses)) == 1
    assert responses[0].code == ResponseCode.CAPTURED
    assert database.ledger.count_documents({}) == 1


def test_a_repeated_charge_tells_what_became_of_the_first(bank, database):
    first = bank.charge(CHARGE)
    [entry] = database.ledger.find()
    assert bank.charge(replace(CHARGE, product_id="2", value=1)) == first
    assert list(database.ledger.find()) == [entry]


def test_other_keys_are_other_charges(bank, database):
    at_once(bank.charge, [replace(CHARGE, key=f"k{at}") for at in range(20)])
    assert database.ledger.count_documents({"answer": "captured"}) == 20


def test_what_was_voided_is_never_charged(bank, database):
    assert bank.void(VOID).code == ResponseCode.VOIDED
    assert bank.charge(CHARGE).code == ResponseCode.VOIDED
    assert bank.void(VOID).code == ResponseCode.VOIDED
    assert [entry["answer"] for entry in database.ledger.find()] == ["voided"]


def test_what_was_charged_can_no_longer_be_voided(bank, database):
    bank.charge(CHARGE)
    assert bank.void(VOID).code == ResponseCode.CAPTURED
    assert [entry["answer"] for entry in database.ledger.find()] == ["captured"]


def test_a_void_tells_of_a_decline(bank):
    bank.charge(replace(CHARGE, product_id="2"))
    assert bank.void(VOID).code == ResponseCode.DECLINED


def test_charges_and_voids_at_once_agree_on_one_of_the_two(bank, database):
    responses = at_once(lambda call: bank.void(call) if call is VOID else bank.charge(call), [CHARGE, VOID] * 10)
    [entry] = database.ledger.find()
    assert {response.code.value for response in responses} == {entry["answer"]}


def test_a_refund_is_made_once_a_key(bank, database):
    bank.charge(CHARGE)
    responses = at_once(bank.refund, [refund(900)] * 20)
    assert {response.code for response in responses} == {ResponseCode.REFUNDED}
    [entry] = database.ledger.find()
    assert (entry["refunded"], [made["value"] for made in entry["refunds"]]) == (900, [900])


def test_refunds_at_once_never_exceed_the_charge(bank, database):
    bank.charge(CHARGE)
    responses = at_once(bank.refund, [refund(2000, f"r{at}") for at in range(20)])
    assert Counter(response.code for response in responses) == {ResponseCode.REFUNDED: 4, ResponseCode.DECLINED: 16}
    [entry] = database.ledger.find()
    assert (entry["refunded"], len(entry["refunds"])) == (8000, 4)
    assert bank.refund(refund(1900, "rest")).code == ResponseCode.REFUNDED
    assert bank.refund(refund(1, "more")).code == ResponseCode.DECLINED
    assert database.ledger.find_one()["refunded"] == 9900


def test_a_refund_above_the_charge_is_declined_whole(bank, database):
    bank.charge(CHARGE)
    response = bank.refund(refund(9901))
    assert (response.code, response.reason) == (ResponseCode.DECLINED, "exceeds the charge")
    assert database.ledger.find_one()["refunded"] == 0


@pytest.mark.parametrize("before", ["nothing", "declined", "voided"])
def test_where_nothing_was_taken_nothing_is_refunded(bank, database, before):
    if before == "declined":
        bank.charge(replace(CHARGE, product_id="2"))
    if before == "voided":
        bank.void(VOID)
    assert bank.refund(REFUND).code == ResponseCode.DECLINED
    assert database.ledger.count_documents({"refunded": {"$gt": 0}}) == 0


def test_a_call_can_be_looked_up(bank):
    assert bank.find(CHARGE) is bank.find(VOID) is bank.find(REFUND) is None
    charged = bank.charge(CHARGE)
    assert bank.find(CHARGE) == bank.find(VOID) == charged
    assert bank.find(REFUND) is None
    bank.refund(REFUND)
    assert bank.find(REFUND).code == ResponseCode.REFUNDED
    assert bank.find(refund(900, "another")) is None
    assert bank.find(CHARGE) == charged


def call(bank, wanted):
    return {CallKind.CHARGE: bank.charge, CallKind.VOID: bank.void, CallKind.REFUND: bank.refund}[wanted.kind](wanted)


@pytest.mark.parametrize("wanted", [CHARGE, VOID, REFUND], ids=lambda wanted: wanted.kind)
@pytest.mark.parametrize(
    ("fault", "code", "happens"),
    [
        ("fail", ResponseCode.NOT_ATTEMPTED, False),
        ("timeout_before", ResponseCode.UNKNOWN, False),
        ("timeout_after", ResponseCode.UNKNOWN, True),
    ],
)
def test_a_fault_hits_every_call_when_it_is_set_to_all_of_them(simulated_with, bank, wanted, fault, code, happens):
    if wanted.kind == CallKind.REFUND:
        bank.charge(CHARGE)
    faulty = simulated_with(**{fault: 100})
    responses = [call(faulty, wanted) for _ in range(10)]
    assert {response.code for response in responses} == {code}
    assert all(response.reason for response in responses)
    found = bank.find(wanted)
    assert (found is not None) is happens
    assert faulty.find(wanted) == found


def test_without_faults_every_call_is_answered(bank):
    responses = [bank.charge(replace(CHARGE, key=f"k{at}")) for at in range(50)]
    assert {response.code for response in responses} == {ResponseCode.CAPTURED}


class Die:
    """A source of chance that always shows the same number."""

    def __init__(self, shown: float = 0.0) -> None:
        self.shown = shown
        self.drawn_from: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.drawn_from.append((low, high))
        return self.shown


def test_faults_share_the_calls_by_their_percentages():
    faults = Faults(fail=20, timeout_before=30, timeout_after=10)
    for die, expected in [
        (0, "fail"), (19.99, "fail"), (20, "timeout_before"), (49.99, "timeout_before"),
        (50, "timeout_after"), (59.99, "timeout_after"), (60, ""), (99.99, ""),
    ]:  # fmt: skip
        assert faults.draw(Die(die)) == expected
    die = Die()
    faults.draw(die)
    assert die.drawn_from == [(0, 100)]


def test_a_charge_that_timed_out_after_it_was_made_is_not_made_again(simulated_with, bank, database):
    assert simulated_with(timeout_after=100).charge(CHARGE).code == ResponseCode.UNKNOWN
    assert bank.find(CHARGE).code == ResponseCode.CAPTURED
    assert bank.charge(CHARGE).code == ResponseCode.CAPTURED
    assert database.ledger.count_documents({}) == 1


def test_its_latency_can_be_set(simulated_with):
    slow = simulated_with(latency_ms=120)
    started = time.monotonic()
    assert slow.charge(CHARGE).code == ResponseCode.CAPTURED
    assert time.monotonic() - started >= 0.12


def test_when_its_ledger_is_unavailable_the_outcome_is_unknown(ledger_store):
    class Away:
        clock = ledger_store.clock

        @contextmanager
        def with_deadline(self, seconds=None):
            raise Unavailable("no primary")
            yield

    bank = SimulatedProvider(Ledger(Away()), Faults())
    for wanted in (CHARGE, VOID, REFUND):
        assert call(bank, wanted).code == ResponseCode.UNKNOWN
        assert bank.find(wanted).code == ResponseCode.UNKNOWN
    assert bank.retrieve(RETRIEVE).code == ResponseCode.UNKNOWN
    with pytest.raises(OSError, match="no primary"):
        list(bank.list_payments(ledger_store.clock.now()))


def test_the_books_outlive_the_process(bank, ledger_store):
    bank.charge(CHARGE)
    bank.refund(refund(900))
    later = SimulatedProvider(Ledger(ledger_store), Faults())
    assert later.find(CHARGE).code == ResponseCode.CAPTURED
    assert later.find(refund(900)).code == ResponseCode.REFUNDED


def product(product_id: str, key: str = CHARGE.key) -> ProviderCall:
    return replace(CHARGE, product_id=product_id, key=key, charge_key=key)


@pytest.mark.parametrize("product", [*simulated.DEMONSTRATIONS, *simulated.PLANS])
def test_where_demonstrations_are_off_their_products_are_like_any_other(settings, ledger_store, product):
    bank = providers.make(replace(settings, simulated_demonstrations="off"), ledger_store)
    response = bank.charge(replace(CHARGE, product_id=product))
    assert (response.code, response.reason) == (ResponseCode.DECLINED, "unknown product")


def test_a_charge_without_a_plan_is_one_insert_of_nothing_more_than_before(bank, database):
    bank.charge(CHARGE)
    [entry] = database.ledger.find()
    assert set(entry) == {"_id", "orderId", "answer", "reason", "value", "currency", "refunded", "refunds", "at"}


@pytest.fixture
def clock(ledger_store):
    """The clock of the provider's ledger, to be moved on."""
    ledger_store.clock = MovableClock(ledger_store.clock)
    return ledger_store.clock


RETRIEVE = replace(CHARGE, kind=CallKind.RETRIEVE, reference=f"sim_{CHARGE.key}")


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_pending_payment_changes_at_its_time_and_not_before(bank, clock, seconds):
    bank.charge(product("pending"))
    clock.move(entries.DELAY + timedelta(seconds=seconds))
    assert bank.retrieve(RETRIEVE).code == (ResponseCode.PENDING if seconds < 0 else ResponseCode.CAPTURED)


def test_a_customer_who_does_not_act_in_time_is_declined(bank, clock):
    bank.charge(product("action-required"))
    clock.move(entries.ACTION_LIFE)
    found = bank.retrieve(RETRIEVE)
    assert (found.code, found.reason) == (ResponseCode.DECLINED, "the customer did not act in time")
    assert (found.decline_code, found.retry_helps, found.action) == ("action_expired", True, None)


def test_what_is_due_is_stored_whoever_looks_first(bank, clock, database):
    bank.charge(product("pending"))
    clock.move(entries.DELAY)
    at_once(bank.retrieve, [RETRIEVE] * 20)
    [entry] = database.ledger.find()
    assert (entry["answer"], "changesAt" in entry) == ("captured", False)
    assert [notice["type"] for notice in entry["notices"]] == ["payment.captured"]


def test_a_void_that_comes_after_the_capture_is_too_late(bank, clock):
    bank.charge(product("pending"))
    clock.move(entries.DELAY)
    assert bank.void(VOID).code == ResponseCode.CAPTURED


def test_a_charge_with_manual_capture_is_disputed_after_its_capture(bank, clock):
    bank.charge(replace(product("disputed"), manual_capture=True))
    clock.move(2 * entries.DELAY)
    assert bank.retrieve(RETRIEVE).disputes == ()
    bank.capture(replace(CHARGE, kind=CallKind.CAPTURE, value=4000))
    clock.move(entries.DELAY)
    [dispute] = bank.retrieve(RETRIEVE).disputes
    assert (dispute.value, dispute.status) == (4000, DisputeStatus.OPEN)
    assert entries.PAGE in dispute.reason


def test_a_dispute_is_about_what_was_not_refunded(bank, clock):
    bank.charge(product("disputed"))
    assert bank.refund(replace(refund(900), product_id="disputed")).code == ResponseCode.REFUNDED
    clock.move(entries.DELAY)
    assert bank.retrieve(RETRIEVE).disputes[0].value == 9000


def test_what_was_refunded_whole_is_not_disputed(bank, clock, database):
    bank.charge(product("disputed"))
    bank.refund(replace(refund(), product_id="disputed"))
    clock.move(entries.DELAY)
    assert bank.retrieve(RETRIEVE).disputes == ()
    assert "changesAt" not in database.ledger.find_one()


def test_a_capture_of_a_payment_that_is_not_there_is_refused(bank):
    response = bank.capture(replace(CHARGE, kind=CallKind.CAPTURE))
    assert (response.code, response.blames_provider) == (ResponseCode.REFUSED, False)


def test_it_opens_no_payments(bank):
    assert bank.open(replace(CHARGE, kind=CallKind.OPEN)).code == ResponseCode.REFUSED


def test_a_list_longer_than_a_page_has_every_payment_once(bank, database, monkeypatch):
    monkeypatch.setattr(ledger, "PAGE_SIZE", 3)
    began = bank.ledger.now()
    at_once(bank.charge, [product("1", f"k{at}") for at in range(10)])
    listed = [one.reference for one in bank.list_payments(began)]
    assert sorted(listed) == [f"sim_k{at}" for at in range(10)]


def test_no_failure_of_a_demonstration_blames_the_provider(bank):
    responses = [bank.charge(replace(CHARGE, key="k:1", product_id="flaky")) for _ in range(2)]
    responses.append(bank.charge(replace(CHARGE, key="k:2", product_id="timeout-after-charge")))
    assert {response.blames_provider for response in responses} == {False}


def test_a_flaky_product_fails_twice_and_is_captured_then(bank, database):
    responses = [bank.charge(product("flaky")).code for _ in range(4)]
    assert responses == [
        ResponseCode.NOT_ATTEMPTED,
        ResponseCode.NOT_ATTEMPTED,
        ResponseCode.CAPTURED,
        ResponseCode.CAPTURED,
    ]
    assert database.ledger.count_documents({}) == 1


def test_a_product_that_times_out_after_the_charge_was_charged_once(bank, database):
    wanted = product("timeout-after-charge")
    assert bank.charge(wanted).code == ResponseCode.UNKNOWN
    assert bank.find(wanted).code == ResponseCode.CAPTURED
    assert bank.charge(wanted).code == ResponseCode.CAPTURED
    assert [entry["answer"] for entry in database.ledger.find()] == ["captured"]


def test_a_slow_product_is_captured_in_its_time(bank, monkeypatch):
    slept = []
    monkeypatch.setattr(bank, "_system", SimpleNamespace(sleep=slept.append, random=Random(0)))
    assert bank.charge(product("slow")).code == ResponseCode.CAPTURED
    assert slept == [4.0]


@pytest.mark.parametrize("trouble", simulated.DEMONSTRATIONS)
def test_the_trouble_of_a_product_is_its_orders_alone(bank, monkeypatch, trouble):
    slept = []
    monkeypatch.setattr(bank, "_system", SimpleNamespace(sleep=slept.append, random=Random(0)))
    bank.charge(product(trouble, "k1"))
    slept.clear()
    assert bank.charge(product("1", "k2")).code == ResponseCode.CAPTURED
    assert bank.charge(product("2", "k3")).code == ResponseCode.DECLINED
    assert slept == []


def test_only_charging_a_product_with_faults_fails(bank):
    wanted = product("flaky")
    while bank.charge(wanted).code != ResponseCode.CAPTURED:
        pass
    assert bank.refund(replace(REFUND, product_id="flaky")).code == ResponseCode.REFUNDED


def test_the_failures_of_a_bounded_number_of_keys_are_counted(bank, monkeypatch):
    monkeypatch.setattr(simulated, "MAX_FAILING_KEYS", 3)
    for at in range(5):
        bank.charge(product("flaky", f"k{at}"))
    assert list(bank._failed) == ["k2", "k3", "k4"]
