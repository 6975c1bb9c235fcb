"""No page of the console keeps anybody out: axe finds nothing, in light and in dark, with every dialog open."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.console.pages import dialog, fits, open_order, send, statuses
from tests.console.server import http

pytestmark = [pytest.mark.extended, pytest.mark.long]


@pytest.fixture
def calm(open_page) -> Page:
    """A page without animations, so that no colour changes during the check."""
    return open_page("about:blank", reduced_motion="reduce")


WIDTHS = (360, 390, 768, 1280, 1400)
LONG_PATH = "/" + "long" * 500
LONG_WORD = "M" * 128
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 1000}


def check_everywhere(page: Page) -> None:
    """Expect no finding in either colour scheme, also on a phone, and nothing that scrolls sideways."""
    check(page)
    page.set_viewport_size(PHONE)
    check(page)
    fits(page, *WIDTHS)
    page.set_viewport_size(DESK)


def check(page: Page) -> None:
    """Expect no finding in either colour scheme."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("html")).to_have_attribute("data-theme", scheme)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_the_page_of_all_orders(calm, server):
    server.place()
    calm.goto(server.url)
    expect(calm.locator("#orders tbody tr").first).to_be_visible()
    calm.locator("#flow > summary").click()
    calm.get_by_text("Each stage in figures").first.click()
    check(calm)
    calm.get_by_role("button", name="Place an order").click()
    calm.get_by_text("How it is paid").click()
    calm.get_by_label("Amount", exact=True).fill("nothing")
    calm.get_by_role("button", name="Place order", exact=True).click()
    expect(calm.locator(".field-error")).to_be_visible()
    check(calm)


def test_the_page_of_one_order(calm, server):
    open_order(calm, server.url, server.place())
    statuses(calm, "Success", "Captured")
    for button in calm.get_by_role("button", name="curl of the").all():
        button.click()
    check(calm)
    for name in ("Refund…", "Cancel order…", "Set status…"):
        calm.get_by_role("button", name=name).click()
        if name != "Cancel order…":
            calm.locator("dialog.ask button[type=submit]").click()
        check(calm)
        calm.get_by_role("button", name="Back").click()


def test_what_is_not_there(calm, server):
    calm.goto(f"{server.url}/console/orders/692000000000000000000000")
    expect(calm.get_by_role("alert")).to_be_visible()
    check(calm)
    calm.goto(f"{server.url}/?userId=nobody-of-this-name")
    expect(calm.get_by_text("No order matches.")).to_be_visible()
    check(calm)


@pytest.fixture
def endpoints(receiver, add_endpoint, server):
    """One that fails and has long names, and one that is disabled and has short ones; their ids."""
    receiver.answer = lambda *_: (500, {}, LONG_WORD.encode() * 8)
    patterns = ["order.created", "order.succeeded", "order.refund_failed", "order.action_required", "endpoint.*"]
    failing = add_endpoint(
        url=receiver.url.replace("/hooks", LONG_PATH), description=LONG_WORD, userId=LONG_WORD, events=patterns
    )
    disabled = add_endpoint(description="\u05e9\u05dc\u05d5\u05dd")
    http.patch(f"{server.url}/webhooks/endpoints/{disabled}", json={"enabled": False}).raise_for_status()
    return failing, disabled


def test_the_page_of_all_endpoints(calm, server, endpoints):
    calm.goto(f"{server.url}/console/webhooks")
    expect(calm.locator("#endpoints tbody tr")).to_have_count(len(endpoints))
    for summary in calm.locator("#types summary").all()[:2]:
        summary.click()
    for button in calm.get_by_role("button", name="curl of the").all():
        button.click()
    check_everywhere(calm)
    calm.get_by_role("button", name="Add an endpoint").click()
    dialog(calm).get_by_role("checkbox", name="* all of them").uncheck()
    send(calm)
    dialog(calm).get_by_text("curl", exact=True).click()
    check_everywhere(calm)


def test_the_page_of_one_endpoint_and_of_a_delivery(calm, server, endpoints):
    failing, disabled = endpoints
    calm.goto(f"{server.url}/console/webhooks/{disabled}")
    expect(calm.get_by_text("Nothing was sent yet.")).to_be_visible()
    check_everywhere(calm)
    calm.goto(f"{server.url}/console/webhooks/{failing}")
    calm.get_by_role("button", name="Send a test event…").click()
    send(calm)
    expect(calm.locator("#deliveries tbody")).to_contain_text("answered 500")
    calm.get_by_role("button", name="curl of the deliveries").click()
    check_everywhere(calm)
    for name in ("Change…", "Disable…", "Rotate the secret…", "Replay…", "Delete…"):
        calm.get_by_role("button", name=name).click()
        dialog(calm).get_by_text("curl", exact=True).click()
        check_everywhere(calm)
        calm.get_by_role("button", name="Back").click()
    calm.get_by_role("button", name="Rotate the secret…").click()
    send(calm)
    expect(calm.locator("dialog.tell")).to_be_visible()
    check_everywhere(calm)
    calm.get_by_role("button", name="I have copied it").click()
    calm.locator("#deliveries tbody a").first.click()
    calm.get_by_text("What attempt 1 was answered").click()
    check_everywhere(calm)
    calm.goto(f"{server.url}/console/webhooks/{failing}?status=lost")
    expect(calm.locator(".field-error")).to_be_visible()
    check_everywhere(calm)


def test_the_deliveries_about_an_order(calm, server, endpoints, mongo, console_database):
    failing, _ = endpoints
    http.post(f"{server.url}/webhooks/endpoints/{failing}/test").raise_for_status()
    order_id = server.place(userId=LONG_WORD)
    mongo[console_database].webhook_deliveries.update_many({"endpointId": failing}, {"$set": {"orderId": order_id}})
    open_order(calm, server.url, order_id)
    expect(calm.locator("#webhook-groups")).to_contain_text("endpoint.test")
    check_everywhere(calm)


@pytest.mark.parametrize("path", ["webhooks/we_none", "deliveries/none.we_none"])
def test_an_endpoint_or_a_delivery_that_is_not_there(calm, server, path):
    calm.goto(f"{server.url}/console/{path}")
    expect(calm.get_by_role("alert")).to_be_visible()
    check_everywhere(calm)
