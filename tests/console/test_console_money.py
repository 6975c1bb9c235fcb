"""Payments that wait, captures and disputes in the console; the provider never answers, and the test tells what happened."""

from itertools import count
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from bson import ObjectId
from playwright.sync_api import expect

from app.contracts.payments import (
    PaymentActionRequired,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentDisputed,
)
from app.messaging.outbox import Outbox
from app.orders.open_order_limit import OpenOrderLimit
from app.orders.repository import OrderRepository
from app.orders.service import OrderService
from app.storage.mongodb import Database
from tests.console.pages import dialog, fits, open_order, place, send, statuses
from tests.console.server import running

pytestmark = pytest.mark.extended

EXPIRES = 1_800_000_000_000
PAGE = "https://bank.example/3ds?order=one"
DECISION = "/providers/simulated/actions/0123456789abcdef"
SECRET = "pi_1_secret_2"
REDIRECT = {"action_type": "redirect", "action_url": PAGE, "client_secret": "", "expires_at": EXPIRES}
AUTHORIZED = {"reference": "ref-1", "authorized_value": 9900, "expires_at": EXPIRES}


@pytest.fixture(scope="module")
def database_name(console_database):
    return f"{console_database}_money"


@pytest.fixture(scope="module")
def shop(chromium, mongodb_uri, mongo, database_name, tmp_path_factory):
    """A server whose provider takes an hour to answer."""
    folder = tmp_path_factory.mktemp("money")
    with running(mongodb_uri, database_name, folder, WEB_CONCURRENCY="1", SIMULATED_LATENCY_MS="3600000") as started:
        yield started
    mongo.drop_database(database_name)


@pytest.fixture
def tell(mongodb_uri, database_name):
    """Tell orders what happened to a payment."""
    database = Database(mongodb_uri, database_name)
    store = database.collection("orders", 30.0)
    orders = OrderService(OrderRepository(store, Outbox(store, 10.0), 30.0), OpenOrderLimit(lambda *_: 0, 1))
    sequence = count(1)

    def deliver(order_id, kind, **members):
        base = {"event_id": uuid4().hex, "order_id": order_id, "sequence": next(sequence), "request_id": "r", "at": 1}
        orders.on_payment_events([kind(**base | members)])

    yield deliver
    database.close()


@pytest.fixture
def page(open_page, shop):
    found = open_page(shop.url)
    expect(found.locator("#connection")).to_have_attribute("data-state", "live")
    return found


def placed(page, shop, **choices):
    """Place an order with these choices and open its page; its id."""
    order_id = place(page, **choices)
    open_order(page, shop.url, order_id)
    return order_id


def test_an_order_is_placed_with_a_payment_method_authorized_and_captured_in_part(
    page, shop, mongo, database_name, tell
):
    order_id = placed(page, shop, method="pm_card_visa", capture="manual")
    stored = mongo[database_name].orders.find_one({"_id": ObjectId(order_id)})
    assert (stored["paymentMethod"], stored["capture"]) == ("pm_card_visa", "manual")
    statuses(page, "Processing", "Processing")
    tell(order_id, PaymentAuthorized, **AUTHORIZED)
    statuses(page, "Processing", "Authorized")
    expect(page.locator("#money")).to_contain_text("AuthorizedMYR 99.00")
    expect(page.locator("#payment-machine .here")).to_have_text("Authorized")
    expect(page.locator("#payment-note")).to_have_text("Authorized: the amount is held until it is captured.")
    page.get_by_role("button", name="Capture…").click()
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Write an amount: an empty field moves nothing.")
    dialog(page).get_by_label("Amount in MYR").fill("40")
    dialog(page).get_by_text("curl", exact=True).click()
    expect(dialog(page).locator(".command")).to_contain_text(f"/orders/one/{order_id}/capture")
    dialog(page).get_by_role("button", name="Capture MYR 40.00").click()
    expect(page.locator("#message")).to_have_text("Capture of MYR 40.00: on its way.")
    expect(page.get_by_role("button", name="Capture…")).to_have_count(0)
    expect(page.locator(".timeline")).to_contain_text("Capture requested MYR 40.00 by a client")
    tell(order_id, PaymentCaptured, reference="ref-1", took_ms=1, captured_value=4000)
    statuses(page, "Success", "Captured")
    expect(page.locator("#money")).to_contain_text("CapturedMYR 40.00")
    expect(page.locator("#payment-machine .been")).to_have_text(["Processing", "Authorized"])
    expect(page.get_by_role("button", name="Refund…")).to_be_visible()


def test_an_ordinary_order_is_placed_without_a_word_about_how_it_is_paid(page, mongo, database_name):
    stored = mongo[database_name].orders.find_one({"_id": ObjectId(place(page))})
    assert not {"paymentMethod", "returnUrl", "capture"} & stored.keys()


def test_a_card_number_is_refused_and_the_page_says_so(page):
    page.get_by_role("button", name="Place an order").click()
    page.get_by_text("How it is paid").click()
    page.get_by_label("Payment method").fill("4242 4242 4242 4242")
    page.get_by_role("button", name="Place order", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Not placed. The body contains a card number")


def test_a_customer_continues_at_the_provider_until_the_payment_goes_on(page, shop, tell):
    page.context.route(
        "https://bank.example/**", lambda route: route.fulfill(body="<h1>Bank</h1>", content_type="text/html")
    )
    order_id = placed(page, shop)
    tell(order_id, PaymentActionRequired, **REDIRECT)
    statuses(page, "Processing", "ActionRequired")
    link = page.get_by_role("link", name="Continue")
    expect(link).to_have_attribute("href", PAGE)
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.locator("h1")).to_have_text("Bank")
    assert opened.value.evaluate("window.opener") is None
    opened.value.close()
    tell(order_id, PaymentCaptured, reference="ref-1", took_ms=1)
    statuses(page, "Success", "Captured")
    expect(link).to_have_count(0)


@pytest.mark.parametrize(
    "action",
    [
        {"action_type": "confirm", "action_url": "", "client_secret": SECRET},
        {"action_type": "redirect", "action_url": "javascript:window.xss=1", "client_secret": SECRET},
    ],
)
def test_a_secret_or_a_script_of_the_provider_is_not_in_the_page(page, shop, tell, action):
    order_id = placed(page, shop)
    tell(order_id, PaymentActionRequired, **action, expires_at=EXPIRES)
    expect(page.locator("#next")).to_contain_text("The customer must confirm the payment in a page of the shop.")
    expect(page.get_by_role("link", name="Continue")).to_have_count(0)
    assert SECRET not in page.content()
    assert "javascript:" not in page.content()


def test_a_disputed_order_offers_no_refund_and_says_why(page, shop, tell):
    order_id = placed(page, shop)
    tell(order_id, PaymentCaptured, reference="ref-1", took_ms=1)
    expect(page.get_by_role("button", name="Refund…")).to_be_visible()
    tell(order_id, PaymentDisputed, dispute_id="d1", dispute_value=9900, reason=f"look at {DECISION} or javascript:x")
    statuses(page, "Success", "Disputed")
    link = page.locator(".timeline .detail a").last
    expect(link).to_have_text(DECISION)
    expect(link).to_have_attribute("href", DECISION)
    expect(link.locator("xpath=..")).to_have_text(f"look at {DECISION} or javascript:x")
    expect(page.get_by_role("button", name="Refund…")).to_have_count(0)
    expect(page.locator("#actions")).to_contain_text("a refund is started if the dispute is won")
    expect(page.locator("#payment-note")).to_contain_text("the payer has objected to the charge")


@pytest.mark.long
def test_the_new_controls_keep_nobody_out_in_light_and_dark(open_page, shop, tell):
    page = open_page(shop.url, reduced_motion="reduce")
    waiting, held = place(page), place(page, capture="manual")
    tell(held, PaymentAuthorized, **AUTHORIZED)
    tell(waiting, PaymentActionRequired, **REDIRECT)
    for order_id, payment_status in ((waiting, "ActionRequired"), (held, "Authorized")):
        open_order(page, shop.url, order_id)
        statuses(page, "Processing", payment_status)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            expect(page.locator("html")).to_have_attribute("data-theme", scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        fits(page, 360, 390, 768, 1280)
        page.set_viewport_size({"width": 1440, "height": 1000})
