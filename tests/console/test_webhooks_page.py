"""Webhooks in a browser: endpoints, deliveries with their attempts, and what can be done with each; a real receiver takes them."""

import re
import shutil
import subprocess
from datetime import timedelta

import pytest
from playwright.sync_api import expect
from standardwebhooks.webhooks import Webhook

from tests.console.pages import IDENTITY, dialog, open_order, send, sign_in, token
from tests.console.server import http, running

pytestmark = pytest.mark.extended

MANAGE = "orders:read orders:write webhooks:manage"


@pytest.fixture
def webhooks(open_page, server):
    """The page of all endpoints, once it has them."""
    page = open_page(f"{server.url}/console/webhooks")
    expect(page.locator("#types .type").first).to_be_visible()
    return page


@pytest.fixture
def open_endpoint(open_page, server):
    def opened(endpoint_id, query=""):
        page = open_page(f"{server.url}/console/webhooks/{endpoint_id}{query}")
        expect(page.locator("#actions button").first).to_be_visible()
        return page

    return opened


def act(page, button):
    """Press a button of the page and the one in its question."""
    page.get_by_role("button", name=button).click()
    send(page)


def fact(page, name):
    """The value beside a name in the card of the head."""
    return page.locator("#about dt").filter(has_text=re.compile(f"^{name}$")).locator("xpath=following-sibling::dd[1]")


def rows(page):
    return page.locator("#deliveries tbody tr")


def test_an_endpoint_is_added_and_a_test_event_arrives_signed(webhooks, server, receiver):
    page = webhooks
    page.get_by_role("button", name="Add an endpoint").click()
    dialog(page).get_by_label("Address").fill(receiver.url)
    dialog(page).get_by_label("Description").fill("The warehouse")
    dialog(page).get_by_label("User (optional)").fill("merchant-1")
    dialog(page).get_by_role("checkbox", name="* all of them").uncheck()
    dialog(page).get_by_role("checkbox", name="order.succeeded").check()
    dialog(page).get_by_text("curl", exact=True).click()
    expect(dialog(page).locator(".command")).to_contain_text('"events":["order.succeeded"]')
    expect(dialog(page).locator(".command")).not_to_contain_text("Idempotency-Key")
    send(page)
    told = page.locator("dialog.tell")
    expect(told).to_contain_text("It is shown now and never again.")
    secret = told.locator(".command").inner_text()
    told.get_by_role("button", name="I have copied it").click()
    expect(told).to_have_count(0)
    assert secret.startswith("whsec_")
    assert secret not in page.content()
    row = page.locator("#endpoints tbody tr", has_text=receiver.url)
    for text in ("The warehouse", "order.succeeded", "State: Enabled", "merchant-1"):
        expect(row).to_contain_text(text)
    page.get_by_role("link", name="Open the endpoint").click()
    act(page, "Send a test event…")
    page.get_by_role("link", name="its delivery").click()
    expect(page.locator("#about")).to_contain_text("Status: succeeded")
    expect(page.locator(".deliveries-made li")).to_have_count(1)
    expect(page.locator(".deliveries-made li")).to_contain_text("answered 204 after")
    expect(page.locator("#body .command")).to_contain_text('"type": "endpoint.test"')
    (received,) = receiver.wait_for(1)
    assert Webhook(secret).verify(received.body, received.headers)["type"] == "endpoint.test"
    expect(fact(page, "webhook-id")).to_have_text(received.headers["webhook-id"])
    page.get_by_role("link", name="Endpoint").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("answered 204")
    act(page, "Delete…")
    expect(page).to_have_url(f"{server.url}/console/webhooks")
    expect(page.locator("#endpoints tbody tr", has_text=receiver.url)).to_have_count(0)


def test_endpoints_are_shown_in_pages_the_oldest_first(webhooks, server, add_endpoint):
    # More than a page of 25, of two users, as a user has 16 at most.
    made = [add_endpoint(userId=f"merchant-{at % 2 + 6}", description=f"number {at}") for at in range(30)]
    page, shown = webhooks, webhooks.locator("#endpoints tbody tr")
    expect(shown).to_have_count(25)
    expect(page.locator("#page-number")).to_have_text("Page 1")
    page.get_by_role("button", name="curl of the endpoints").click()
    expect(page.locator(".command").first).to_contain_text("/webhooks/endpoints?limit=25'")
    page.get_by_role("link", name="Newer").click()
    expect(page.locator("#page-number")).to_have_text("Page 2")
    expect(shown.locator(f'a[href="/console/webhooks/{made[-1]}"]')).to_be_visible()
    expect(shown.locator(f'a[href="/console/webhooks/{made[0]}"]')).to_have_count(0)
    page.reload()
    expect(shown.locator(f'a[href="/console/webhooks/{made[-1]}"]')).to_be_visible()
    page.get_by_role("link", name="Oldest").click()
    expect(shown).to_have_count(25)
    page.go_back()
    expect(page.locator("#page-number")).to_have_text("Page 2")
    # A cursor of another list begins again.
    page.goto(f"{server.url}/console/webhooks?cursor=none&page=7")
    expect(page).to_have_url(f"{server.url}/console/webhooks")
    expect(shown).to_have_count(25)


def test_what_is_wrong_is_said_next_to_its_field(webhooks):
    page = webhooks
    page.get_by_role("button", name="Add an endpoint").click()
    dialog(page).get_by_role("checkbox", name="* all of them").uncheck()
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text(["Write an address.", "Choose at least one."])
    expect(dialog(page).get_by_label("Address")).to_be_focused()
    dialog(page).get_by_label("Address").fill("ftp://shop.example/")
    dialog(page).get_by_role("checkbox", name="order.created").check()
    expect(dialog(page).locator(".field-error")).to_have_count(0)
    send(page)
    error = dialog(page).locator(".field-error")
    expect(error).to_have_text("Must begin with https://.")
    expect(dialog(page).get_by_label("Address")).to_have_attribute("aria-describedby", error.get_attribute("id"))


def test_a_wildcard_covers_its_types(webhooks):
    page = webhooks
    page.get_by_role("button", name="Add an endpoint").click()
    created = dialog(page).get_by_role("checkbox", name="order.created")
    expect(created).to_be_disabled()
    expect(created).to_be_checked()
    dialog(page).get_by_role("checkbox", name="* all of them").uncheck()
    expect(created).to_be_enabled()
    expect(created).not_to_be_checked()
    dialog(page).get_by_role("checkbox", name="order.* all").check()
    expect(created).to_be_disabled()
    expect(dialog(page).get_by_role("checkbox", name="endpoint.test")).to_be_enabled()
    dialog(page).get_by_text("curl", exact=True).click()
    expect(dialog(page).locator(".command")).to_contain_text('"events":["order.*"]')


def test_an_endpoint_that_verifies_with_a_public_key_shares_no_secret(webhooks, server, receiver):
    page = webhooks
    page.get_by_role("button", name="Add an endpoint").click()
    dialog(page).get_by_label("Address").fill(receiver.url)
    dialog(page).get_by_label("Signature").select_option("v1a")
    send(page)
    told = page.locator("dialog.tell")
    expect(told).to_contain_text("No secret is shared")
    key = told.locator(".command").inner_text()
    told.get_by_role("button", name="Done").click()
    page.get_by_role("link", name="Open the endpoint").click()
    expect(fact(page, "Public key")).to_have_text(key)
    act(page, "Delete…")
    expect(page).to_have_url(f"{server.url}/console/webhooks")


def test_a_failure_is_seen_with_its_answer_and_retried(open_endpoint, receiver, add_endpoint):
    receiver.answer = lambda *_: (500, {}, b"the warehouse is closed")
    page = open_endpoint(add_endpoint())
    act(page, "Send a test event…")
    expect(rows(page)).to_contain_text("answered 500")
    expect(rows(page)).to_contain_text("pending")
    expect(fact(page, "State")).to_contain_text("every attempt has failed since")
    rows(page).get_by_role("link").first.click()
    page.get_by_text("What attempt 1 was answered").click()
    expect(page.locator(".answer .command").first).to_have_text("the warehouse is closed")
    # The second attempt is made by itself, five seconds after the first; the third would be minutes later.
    expect(page.locator(".deliveries-made li")).to_have_count(2)
    expect(page.locator("#countdown")).to_contain_text("The next attempt is in")
    receiver.answer = lambda *_: (200, {}, b"thank you")
    act(page, "Retry…")
    expect(page.locator("#about")).to_contain_text("Status: succeeded")
    expect(page.locator(".deliveries-made li")).to_have_count(3)
    ids = {request.headers["webhook-id"] for request in receiver.wait_for(3)}
    assert len(ids) == 1


def test_a_receiver_that_is_not_there_is_an_error_in_words(open_endpoint, add_endpoint):
    page = open_endpoint(add_endpoint(url="http://127.0.0.1:1/hooks"))
    act(page, "Send a test event…")
    expect(rows(page)).to_contain_text("no connection after")


def test_a_rotated_secret_signs_beside_the_former_one(open_endpoint, receiver, add_endpoint):
    page = open_endpoint(add_endpoint())
    page.get_by_role("button", name="Rotate the secret…").click()
    dialog(page).get_by_label("Hours").fill("1000")
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Write a number from 0 to 168.")
    dialog(page).get_by_label("Hours").fill("2")
    send(page)
    secret = page.locator("dialog.tell .command").inner_text()
    page.get_by_role("button", name="I have copied it").click()
    expect(fact(page, "Former secret")).to_contain_text("signs as well until")
    assert secret not in page.content()
    act(page, "Send a test event…")
    (received,) = receiver.wait_for(1)
    assert len(received.headers["webhook-signature"].split()) == 2
    assert Webhook(secret).verify(received.body, received.headers)


def test_while_it_is_disabled_deliveries_are_held_and_enabling_sends_them(open_endpoint, receiver, add_endpoint):
    page = open_endpoint(add_endpoint())
    act(page, "Disable…")
    expect(fact(page, "State")).to_contain_text("Disabled")
    expect(fact(page, "State")).to_contain_text("disabled by its user")
    act(page, "Send a test event…")
    expect(rows(page)).to_contain_text("held")
    expect(rows(page)).to_contain_text("none yet")
    assert receiver.requests == []
    act(page, "Enable…")
    expect(rows(page)).to_contain_text("succeeded")
    expect(fact(page, "State")).to_have_text("State: Enabled")
    receiver.wait_for(1)


def test_an_endpoint_is_changed(open_endpoint, server, add_endpoint):
    endpoint_id = add_endpoint(description="The warehouse", events=["order.refunded", "endpoint.*"])
    page = open_endpoint(endpoint_id)
    page.get_by_role("button", name="Change…").click()
    expect(dialog(page).get_by_role("checkbox", name="order.refunded")).to_be_checked()
    expect(dialog(page).get_by_role("checkbox", name="endpoint.*")).to_be_checked()
    dialog(page).get_by_label("Description").fill("The shop")
    dialog(page).get_by_role("checkbox", name="order.disputed").check()
    dialog(page).get_by_text("curl", exact=True).click()
    expect(dialog(page).locator(".command")).not_to_contain_text('"url"')
    send(page)
    expect(fact(page, "Description")).to_have_text("The shop")
    expect(fact(page, "Events")).to_contain_text("order.disputed")
    stored = server.get(f"/webhooks/endpoints/{endpoint_id}")["endpoint"]
    assert (stored["description"], set(stored["events"])) == (
        "The shop",
        {"order.refunded", "order.disputed", "endpoint.*"},
    )


def test_the_curl_of_a_question_does_what_its_button_does(open_endpoint, receiver, add_endpoint):
    page = open_endpoint(add_endpoint())
    page.get_by_role("button", name="Send a test event…").click()
    dialog(page).get_by_text("curl", exact=True).click()
    command = dialog(page).locator(".command").inner_text()
    assert shutil.which("curl"), "curl is part of every machine that runs these tests"
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert '"type":"endpoint.test"' in answer.stdout
    receiver.wait_for(1)
    dialog(page).get_by_role("button", name="Back").click()
    expect(rows(page)).to_have_count(1)


@pytest.fixture
def many(server, add_endpoint, eventually, mongo, console_database):
    """An endpoint with 60 deliveries, a minute between two: every third one has failed. Its id, and the newest delivery."""
    endpoint_id = add_endpoint()
    http.post(f"{server.url}/webhooks/endpoints/{endpoint_id}/test").raise_for_status()
    deliveries = mongo[console_database].webhook_deliveries
    newest = eventually(lambda: deliveries.find_one({"endpointId": endpoint_id, "status": "succeeded"}))
    for number in range(1, 60):
        event_id = f"{number:032x}"
        changes = {
            "_id": f"{event_id}.{endpoint_id}",
            "eventId": event_id,
            "createdAt": newest["createdAt"] - timedelta(minutes=number),
            "status": "succeeded" if number % 3 else "failed",
        }
        deliveries.insert_one({**newest, **changes, "orderId": f"{number % 2:024x}"})
    return endpoint_id, newest


def test_filters_and_pages_are_in_the_address(open_endpoint, many):
    endpoint_id, newest = many
    page = open_endpoint(endpoint_id)
    expect(rows(page)).to_have_count(25)
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#page-number")).to_have_text("Page 2")
    page.get_by_role("link", name="Older").click()
    expect(rows(page)).to_have_count(10)
    expect(page.get_by_role("link", name="Older")).to_have_count(0)
    page.get_by_role("link", name="Newer").click()
    expect(page.locator("#page-number")).to_have_text("Page 2")
    page.get_by_label("Status").select_option("failed")
    expect(rows(page)).to_have_count(19)
    expect(page).to_have_url(re.compile(r"\?status=failed$"))
    page.get_by_label("Order id").fill(f"{1:024x}")
    page.get_by_role("button", name="Apply").click()
    expect(rows(page)).to_have_count(10)
    page.get_by_role("link", name="Clear").click()
    expect(rows(page)).to_have_count(25)
    since = (newest["createdAt"] - timedelta(minutes=9, seconds=30)).isoformat(timespec="milliseconds")
    page.goto(f"{page.url}?since={since.replace('+00:00', 'Z')}&status=failed")
    expect(rows(page)).to_have_count(3)
    expect(page.get_by_label("Recorded since")).not_to_have_value("")
    page.get_by_role("button", name="Apply").click()
    expect(rows(page)).to_have_count(3)
    page.goto(f"{page.url.split('?')[0]}?status=lost")
    expect(page.locator(".field-error")).to_contain_text("Status is one of pending, held, succeeded, failed")
    page.goto(f"{page.url.split('?')[0]}?orderId={9:024x}")
    page.get_by_role("link", name="Show all deliveries").click()
    expect(rows(page)).to_have_count(25)


def test_a_time_is_replayed(open_endpoint, many, receiver):
    endpoint_id, _ = many
    page = open_endpoint(endpoint_id)
    page.get_by_role("button", name="Replay…").click()
    dialog(page).get_by_label("Recorded since").fill("")
    send(page)
    expect(dialog(page).locator(".field-error")).to_have_text("Write a date and a time.")
    dialog(page).get_by_label("Recorded since").fill("2026-01-01T00:00:00")
    send(page)
    expect(page.locator("#message")).to_have_text("Sent again: 19.")
    assert len({request.headers["webhook-id"] for request in receiver.wait_for(20)}) == 20
    page.goto(f"{page.url}?status=failed")
    expect(page.get_by_text("No delivery matches.")).to_be_visible()


def test_the_page_of_an_order_shows_what_was_told_about_it(
    open_page, server, receiver, add_endpoint, mongo, console_database, eventually
):
    mine = add_endpoint(userId="merchant-2")
    other = add_endpoint(userId="merchant-3")
    # A new endpoint is told of changes from about three seconds on: orders are placed until one is told.
    deliveries, placed = mongo[console_database].webhook_deliveries, []

    def told():
        about = [delivery["orderId"] for delivery in deliveries.find({"endpointId": mine})]
        return next((order_id for order_id in placed if about.count(order_id) == 2), None)

    def place_and_look():
        placed.append(server.place(userId="merchant-2"))
        try:
            return eventually(told, 2.0)
        except AssertionError:
            return None

    order_id = eventually(place_and_look, 60.0)
    page = open_order(open_page("about:blank"), server.url, order_id)
    section = page.locator("#webhooks")
    expect(section.locator(".deliveries-of li")).to_have_count(2)
    for name in ("order.created", "order.succeeded"):
        expect(section.locator(".deliveries-of li", has_text=name)).to_have_count(1)
    expect(section.locator(".deliveries-of .chip").first).to_have_text("Status: succeeded")
    assert section.locator(f'a[href*="{other}"]').count() == 0
    section.get_by_role("button", name="curl of the deliveries").click()
    expect(section.locator(".command")).to_contain_text(f"/webhooks/endpoints/{mine}/deliveries?")
    section.get_by_role("link", name=receiver.url).click()
    expect(page).to_have_url(f"{server.url}/console/webhooks/{mine}?orderId={order_id}")
    expect(rows(page)).to_have_count(2)
    rows(page).get_by_role("link", name=f"Order {order_id}").first.click()
    expect(page).to_have_url(f"{server.url}/console/orders/{order_id}")


def test_without_an_endpoint_the_page_of_an_order_says_nothing_of_webhooks(open_page, server, add_endpoint):
    add_endpoint(userId="merchant-4")
    page = open_page("about:blank")
    with page.expect_response("**/webhooks/endpoints?userId=merchant-5"):
        open_order(page, server.url, server.place(userId="merchant-5"))
    # Once it asks again, it has shown what it found before.
    with page.expect_response("**/webhooks/endpoints?userId=merchant-5"):
        pass
    expect(page.locator("#webhooks")).to_be_hidden()


@pytest.mark.parametrize(
    "path", ["webhooks/we_none", "webhooks/%3Cb%3E", "deliveries/none.we_none", "deliveries/%3Cb%3E"]
)
def test_what_is_not_there_is_said(open_page, server, path):
    page = open_page(f"{server.url}/console/{path}")
    expect(page.get_by_role("alert")).to_contain_text("cannot be shown")


@pytest.fixture
def fort(chromium, mongodb_uri, console_database, mongo, tmp_path):
    """A server that knows its callers."""
    name = f"{console_database}_fort"
    unsafe = {"ALLOW_UNSAFE": "webhook_http", "WEB_CONCURRENCY": "1"}
    with running(mongodb_uri, name, tmp_path, **IDENTITY, **unsafe) as started:
        yield started
    mongo.drop_database(name)


def test_the_endpoints_of_others_are_absent(open_page, fort, receiver):
    def post(user, path, body=None):
        headers = {"Authorization": f"Bearer {token(user, MANAGE)}"}
        return http.post(f"{fort.url}{path}", json=body, headers=headers).raise_for_status().json()

    bobs = post("bob", "/webhooks/endpoints", {"url": receiver.url, "description": "of bob"})["endpoint"]["id"]
    delivery = post("bob", f"/webhooks/endpoints/{bobs}/test")["delivery"]["id"]
    page = open_page(f"{fort.url}/console/webhooks")
    sign_in(page, token("ada", MANAGE))
    expect(page.get_by_text("No endpoint yet.")).to_be_visible()
    page.get_by_role("button", name="Add an endpoint").click()
    expect(dialog(page).get_by_label("User (optional)")).to_have_count(0)
    dialog(page).get_by_label("Address").fill(receiver.url)
    dialog(page).get_by_text("curl", exact=True).click()
    expect(dialog(page).locator(".command")).to_contain_text("Bearer $TOKEN")
    send(page)
    page.get_by_role("button", name="I have copied it").click()
    expect(page.locator("#endpoints tbody tr")).to_have_count(1)
    expect(page.locator("#endpoints tbody tr")).to_contain_text("ada")
    page.goto(f"{fort.url}/console/webhooks/{bobs}")
    expect(page.get_by_role("alert")).to_contain_text("No such endpoint")
    page.goto(f"{fort.url}/console/deliveries/{delivery}")
    expect(page.get_by_role("alert")).to_contain_text("No such delivery")
    assert "of bob" not in page.content()


def test_without_the_scope_there_is_no_link_and_the_page_says_why(open_page, fort):
    page = open_page(fort.url)
    sign_in(page, token("ada", "orders:read"))
    expect(page.locator("#user")).to_have_text("ada")
    expect(page.locator("#to-webhooks")).to_be_hidden()
    page.goto(f"{fort.url}/console/webhooks")
    expect(page.get_by_role("alert")).to_have_text("Webhooks need the scope webhooks:manage.")
    expect(page.get_by_role("button", name="Add an endpoint")).to_be_hidden()
