"""The page of the simulated provider: who finds it, what it shows, and what a decision on it does."""

from dataclasses import replace

import pytest
from bson import ObjectId

from app.main import create_app
from app.payments.provider_port import CallKind, ProviderCall, ResponseCode
from app.payments.providers.entries import PAGE
from app.payments.providers.ledger import Ledger
from app.payments.providers.simulated import Faults, SimulatedProvider
from app.storage.mongodb import Database

SHOP = "https://shop.example/thanks?a=1&b=%3C2%3E"
UNKNOWN = f"{PAGE}{'0' * 32}"


@pytest.fixture
def provider(shared_app, shared_settings):
    """The provider with the ledger of the shared application."""
    database = Database(shared_settings.mongodb_uri, shared_settings.database)
    yield SimulatedProvider(Ledger(database.collection("ledger", 10.0)), Faults())
    database.close()


@pytest.fixture
def charged(provider):
    """Charges a product for an order of its own; returns the call with its reference, and the answer."""

    def charge(product: str = "action-required", **members):
        order_id = str(ObjectId())
        call = ProviderCall(
            kind=CallKind.CHARGE,
            key=f"{order_id}:1",
            charge_key=f"{order_id}:1",
            order_id=order_id,
            product_id=product,
            value=9900,
            currency="MYR",
            **members,
        )
        answer = provider.charge(call)
        return replace(call, kind=CallKind.RETRIEVE, reference=answer.reference), answer

    return charge


def test_the_page_says_what_is_to_be_decided(http, charged):
    call, answer = charged()
    page = http.get(answer.action.url)
    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    for text in ("MYR 99.00", call.order_id, "waits for you", 'value="approve"', 'value="refuse"', "no money moves"):
        assert text in page.text


def test_the_page_has_no_script_and_is_framed_by_nobody(http, charged):
    page = http.get(charged()[1].action.url)
    policy = page.headers["Content-Security-Policy"]
    assert policy == "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("decision", "code", "says"),
    [("approve", ResponseCode.CAPTURED, "is made"), ("refuse", ResponseCode.DECLINED, "is declined")],
)
def test_a_decision_is_recorded_and_leads_back_to_the_page(http, provider, charged, decision, code, says):
    call, answer = charged()
    posted = http.post(answer.action.url, data={"decision": decision})
    assert (posted.status_code, posted.headers["Location"]) == (303, answer.action.url)
    assert provider.retrieve(call).code == code
    page = http.get(answer.action.url).text
    assert says in page
    assert "<form" not in page


def test_the_customer_goes_back_to_the_shop_when_it_is_decided(http, charged):
    path = charged(return_url=SHOP)[1].action.url
    assert "shop.example" not in http.get(path).text
    http.post(path, data={"decision": "approve"})
    assert '<a href="https://shop.example/thanks?a=1&amp;b=%3C2%3E">' in http.get(path).text


def test_what_comes_from_a_client_is_text_on_the_page(http, charged):
    path = charged(return_url='https://shop.example/"><script>')[1].action.url
    http.post(path, data={"decision": "approve"})
    assert "<script>" not in http.get(path).text


def test_who_does_not_know_the_token_finds_nothing(http, refused):
    refused(http.get(UNKNOWN), 404, "not_found")
    refused(http.post(UNKNOWN, data={"decision": "approve"}), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [b"", b"decision=", b"decision=maybe", b"decision=approve&decision=refuse", b"\xff\xfe", b"a=1&" * 100, b"%FF=%FF"],
    ids=repr,
)
def test_a_form_without_a_decision_decides_nothing(http, provider, charged, refused, body):
    call, answer = charged()
    refused(http.post(answer.action.url, data=body), 400, "malformed_body")
    assert provider.retrieve(call).code == ResponseCode.PENDING


def test_a_huge_form_is_refused(http, charged, refused):
    refused(http.post(charged()[1].action.url, data=b"decision=approve" + b" " * 70_000), 413, "body_too_large")


def test_a_page_of_another_site_decides_nothing(http, provider, charged, refused):
    call, answer = charged()
    headers = {"Sec-Fetch-Site": "cross-site"}
    refused(http.post(answer.action.url, data={"decision": "approve"}, headers=headers), 403, "cross_site_request")
    assert provider.retrieve(call).code == ResponseCode.PENDING


def test_other_methods_are_refused(http, charged, refused):
    path = charged()[1].action.url
    assert http.head(path).status_code == 200
    answer = http.put(path, data={"decision": "approve"})
    refused(answer, 405, "method_not_allowed")
    assert {*answer.headers["Allow"].split(", ")} == {"GET", "HEAD", "OPTIONS", "POST"}


@pytest.mark.parametrize(
    "changes",
    [
        {"simulated_demonstrations": "off"},
        {"auth_jwt_algorithm": "HS256", "auth_jwt_key": "k" * 40, "auth_jwt_issuer": "i", "auth_jwt_audience": "a"},
    ],
    ids=["demonstrations off", "with authentication"],
)
def test_where_there_are_no_demonstrations_there_is_no_page(shared_settings, charged, changes):
    app = create_app(replace(shared_settings, **changes))
    assert app.test_client().get(charged()[1].action.url).status_code == 404
    assert not [rule for rule in app.url_map.iter_rules() if rule.rule.startswith(PAGE)]
