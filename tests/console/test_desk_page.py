"""The operator's desk in a browser: what waits for a person, and each step with a reason and a name on the timeline."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from bson import ObjectId
from playwright.sync_api import expect

from app.contracts.orders import OrderCreated
from app.messaging.outbox import Outbox, encode_event
from app.storage.mongodb import Database
from tests.console.pages import IDENTITY, dialog, fits, open_order, row, send, sign_in, statuses, token
from tests.console.server import http, running

pytestmark = pytest.mark.extended

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
CASES_AND_BADGE = """
[document.querySelectorAll(".case").length, document.getElementById("desk-count").textContent]
"""
LATER = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def database_name(console_database):
    return f"{console_database}_desk"


@pytest.fixture(scope="module")
def shop(chromium, mongodb_uri, mongo, database_name, tmp_path_factory):
    """A server that parks a payment after the first call without an outcome."""
    folder = tmp_path_factory.mktemp("desk")
    with running(mongodb_uri, database_name, folder, WEB_CONCURRENCY="1", PAYMENT_TRIES="1") as started:
        yield started
    mongo.drop_database(database_name)


@pytest.fixture
def park(shop, mongo, database_name, eventually):
    """Have a payment parked, by default so long ago that its last call has ended, else with one that lasts; the order's id."""

    def make(call_ended=True, **changes):
        order_id = shop.place(productId="timeout-after-charge", **changes)
        eventually(lambda: shop.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == "Unknown")
        # A busy machine may need longer than the half a minute for which a call may still arrive.
        ends = {"attempts.$[].at": LONG_AGO} if call_ended else {"attempts.$[].callSeconds": 3600.0}
        mongo[database_name].payments.update_one({"_id": order_id}, {"$set": ends})
        return order_id

    return make


@pytest.fixture
def bury(shop, mongo, mongodb_uri, database_name, eventually):
    """Have an event of a settled order become a dead letter; the order's id."""
    database = Database(mongodb_uri, database_name)
    outbox = Outbox(database.collection("orders", 30.0), 10.0)

    def make():
        order_id = shop.place()
        eventually(lambda: shop.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == "Captured")
        names = {"event_id": uuid4().hex, "order_id": order_id, "sequence": 1, "request_id": "r", "at": 1}
        paid = {"user_id": "demo", "product_id": "1", "total_value": 9900, "total_currency": "MYR"}
        event = OrderCreated(**names, **paid)
        key = ObjectId(order_id)
        changes = {"$set": {"outbox": [encode_event(event)], "relayDue": LATER}}
        mongo[database_name].orders.update_one({"_id": key}, changes)
        outbox.dead_letter(key, event.event_id, "ValueError('a value that nobody expects')", 8)
        return order_id

    yield make
    database.close()


@pytest.fixture
def desk(open_page, shop):
    """The desk, once it has looked."""
    page = open_page(f"{shop.url}/console/desk")
    expect(page.locator("#desk")).to_be_visible()
    return page


def outcomes(page):
    """The outcomes that the open question offers."""
    options = dialog(page).get_by_label("Outcome").locator("option").all()
    return [value for option in options if (value := option.get_attribute("value"))]


def case(page, order_id):
    return page.locator(".case", has_text=order_id)


def test_a_desk_without_work_says_so(open_page, server):
    page = open_page(f"{server.url}/console/desk")
    expect(page.get_by_text("No payment is parked: there is nothing to decide.")).to_be_visible()
    expect(page.get_by_text("No dead letter: every event was delivered or is on its way.")).to_be_visible()
    expect(page).to_have_title("Desk · Orderflow")


def test_a_parked_payment_is_resolved_with_a_reason_and_a_name(desk, shop, park):
    order_id = park(userId="radia")
    found = case(desk, order_id)
    for text in ("MYR 99.00", "for radia", "charge", f"{order_id}:1", "Unknown"):
        expect(found).to_contain_text(text)
    found.get_by_role("button", name="Resolve…").click()
    expect(dialog(desk).locator(".facts")).to_contain_text(f"{order_id}:1")
    assert outcomes(desk) == ["captured", "declined", "voided"]
    send(desk)
    expect(dialog(desk).locator(".field-error")).to_have_text(
        ["Choose an outcome.", "Write a reason.", "Write your name."]
    )
    dialog(desk).get_by_label("Outcome").select_option("captured")
    dialog(desk).get_by_label("Reason").fill("seen in the dashboard")
    dialog(desk).get_by_label("Your name").fill("Ada")
    dialog(desk).get_by_role("button", name="Resolve as captured").click()
    expect(desk.locator("#message")).to_have_text("Resolved: the payment is Captured.")
    expect(found).to_have_count(0)
    cases, badge = desk.evaluate(CASES_AND_BADGE)
    assert badge == (str(cases) if cases else "")
    page = open_order(desk, shop.url, order_id)
    statuses(page, "Success", "Captured")
    expect(page.locator(".timeline")).to_contain_text("by operator Ada")
    expect(page.locator(".timeline")).to_contain_text("seen in the dashboard")


def test_what_was_captured_of_a_parked_payment_is_unknown_and_not_nothing(desk, shop, park):
    order_id = park()
    page = open_order(desk, shop.url, order_id)
    statuses(page, "Processing", "Unknown")
    expect(page.locator("#money")).to_contain_text("Unknown: not yet counted.")
    expect(page.locator("#money")).to_contain_text("Capturedunknown")
    page.goto(shop.url)
    expect(row(page, order_id).locator(".captured")).to_have_text("unknown")


@pytest.fixture
def refund_failed(shop, eventually):
    """An order that was cancelled and whose money could not be given back, so that its payment is parked; its id."""
    order_id = shop.place(productId="refund-fails-later")

    def becomes(status):
        eventually(lambda: shop.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == status, 60.0)

    becomes("Captured")
    cancelled = {"orderId": order_id, "orderStatus": "Cancelled"}
    http.put(f"{shop.url}/orders", json=cancelled).raise_for_status()
    becomes("Unknown")
    return order_id


def test_money_that_could_not_be_given_back_is_blocked_and_only_paid_back_by_other_means(desk, shop, refund_failed):
    found = case(desk, refund_failed)
    expect(found.get_by_role("button")).to_have_text(["Retry…", "Resolve…"])
    found.get_by_role("button", name="Resolve…").click()
    assert outcomes(desk) == ["refunded"]
    page = open_order(desk, shop.url, refund_failed)
    expect(page.locator("#sentence")).to_contain_text("payments left its payment to an operator")
    money = page.locator("#money")
    expect(money).to_contain_text("MYR 99.00 could not be given back; an operator decides.")
    expect(money).to_contain_text("BlockedMYR 99.00")
    expect(money).not_to_contain_text("under way")
    page.goto(shop.url)
    expect(row(page, refund_failed).locator(".refunded")).to_have_text("blocked MYR 99.00")


def test_a_wrong_resolution_is_corrected_and_both_are_on_the_timeline(desk, shop, park):
    order_id = park()
    case(desk, order_id).get_by_role("button", name="Resolve…").click()
    dialog(desk).get_by_label("Outcome").select_option("declined")
    dialog(desk).get_by_label("Reason").fill("looked at the wrong line")
    dialog(desk).get_by_label("Your name").fill("Ada")
    send(desk)
    expect(desk.locator("#message")).to_have_text("Resolved: the payment is Declined.")
    page = open_order(desk, shop.url, order_id)
    statuses(page, "Declined", "Declined")
    page.get_by_role("button", name="Correct the resolution…").click()
    assert outcomes(page) == ["captured", "voided"]
    dialog(page).get_by_label("Outcome").select_option("captured")
    dialog(page).get_by_label("Reason").fill("it was taken after all")
    expect(dialog(page).get_by_label("Your name")).to_have_value("Ada")
    send(page)
    expect(page.locator("#message")).to_have_text("The resolution is corrected.")
    expect(page.locator(".timeline")).to_contain_text("it was taken after all")
    expect(page.locator(".timeline")).to_contain_text("looked at the wrong line")


def test_the_page_of_a_parked_order_leads_to_its_case_on_the_desk(desk, shop, park):
    order_id = park()
    page = open_order(desk, shop.url, order_id)
    page.get_by_role("link", name="Decide at the desk").click()
    expect(page).to_have_url(f"{shop.url}/console/desk#case-{order_id}")
    expect(case(page, order_id)).to_be_in_viewport()


def test_a_retry_finds_the_payment_that_was_made(desk, shop, park):
    order_id = park()
    case(desk, order_id).get_by_role("button", name="Retry…").click()
    dialog(desk).get_by_label("Reason").fill("the provider is back")
    dialog(desk).get_by_label("Your name").fill("Grace")
    send(desk)
    expect(desk.locator("#message")).to_contain_text("Tried again")
    page = open_order(desk, shop.url, order_id)
    statuses(page, "Success", "Captured")
    expect(page.locator(".timeline")).to_contain_text("by operator Grace")


def test_what_is_not_possible_is_said_in_the_dialog_and_changes_nothing(desk, park):
    order_id = park(call_ended=False)
    found = case(desk, order_id)
    expect(found).to_contain_text("until then it may still reach the provider")
    found.get_by_role("button", name="Resolve…").click()
    dialog(desk).get_by_label("Outcome").select_option("declined")
    dialog(desk).get_by_label("Reason").fill("impatience")
    dialog(desk).get_by_label("Your name").fill("Ada")
    send(desk)
    expect(dialog(desk).get_by_role("alert")).to_contain_text("may still reach the provider")
    dialog(desk).get_by_role("button", name="Back").click()
    expect(found).to_be_visible()


def test_a_dead_letter_is_replayed(desk, bury):
    order_id = bury()
    found = case(desk, order_id)
    expect(found).to_contain_text("ValueError('a value that nobody expects')")
    expect(found).to_contain_text("OrderCreated")
    found.get_by_role("button", name="Replay…").click()
    dialog(desk).get_by_label("Reason").fill("the cause is removed")
    dialog(desk).get_by_label("Your name").fill("Ada")
    send(desk)
    expect(desk.locator("#message")).to_have_text("Replayed in orders.")
    expect(found).to_have_count(0)


def test_the_desk_counts_what_waits_in_its_title_and_in_the_head_of_every_page(desk, shop, park):
    expect(case(desk, park())).to_be_visible()
    waiting = desk.locator(".case").count()
    expect(desk).to_have_title(f"Desk ({waiting}) · Orderflow")
    desk.goto(shop.url)
    expect(desk.locator("#desk-count")).to_have_text(str(waiting))


def test_the_name_is_the_tokens_where_callers_are_known(open_page, mongodb_uri, console_database, tmp_path, mongo):
    name = f"{console_database}_operator"
    with running(mongodb_uri, name, tmp_path, **IDENTITY, WEB_CONCURRENCY="1") as fort:
        page = open_page(f"{fort.url}/console/desk")
        sign_in(page, token("olga", "orders:admin"))
        page.get_by_role("button", name="Correct a resolution").click()
        expect(dialog(page).get_by_label("Reason")).to_be_visible()
        expect(dialog(page).get_by_label("Your name")).to_have_count(0)
    mongo.drop_database(name)


@pytest.mark.long
def test_it_keeps_nobody_out_and_fits_every_width(open_page, shop, park, bury):
    park(userId="M" * 128)
    bury()
    page = open_page(f"{shop.url}/console/desk", reduced_motion="reduce")
    expect(page.locator(".case").nth(1)).to_be_visible()
    fits(page, 360, 390, 768, 1280, 1400)
    for step in ("", "Resolve…", "Retry…", "Replay…"):
        if step:
            page.get_by_role("button", name=step).first.click()
            send(page)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            expect(page.locator("html")).to_have_attribute("data-theme", scheme)
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        if step:
            page.get_by_role("button", name="Back").click()
