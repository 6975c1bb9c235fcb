"""The page of one order in a browser: its state, the reason, its money, what was done by which request, and what can be done."""

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from tests.console.pages import dialog, fits, open_order, place, send, statuses
from tests.console.server import http

pytestmark = pytest.mark.extended

LONG_REASON = "A scratch on the left side of the machine, as the photograph of the customer shows. " * 5


@pytest.fixture
def paid(open_page, server, eventually):
    """The page of an order that was captured."""
    order_id = server.place()
    eventually(lambda: server.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == "Captured")
    page = open_order(open_page("about:blank"), server.url, order_id)
    statuses(page, "Success", "Captured")
    return page, order_id


def money(page, name):
    """The amount beside a name in the card of the money."""
    term = page.locator("#money dt").filter(has_text=re.compile(f"^{re.escape(name)}$"))
    return term.locator("xpath=following-sibling::dd[1]")


def test_it_tells_the_state_the_reason_the_money_and_the_way(paid):
    page, order_id = paid
    expect(page.locator("#sentence")).to_contain_text("nothing is left to do for its payment")
    expect(page.locator("#order-title")).to_have_text("Espresso machine, RM 99")
    expect(page).to_have_title(re.compile(rf"Espresso machine, RM 99: Success · Order …{order_id[-6:]} · Orderflow"))
    expect(money(page, "Captured")).to_have_text("MYR 99.00")
    expect(money(page, "Can be refunded")).to_have_text("MYR 99.00")
    expect(page.locator(".waterfall tbody tr")).to_have_count(9)
    expect(page.locator("#attempts")).to_contain_text("charge: captured")
    expect(page.locator("#log .lines")).to_contain_text('"event":"order stored"')
    expect(page.locator("#log .curl .command")).to_have_text(
        [f"grep {order_id} orderflow.log", f"docker compose logs --no-log-prefix app | grep {order_id}"]
    )
    expect(page.locator(".timeline time").first).to_have_text(
        re.compile(r"^\d{1,2} \w{3} (\d{4} )?\d\d:\d\d:\d\d\.\d{3}$")
    )
    expect(page.locator("#machine")).to_have_attribute(
        "aria-label", "States of this order: (new), then Processing, then Success."
    )


def test_a_request_leads_to_what_it_did_and_back(paid, server):
    page, order_id = paid
    request = "causing-request-1"
    refund = {"amount": "RM 10"}
    http.post(f"{server.url}/orders/one/{order_id}/refunds", json=refund, headers={"X-Request-Id": request})
    item = page.locator(f"#request-{request}")
    expect(item).to_contain_text("3 Refund requested, 4 Refunded")
    expect(item).to_contain_text("Provider: refund refunded")
    page.locator("#change-3").get_by_role("link", name=request).click()
    expect(page).to_have_url(re.compile(f"#request-{request}$"))
    item.get_by_role("link", name="4 Refunded").click()
    expect(page).to_have_url(re.compile("#change-4$"))


def test_a_refund_shows_what_is_left_and_takes_nothing_from_an_empty_field(paid, server):
    page, order_id = paid
    page.get_by_role("button", name="Refund…").click()
    expect(dialog(page).locator(".facts")).to_contain_text("Left")
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Write an amount: an empty field moves nothing.")
    dialog(page).get_by_label("Amount in MYR").fill("100")
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Only MYR 99.00 is left.")
    dialog(page).get_by_label("Amount in MYR").fill("10")
    dialog(page).get_by_label("Reason").fill("scratched")
    expect(dialog(page).get_by_role("button", name="Refund MYR 10.00")).to_be_visible()
    send(page)
    expect(dialog(page)).to_have_count(0)
    expect(page.locator("#message")).to_have_text("Refund of MYR 10.00: on its way.")
    expect(money(page, "Refunded")).to_have_text("MYR 10.00")
    expect(money(page, "Can be refunded")).to_have_text("MYR 89.00")
    expect(page.locator(".refunds")).to_contain_text("scratched")
    expect(page.locator(".timeline")).to_contain_text("Refunded MYR 10.00")
    page.get_by_role("button", name="Refund…").click()
    dialog(page).get_by_role("button", name="All that is left: MYR 89.00").click()
    expect(dialog(page).get_by_label("Amount in MYR")).to_have_value("89.00")
    send(page)
    statuses(page, "Success", "Refunded")
    expect(page.get_by_role("button", name="Refund…")).to_have_count(0)
    assert server.get(f"/orders/one/{order_id}")["order"]["refunded"] == {"value": 9900, "currency": "MYR"}


def test_cancelling_asks_first_and_going_back_changes_nothing(paid, server):
    page, order_id = paid
    page.get_by_role("button", name="Cancel order…").click()
    expect(dialog(page)).to_contain_text("a refund is started (MYR 99.00)")
    dialog(page).get_by_role("button", name="Back").click()
    expect(dialog(page)).to_have_count(0)
    assert len(server.get(f"/orders/one/{order_id}/events")["events"]) == 2
    page.get_by_role("button", name="Cancel order…").click()
    page.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    page.get_by_role("button", name="Cancel order…").click()
    dialog(page).get_by_role("button", name="Cancel the order").click()
    statuses(page, "Cancelled", "Refunded")
    expect(page.get_by_text("No action is possible now.")).to_be_visible()
    expect(page.locator("#machine")).to_have_attribute(
        "aria-label", "States of this order: (new), then Processing, then Success, then Cancelled."
    )


def test_a_custom_status_that_is_refused_is_said_next_to_its_field(paid):
    page, _ = paid
    page.get_by_role("button", name="Set status…").click()
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Write a status, such as Packed.")
    dialog(page).get_by_label("Status", exact=True).fill("Packed")
    send(page)
    statuses(page, "Packed", "Captured")


def test_the_order_can_be_seen_as_of_any_change(paid):
    page, _ = paid
    page.get_by_label("The order as of change").press("Home")
    statuses(page, "Processing", "Processing")
    expect(page.locator("#sentence")).to_have_text("After change 1: Processing, payment Processing.")
    page.get_by_label("The order as of change").press("End")
    statuses(page, "Success", "Captured")


def test_an_order_in_trouble_counts_down_to_its_next_attempt(open_page, server, mongo, console_database, eventually):
    payments, order_id = mongo[console_database].payments, server.place(productId="flaky")
    # Its next attempt waits until the page was looked at.
    between = {
        "_id": order_id,
        "attempts.0": {"$exists": True},
        "owner": {"$exists": False},
        "dueAt": {"$exists": True},
    }
    later = datetime.now(UTC) + timedelta(minutes=10)
    eventually(lambda: payments.update_one(between, {"$set": {"dueAt": later}}).modified_count)
    page = open_order(open_page("about:blank"), server.url, order_id)
    expect(page.locator("#countdown")).to_have_text(re.compile(r"^Next attempt in \d"))
    expect(page.locator("#sentence")).to_contain_text("so far")
    payments.update_one(between, {"$set": {"dueAt": datetime.now(UTC)}})
    statuses(page, "Success", "Captured")


def test_a_customer_who_is_asked_continues_at_the_provider_and_the_order_is_paid(open_page, server):
    page = open_order(open_page("about:blank"), server.url, server.place(productId="action-required"))
    statuses(page, "Processing", "ActionRequired")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Continue").click()
    opened.value.get_by_role("button", name="Approve").click()
    expect(opened.value.get_by_role("status")).to_have_text("The payment is made.")
    statuses(page, "Success", "Captured")
    expect(page.get_by_role("link", name="Continue")).to_have_count(0)


def test_what_the_page_shows_can_be_read_by_hand(paid, server):
    page, order_id = paid
    for name, part in {
        "timeline": "/events",
        "waterfall": "/latency",
        "requests": "/requests",
        "refunds": "/refunds",
        "order": "",
        "explanation": "/explain",
    }.items():
        page.get_by_role("button", name=f"curl of the {name}", exact=True).click()
        command = page.get_by_role("region", name=f"Command: {name}", exact=True).inner_text()
        assert command == f"curl -s '{server.url}/orders/one/{order_id}{part}'"
        assert server.get(f"/orders/one/{order_id}{part}")["ok"]


def test_what_the_page_does_can_be_done_by_hand_and_is_safe_to_repeat(paid, server):
    page, order_id = paid
    page.get_by_role("button", name="Refund…").click()
    dialog(page).get_by_label("Amount in MYR").fill("10")
    dialog(page).get_by_text("curl", exact=True).click()
    command = dialog(page).locator(".command").inner_text()
    assert re.search(r"-H 'Idempotency-Key: console-\w{32}'", command)
    assert command.startswith(f"curl -s -X POST '{server.url}/orders/one/{order_id}/refunds'")
    dialog(page).get_by_role("button", name="Back").click()
    if shutil.which("curl"):
        first, again = (
            subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True) for _ in range(2)
        )
        assert first.stdout == again.stdout
        expect(money(page, "Refunded")).to_have_text("MYR 10.00")
        assert len(server.get(f"/orders/one/{order_id}/refunds")["refunds"]) == 1


def test_the_open_page_outlives_the_server(page, server, mongo, console_database):
    order_id = place(page)
    order = open_order(page.context.new_page(), server.url, order_id)
    statuses(order, "Success", "Captured")
    server.kill()
    expect(page.locator("#connection")).to_have_attribute("data-state", "disconnected")
    expect(order.locator("#connection")).to_have_attribute("data-state", "disconnected")
    page.get_by_role("button", name="Place an order").click()
    page.get_by_label("User", exact=True).last.fill("patient")
    page.get_by_role("button", name="Place order", exact=True).click()
    expect(page.locator("#place-dialog .message")).to_contain_text("trying again with the same key")
    server.start()
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    expect(page.locator("#orders tbody tr", has_text="patient").first).to_be_visible()
    assert mongo[console_database].orders.count_documents({"userId": "patient"}) == 1
    expect(order.locator("#connection")).to_have_attribute("data-state", "live")
    expect(order.locator(".timeline li")).to_have_count(2)
    order.reload()
    statuses(order, "Success", "Captured")
    expect(order.locator(".timeline li")).to_have_count(2)


def test_what_cannot_be_read_is_said_in_its_section_and_the_rest_is_shown(open_page, server):
    page = open_page("about:blank")
    problem = {"status": 503, "code": "unavailable", "detail": "payments did not answer in time"}
    page.route("**/latency", lambda route: route.fulfill(status=503, json=problem))
    open_order(page, server.url, server.place())
    statuses(page, "Success", "Captured")
    waterfall = page.get_by_role("region", name="Waterfall")
    expect(waterfall).to_contain_text("This cannot be read at the moment: payments did not answer in time.")
    expect(page.locator("#requests li")).to_have_count(1)
    expect(money(page, "Captured")).to_have_text("MYR 99.00")
    page.unroute("**/latency")
    page.reload()
    expect(page.locator(".waterfall tbody tr")).to_have_count(9)
    expect(waterfall).not_to_contain_text("cannot be read")


@pytest.mark.parametrize("order_id", ["692000000000000000000000", "nonsense"])
def test_an_order_that_is_not_there_is_said_in_words(open_page, server, order_id):
    page = open_page(f"{server.url}/console/orders/{order_id}")
    expect(page.get_by_role("alert")).to_contain_text("This order cannot be shown")
    expect(page.locator("#order")).to_be_hidden()
    expect(page).to_have_title("No such order · Orderflow")


def test_a_phone_lands_on_the_head_of_the_order(open_page, server):
    page = open_page("about:blank", viewport={"width": 390, "height": 800})
    open_order(page, server.url, server.place())
    statuses(page, "Success", "Captured")
    assert page.evaluate("scrollY") == 0
    expect(page.locator("#order-title")).to_be_in_viewport(ratio=1)
    expect(page.locator("#chips")).to_be_in_viewport(ratio=1)
    expect(page.locator("#sentence")).to_be_in_viewport()


def test_long_names_and_reasons_fit_and_nothing_of_the_waterfall_is_clipped(
    open_page, server, mongo, console_database, eventually
):
    order_id = server.place(productName="W" * 512, userId="M" * 128)
    eventually(lambda: server.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == "Captured")
    # An event that is not acknowledged yet is delivered again with the next one, and has two more rows then.
    waiting = {"outbox.0": {"$exists": True}}
    stores = (mongo[console_database].orders, mongo[console_database].payments)
    eventually(lambda: not any(store.find_one(waiting) for store in stores))
    refund = {"amount": "RM 10", "reason": LONG_REASON[:499].strip()}
    http.post(f"{server.url}/orders/one/{order_id}/refunds", json=refund).raise_for_status()
    page = open_order(open_page("about:blank"), server.url, order_id)
    expect(page.locator(".timeline li")).to_have_count(4)
    expect(page.locator(".waterfall tbody tr")).to_have_count(18)
    for width in (360, 390, 768, 1000, 1280, 1400, 1920):
        fits(page, width)
        assert page.evaluate(
            """() => {
              const card = document.getElementById("waterfall").getBoundingClientRect();
              const cells = [...document.querySelectorAll(".waterfall th, .waterfall td, .waterfall .span")];
              return cells.every((cell) => cell.getBoundingClientRect().right <= card.right + 1);
            }"""
        ), width


def test_it_shows_what_the_client_has_noted_and_follows_changes(open_page, server):
    order_id = server.place(metadata={"cart": "A-1207", "<b>table</b>": "7"})
    page = open_order(open_page("about:blank"), server.url, order_id)
    noted = page.locator("#about .metadata")
    expect(noted.locator("dt")).to_have_text(["cart", "<b>table</b>"])
    expect(noted.locator("dd")).to_have_text(["A-1207", "7"])
    http.patch(f"{server.url}/orders/one/{order_id}", json={"metadata": {"cart": "B-2", "<b>table</b>": None}})
    expect(noted.locator("dd")).to_have_text(["B-2"])
    expect(page.locator(".timeline")).to_contain_text("Metadata changed")


def test_it_shows_the_items_with_what_they_cost(open_page, server, paid):
    page, _ = paid
    expect(page.locator("#items")).to_be_hidden()
    beans = {"productId": "1", "productName": "<b>Beans</b>", "quantity": 3, "unitAmount": "RM 19.90"}
    milk = {"productId": "milk", "productName": "Milk", "quantity": 1, "unitAmount": "RM 6.55"}
    answer = http.post(f"{server.url}/orders", json={"userId": "demo", "items": [beans, milk]})
    page = open_order(open_page("about:blank"), server.url, answer.json()["created"]["id"])
    rows = page.locator("#items tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0).locator("th, td")).to_have_text(["<b>Beans</b> 1", "3", "MYR 19.90", "MYR 59.70"])
    expect(page.locator("#order-title")).to_have_text("<b>Beans</b> and 1 more, MYR 66.25")
    fits(page)
