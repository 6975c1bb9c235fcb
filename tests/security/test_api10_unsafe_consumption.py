"""API10:2023 Unsafe consumption of APIs: a payment provider that lies moves no order, and breaks nothing."""

import json
from dataclasses import replace
from uuid import uuid4

import pytest

from app.main import create_app, runtime
from app.payments.provider_port import ProviderResponse, ResponseCode
from app.payments.providers.simulated import CAPABILITIES
from tests.security.conftest import NEW_ORDER, User


class Wicked(Exception):
    """Cannot even be shown."""

    def __str__(self):
        raise RuntimeError("no")


def raising(error):
    def lie():
        raise error

    return lie


# What a provider says to a charge, and what the payment is then, once people have to look at it.
LIES = {
    "nothing": lambda: None,
    "a text": lambda: "captured",
    "a number": lambda: 1,
    "true": lambda: True,
    "a dictionary": lambda: {"answer": "captured"},
    "a list": lambda: [ProviderResponse(code=ResponseCode.CAPTURED)],
    "a class": lambda: ProviderResponse,
    "a text for an answer": lambda: ProviderResponse(code="captured"),
    "an unknown answer": lambda: ProviderResponse(code="paid"),
    "no answer": lambda: ProviderResponse(code=None),
    "a reference that is no text": lambda: ProviderResponse(code=ResponseCode.CAPTURED, reference={"$gt": ""}),
    "a reason that is no text": lambda: ProviderResponse(code=ResponseCode.DECLINED, reason=b"\xff"),
    "patience that is no number": lambda: ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, retry_after="soon"),
    "patience without end": lambda: ProviderResponse(code=ResponseCode.NOT_ATTEMPTED, retry_after=float("inf")),
    "patience that is not a number": lambda: ProviderResponse(code=ResponseCode.UNKNOWN, retry_after=float("nan")),
    "a refund": lambda: ProviderResponse(code=ResponseCode.REFUNDED, reference="x"),
    "an error": raising(RuntimeError("x" * 100_000)),
    "an error in capitals": raising(ConnectionError("refused\r\nSet-Cookie: x")),
    "an error that cannot be shown": raising(Wicked()),
    "an endless recursion": raising(RecursionError()),
    "no memory": raising(MemoryError()),
}
# True in substance, but of a kind to break what keeps it.
ODD = {
    "a huge reason": (lambda: ProviderResponse(code=ResponseCode.DECLINED, reason="x" * 17_000_000), "Declined"),
    "a reason with lines": (
        lambda: ProviderResponse(code=ResponseCode.DECLINED, reason="no\r\nmoney\0\x1b[31m"),
        "Declined",
    ),
    "half a character": (lambda: ProviderResponse(code=ResponseCode.DECLINED, reason="\ud800"), "Declined"),
    "a huge reference": (lambda: ProviderResponse(code=ResponseCode.CAPTURED, reference="x" * 17_000_000), "Success"),
    "an operator": (lambda: ProviderResponse(code=ResponseCode.CAPTURED, reference="$ne"), "Success"),
    "patience before it began": (
        lambda: ProviderResponse(code=ResponseCode.DECLINED, retry_after=-1e300),
        "Declined",
    ),
}


class Liar:
    """A provider that answers a charge by the product's name, and knows nothing of it afterwards."""

    capabilities = CAPABILITIES

    def charge(self, call):
        name = call.product_id
        return (LIES[name] if name in LIES else ODD[name][0])()

    void = refund = charge

    def find(self, call):
        return None


@pytest.fixture(scope="module")
def market(fort_settings, mongo):
    """An application with a provider that lies, and patience for two tries."""
    name = f"test_{uuid4().hex}"
    settings = replace(
        fort_settings,
        database=name,
        sweep_interval=0.05,
        relay_lease=0.5,
        payment_tries=2,
        payment_backoff=0.01,
        payment_backoff_max=0.02,
        breaker_failures=1_000_000,
        log_level="error",
    )
    made = create_app(settings, make_provider=lambda *_: Liar())
    runtime(made).prepare()
    runtime(made).start()
    yield made
    runtime(made).stop()
    mongo.drop_database(name)


@pytest.fixture(scope="module")
def buyer(market, issuer):
    return User(market.test_client(), issuer.token("ada"))


def settled(buyer, name, eventually):
    """The order once its payment is not processing any more, and its timeline."""
    order_id = buyer.open("POST", "/orders", json={**NEW_ORDER, "productId": name}).json["created"]["id"]

    def look():
        order = buyer.open("GET", f"/orders/one/{order_id}").json["order"]
        return order if order["paymentStatus"] != "Processing" else None

    return eventually(look), buyer.open("GET", f"/orders/one/{order_id}/events")


@pytest.mark.parametrize("name", LIES)
def test_a_false_reply_is_an_unknown_outcome_for_manual_review(buyer, market, mongo, eventually, name):
    order, timeline = settled(buyer, name, eventually)
    assert (order["orderStatus"], order["paymentStatus"]) == ("Processing", "Unknown")
    payment = mongo[runtime(market).settings.database].payments.find_one({"_id": order["id"]})
    assert payment["captured"] == 0
    assert len(timeline.data) < 10_000


@pytest.mark.parametrize(("name", "status"), [(name, status) for name, (_, status) in ODD.items()], ids=ODD)
def test_what_is_odd_about_an_answer_is_cut_off(buyer, eventually, name, status):
    order, timeline = settled(buyer, name, eventually)
    assert order["orderStatus"] == status
    assert len(timeline.data) < 10_000
    details = [event["detail"] for event in json.loads(timeline.data)["events"]]
    assert all(detail.isprintable() and len(detail) <= 400 for detail in details)
