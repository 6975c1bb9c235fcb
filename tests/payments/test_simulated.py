"""The simulated provider: its verdicts, its books, its faults."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from app.config import BadSettings
from app.contracts.base import Unavailable
from app.payments import providers
from app.payments.payment import Call, Kind, ResponseCode
from app.payments.providers import simulated
from app.payments.providers.ledger import Ledger
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Database

CHARGE = Call(
    kind=Kind.CHARGE,
    key="6920c1b05be0d3a1f2c4e687:1",
    charge_key="6920c1b05be0d3a1f2c4e687:1",
    order_id="6920c1b05be0d3a1f2c4e687",
    product_id="1",
    value=9900,
    currency="MYR",
)
VOID = replace(CHARGE, kind=Kind.VOID)


def refund(value: int = 9900, refund_id: str = "cancel") -> Call:
    return replace(CHARGE, kind=Kind.REFUND, key=f"{CHARGE.key}:refund:{refund_id}", refund_id=refund_id, value=value)


REFUND = refund()


@pytest.fixture
def books(settings):
    """The collection of the provider's own."""
    database = Database(settings.mongodb_uri, settings.database)
    yield database.collection("ledger", 10.0)
    database.close()


@pytest.fixture
def simulated_with(books):
    """The provider, misbehaving as told."""

    def make(unknown_product: str = "decline", **faults) -> SimulatedProvider:
        made = SimulatedProvider(Ledger(books), Faults(**faults), unknown_product)
        made.prepare()
        return made

    return make


@pytest.fixture
def bank(simulated_with):
    """The provider on its best behaviour."""
    return simulated_with()


def at_once(work, calls):
    with ThreadPoolExecutor(20) as pool:
        return list(pool.map(work, calls))


@pytest.mark.parametrize(
    ("product", "unknown_product", "answer", "reason"),
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
def test_the_product_decides(simulated_with, database, product, unknown_product, answer, reason):
    outcome = simulated_with(unknown_product).charge(replace(CHARGE, product_id=product))
    assert (outcome.answer, outcome.reason, bool(outcome.reference)) == (answer, reason, True)
    [entry] = database.ledger.find()
    assert (entry["_id"], entry["orderId"], entry["answer"]) == (CHARGE.key, CHARGE.order_id, answer.value)
    assert (entry["value"], entry["currency"], entry["refunded"]) == (9900, "MYR", 0)


def test_the_settings_decide_how_it_behaves(settings, books, database):
    chosen = replace(settings, simulated_unknown_product="capture", simulated_timeout_after_percent=100)
    bank = providers.make(chosen, books)
    assert bank.charge(replace(CHARGE, product_id="9")).answer == ResponseCode.UNKNOWN
    assert database.ledger.find_one()["answer"] == "captured"
    assert (
        providers.make(settings, books).charge(replace(CHARGE, key="k", product_id="9")).answer == ResponseCode.DECLINED
    )


def test_a_provider_that_does_not_exist_is_refused_by_name(settings, books):
    with pytest.raises(BadSettings, match="no-such-provider"):
        providers.make(replace(settings, payment_provider="no-such-provider"), books)


def test_the_same_key_from_many_at_once_is_one_entry_and_one_answer(bank, database):
    outcomes = at_once(bank.charge, [CHARGE] * 20)
    assert len(set(outcomes)) == 1
    assert outcomes[0].answer == ResponseCode.CAPTURED
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
    assert bank.void(VOID).answer == ResponseCode.VOIDED
    assert bank.charge(CHARGE).answer == ResponseCode.VOIDED
    assert bank.void(VOID).answer == ResponseCode.VOIDED
    assert [entry["answer"] for entry in database.ledger.find()] == ["voided"]


def test_what_was_charged_can_no_longer_be_voided(bank, database):
    bank.charge(CHARGE)
    assert bank.void(VOID).answer == ResponseCode.CAPTURED
    assert [entry["answer"] for entry in database.ledger.find()] == ["captured"]


def test_a_void_tells_of_a_decline(bank):
    bank.charge(replace(CHARGE, product_id="2"))
    assert bank.void(VOID).answer == ResponseCode.DECLINED


def test_charges_and_voids_at_once_agree_on_one_of_the_two(bank, database):
    outcomes = at_once(lambda call: bank.void(call) if call is VOID else bank.charge(call), [CHARGE, VOID] * 10)
    [entry] = database.ledger.find()
    assert {outcome.answer.value for outcome in outcomes} == {entry["answer"]}


def test_a_refund_is_made_once_a_key(bank, database):
    bank.charge(CHARGE)
    outcomes = at_once(bank.refund, [refund(900)] * 20)
    assert {outcome.answer for outcome in outcomes} == {ResponseCode.REFUNDED}
    [entry] = database.ledger.find()
    assert (entry["refunded"], [made["value"] for made in entry["refunds"]]) == (900, [900])


def test_refunds_at_once_never_exceed_the_charge(bank, database):
    bank.charge(CHARGE)
    outcomes = at_once(bank.refund, [refund(2000, f"r{at}") for at in range(20)])
    assert Counter(outcome.answer for outcome in outcomes) == {ResponseCode.REFUNDED: 4, ResponseCode.DECLINED: 16}
    [entry] = database.ledger.find()
    assert (entry["refunded"], len(entry["refunds"])) == (8000, 4)
    assert bank.refund(refund(1900, "rest")).answer == ResponseCode.REFUNDED
    assert bank.refund(refund(1, "more")).answer == ResponseCode.DECLINED
    assert database.ledger.find_one()["refunded"] == 9900


def test_a_refund_above_the_charge_is_declined_whole(bank, database):
    bank.charge(CHARGE)
    outcome = bank.refund(refund(9901))
    assert (outcome.answer, outcome.reason) == (ResponseCode.DECLINED, "exceeds the charge")
    assert database.ledger.find_one()["refunded"] == 0


@pytest.mark.parametrize("before", ["nothing", "declined", "voided"])
def test_where_nothing_was_taken_nothing_is_refunded(bank, database, before):
    if before == "declined":
        bank.charge(replace(CHARGE, product_id="2"))
    if before == "voided":
        bank.void(VOID)
    assert bank.refund(REFUND).answer == ResponseCode.DECLINED
    assert database.ledger.count_documents({"refunded": {"$gt": 0}}) == 0


def test_it_can_be_asked_what_became_of_a_call(bank):
    assert bank.find(CHARGE) is bank.find(VOID) is bank.find(REFUND) is None
    charged = bank.charge(CHARGE)
    assert bank.find(CHARGE) == bank.find(VOID) == charged
    assert bank.find(REFUND) is None
    bank.refund(REFUND)
    assert bank.find(REFUND).answer == ResponseCode.REFUNDED
    assert bank.find(refund(900, "another")) is None
    assert bank.find(CHARGE) == charged


def call(bank, wanted):
    return {Kind.CHARGE: bank.charge, Kind.VOID: bank.void, Kind.REFUND: bank.refund}[wanted.kind](wanted)


@pytest.mark.parametrize("wanted", [CHARGE, VOID, REFUND], ids=lambda wanted: wanted.kind)
@pytest.mark.parametrize(
    ("fault", "answer", "happens"),
    [
        ("fail", ResponseCode.NOT_ATTEMPTED, False),
        ("timeout_before", ResponseCode.UNKNOWN, False),
        ("timeout_after", ResponseCode.UNKNOWN, True),
    ],
)
def test_a_fault_hits_every_call_when_it_is_set_to_all_of_them(simulated_with, bank, wanted, fault, answer, happens):
    if wanted.kind == Kind.REFUND:
        bank.charge(CHARGE)
    faulty = simulated_with(**{fault: 100})
    outcomes = [call(faulty, wanted) for _ in range(10)]
    assert {outcome.answer for outcome in outcomes} == {answer}
    assert all(outcome.reason for outcome in outcomes)
    found = bank.find(wanted)
    assert (found is not None) is happens
    assert faulty.find(wanted) == found


def test_without_faults_every_call_is_answered(bank):
    outcomes = [bank.charge(replace(CHARGE, key=f"k{at}")) for at in range(50)]
    assert {outcome.answer for outcome in outcomes} == {ResponseCode.CAPTURED}


def test_faults_share_the_calls_by_their_percentages(monkeypatch):
    faults = Faults(fail=20, timeout_before=30, timeout_after=10)
    for die, expected in [
        (0, "fail"), (19.99, "fail"), (20, "timeout_before"), (49.99, "timeout_before"),
        (50, "timeout_after"), (59.99, "timeout_after"), (60, ""), (99.99, ""),
    ]:  # fmt: skip
        monkeypatch.setattr(simulated.random, "uniform", lambda low, high, die=die: die)
        assert faults.draw() == expected
    drawn_from = []
    monkeypatch.setattr(simulated.random, "uniform", lambda low, high: drawn_from.append((low, high)) or 0)
    faults.draw()
    assert drawn_from == [(0, 100)]


def test_a_charge_that_timed_out_after_it_was_made_is_not_made_again(simulated_with, bank, database):
    assert simulated_with(timeout_after=100).charge(CHARGE).answer == ResponseCode.UNKNOWN
    assert bank.find(CHARGE).answer == ResponseCode.CAPTURED
    assert bank.charge(CHARGE).answer == ResponseCode.CAPTURED
    assert database.ledger.count_documents({}) == 1


def test_it_can_be_told_to_be_slow(simulated_with):
    slow = simulated_with(latency_ms=120)
    started = time.monotonic()
    assert slow.charge(CHARGE).answer == ResponseCode.CAPTURED
    assert time.monotonic() - started >= 0.12


def test_when_its_books_are_away_the_outcome_is_unknown(books):
    class Away:
        clock = books.clock

        @contextmanager
        def with_deadline(self, seconds=None):
            raise Unavailable("no primary")
            yield

    bank = SimulatedProvider(Ledger(Away()), Faults())
    for wanted in (CHARGE, VOID, REFUND):
        assert call(bank, wanted).answer == ResponseCode.UNKNOWN
        assert bank.find(wanted).answer == ResponseCode.UNKNOWN


def test_the_books_outlive_the_process(bank, books):
    bank.charge(CHARGE)
    bank.refund(refund(900))
    later = SimulatedProvider(Ledger(books), Faults())
    assert later.find(CHARGE).answer == ResponseCode.CAPTURED
    assert later.find(refund(900)).answer == ResponseCode.REFUNDED


def product(product_id: str, key: str = CHARGE.key) -> Call:
    return replace(CHARGE, product_id=product_id, key=key, charge_key=key)


@pytest.mark.parametrize("product", simulated.DEMONSTRATIONS)
def test_where_demonstrations_are_off_their_products_are_like_any_other(settings, books, product):
    bank = providers.make(replace(settings, simulated_demonstrations="off"), books)
    outcome = bank.charge(replace(CHARGE, product_id=product))
    assert (outcome.answer, outcome.reason) == (ResponseCode.DECLINED, "unknown product")


def test_no_failure_of_a_demonstration_blames_the_provider(bank):
    outcomes = [bank.charge(replace(CHARGE, key="k:1", product_id="flaky")) for _ in range(2)]
    outcomes.append(bank.charge(replace(CHARGE, key="k:2", product_id="timeout-after-charge")))
    assert {outcome.blames_provider for outcome in outcomes} == {False}


def test_a_flaky_product_fails_twice_and_is_captured_then(bank, database):
    outcomes = [bank.charge(product("flaky")).answer for _ in range(4)]
    assert outcomes == [
        ResponseCode.NOT_ATTEMPTED,
        ResponseCode.NOT_ATTEMPTED,
        ResponseCode.CAPTURED,
        ResponseCode.CAPTURED,
    ]
    assert database.ledger.count_documents({}) == 1


def test_a_product_that_times_out_after_the_charge_was_charged_once(bank, database):
    wanted = product("timeout-after-charge")
    assert bank.charge(wanted).answer == ResponseCode.UNKNOWN
    assert bank.find(wanted).answer == ResponseCode.CAPTURED
    assert bank.charge(wanted).answer == ResponseCode.CAPTURED
    assert [entry["answer"] for entry in database.ledger.find()] == ["captured"]


def test_a_slow_product_is_captured_in_its_time(bank, monkeypatch):
    slept = []
    monkeypatch.setattr(simulated, "time", SimpleNamespace(sleep=slept.append))
    assert bank.charge(product("slow")).answer == ResponseCode.CAPTURED
    assert slept == [4.0]


@pytest.mark.parametrize("trouble", simulated.DEMONSTRATIONS)
def test_the_trouble_of_a_product_is_its_orders_alone(bank, monkeypatch, trouble):
    slept = []
    monkeypatch.setattr(simulated, "time", SimpleNamespace(sleep=slept.append))
    bank.charge(product(trouble, "k1"))
    slept.clear()
    assert bank.charge(product("1", "k2")).answer == ResponseCode.CAPTURED
    assert bank.charge(product("2", "k3")).answer == ResponseCode.DECLINED
    assert slept == []


def test_only_charging_a_product_of_trouble_is_troubled(bank):
    wanted = product("flaky")
    while bank.charge(wanted).answer != ResponseCode.CAPTURED:
        pass
    assert bank.refund(replace(REFUND, product_id="flaky")).answer == ResponseCode.REFUNDED


def test_what_is_kept_in_mind_of_flaky_orders_has_a_bound(bank, monkeypatch):
    monkeypatch.setattr(simulated, "REMEMBERED", 3)
    for at in range(5):
        bank.charge(product("flaky", f"k{at}"))
    assert list(bank._failed) == ["k2", "k3", "k4"]
