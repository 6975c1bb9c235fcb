"""What a hostile page or a hostile name can do in a real browser: nothing to orders, nothing to the console."""

import pytest
from playwright.sync_api import Page, expect

from tests.console.pages import dialog, open_order, row
from tests.console.server import ARGUMENTS, LAUNCH_MS, http, installed

pytestmark = pytest.mark.extended

# A name of the attacker's that leads to this machine by now.
REBOUND = "rebound.example"
# Newer browsers guard this machine's addresses themselves; others do not, and it is the server that is tried here.
UNGUARDED = "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"
# What a page does that has such a name: read all orders, refund each, move each, place one.
ATTACK = """
async () => {
  const statuses = [];
  const send = async (method, path, body) => {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(path, { method, headers: body ? headers : {}, body: body && JSON.stringify(body) });
    statuses.push(answer.status);
    return answer.json();
  };
  const { orders } = await send("GET", "/orders");
  for (const { id } of orders || [{ id: "%(order)s" }]) {
    await send("POST", `/orders/one/${id}/refunds`, {});
    await send("PUT", "/orders", { orderId: id, orderStatus: "Cancelled" });
  }
  await send("POST", "/orders", { userId: "eve", productId: "1", productName: "x", totalOrderAmount: "RM 1" });
  return statuses;
}
"""
# What any page can send without asking: no answer is read, the request is all that counts.
BLINDLY = """
async () => {
  const send = (path, body, kind) =>
    fetch("%(url)s" + path, { method: "POST", mode: "no-cors", headers: { "Content-Type": kind }, body }).catch(() => 0);
  for (const kind of ["text/plain", "application/x-www-form-urlencoded", "text/plain;application/json"]) {
    await send("/orders/one/%(order)s/refunds", "{}", kind);
    await send("/orders", JSON.stringify({ userId: "mallory", productId: "1", productName: "x", totalOrderAmount: "RM 1" }), kind);
  }
  navigator.sendBeacon("%(url)s/orders/one/%(order)s/refunds", new Blob(["{}"], { type: "text/plain" }));
}
"""
PAYLOADS = [
    "<script>window.xss=1</script>",
    "<img src=x onerror=window.xss=1>",
    "<svg onload=window.xss=1>",
    "\"><img src=x onerror='window.xss=1'>",
    "' autofocus onfocus=window.xss=1 x='",
    "<iframe srcdoc='<script>parent.xss=1</script>'>",
    "<a href='javascript:window.xss=1' id=xss>x</a>",
    "javascript:window.xss=1",
    "</title></textarea></style><script>xss=1</script>",
    "<math><mi xlink:href='javascript:xss=1'>",
    "{{constructor.constructor('window.xss=1')()}}",
    "${window.xss=1}`-alert(1)-`",
]


@pytest.fixture
def hostile(chromium, server):
    """Open a page of the attacker's under this name, in a browser in which REBOUND leads to the server."""
    rules = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    arguments = [*ARGUMENTS, UNGUARDED, rules]
    opened = chromium.browser_type.launch(executable_path=installed(), args=arguments, timeout=LAUNCH_MS)

    def open_page(origin: str) -> Page:
        page = opened.new_page()
        page.route(f"{origin}/attack", lambda route: route.fulfill(body="<h1>Win</h1>", content_type="text/html"))
        page.goto(f"{origin}/attack")
        return page

    yield open_page
    opened.close()


@pytest.fixture
def paid(server, eventually):
    """A captured order."""
    order_id = server.place()
    eventually(lambda: server.get(f"/orders/one/{order_id}")["order"]["paymentStatus"] == "Captured")
    return order_id


def steps(server, order_id):
    return [event["type"] for event in server.get(f"/orders/one/{order_id}/events")["events"]]


def test_a_page_whose_name_was_made_to_lead_here_reads_and_changes_nothing(
    hostile, server, paid, mongo, console_database
):
    page = hostile(f"http://{REBOUND}:{server.port}")
    statuses = page.evaluate(ATTACK % {"order": paid})
    assert statuses == [421] * 4
    assert steps(server, paid) == ["OrderCreated", "PaymentCaptured"]
    assert mongo[console_database].orders.count_documents({"userId": "eve"}) == 0


def test_a_page_of_another_site_changes_nothing_blindly(hostile, server, paid, mongo, console_database):
    page = hostile("http://evil.example")
    page.evaluate(BLINDLY % {"url": server.url, "order": paid})
    page.close()
    assert steps(server, paid) == ["OrderCreated", "PaymentCaptured"]
    assert mongo[console_database].orders.count_documents({"userId": "mallory"}) == 0


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_client_calls_things_is_text_in_the_console_and_nothing_else(open_page, server, eventually, payload):
    """The page must show it as it was written; that no policy had to forbid anything is looked at afterwards."""
    order_id = server.place(productName=payload, userId=payload)
    eventually(lambda: server.get(f"/orders/status/{order_id}")["orderStatus"] == "Success")
    moved = http.put(f"{server.url}/orders", json={"orderId": order_id, "orderStatus": payload})
    assert moved.status_code == 200, moved.text
    page = open_order(open_page("about:blank"), server.url, order_id)
    expect(page.locator("#order-title")).to_contain_text(payload)
    expect(page.locator("#order-for")).to_contain_text(f"for {payload}")
    expect(page.locator("#chips .chip").nth(0)).to_contain_text(payload)
    check_harmless(page)
    page.get_by_role("button", name="Cancel order…").click()
    expect(dialog(page)).to_contain_text(payload)
    check_harmless(page)
    page.goto(server.url)
    expect(row(page, order_id).locator(".product")).to_have_text(payload)
    page.get_by_label("Status", exact=True).fill(payload)
    page.get_by_role("button", name="Apply").click()
    expect(row(page, order_id)).to_be_visible()
    check_harmless(page)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_an_endpoint_is_called_and_what_it_answers_is_text(open_page, server, receiver, add_endpoint, payload):
    receiver.answer = lambda *_: (500, {}, payload.encode())
    url = f"{receiver.url}?{payload.replace(' ', '/')}"
    endpoint_id = add_endpoint(url=url, description=payload)
    page = open_page(f"{server.url}/console/webhooks")
    shown = page.locator("#endpoints tr", has=page.locator(f'a[href="/console/webhooks/{endpoint_id}"]'))
    expect(shown.locator("a")).to_have_text(url)
    expect(shown.locator(".description")).to_have_text(payload)
    check_harmless(page)
    shown.locator("a").click()
    expect(page.locator("#endpoint-title")).to_have_text(url)
    page.get_by_role("button", name="Delete…").click()
    expect(dialog(page)).to_contain_text(url)
    check_harmless(page)
    dialog(page).get_by_role("button", name="Back").click()
    page.get_by_role("button", name="Send a test event…").click()
    dialog(page).get_by_role("button", name="Send").click()
    page.get_by_role("link", name="its delivery").click()
    page.get_by_text("What attempt 1 was answered").click()
    expect(page.locator(".answer .command")).to_have_text(payload)
    check_harmless(page)


def test_a_description_that_reverses_what_follows_it_reverses_itself_only(open_page, server, add_endpoint):
    """Its direction ends with it: the state beside it reads as ever."""
    endpoint_id = add_endpoint(description="\u05e9\u05dc\u05d5\u05dd elbasid")
    page = open_page(f"{server.url}/console/webhooks/{endpoint_id}")
    described = page.locator("#about dt", has_text="Description").locator("xpath=following-sibling::dd[1]/bdi")
    expect(described).to_be_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('#about bdi')).unicodeBidi") == "isolate"
    expect(page.locator("#about .chip")).to_have_text("State: Enabled")


def check_harmless(page):
    assert page.evaluate("window.xss") is None
    assert page.locator("#xss, iframe, [onerror], [onload], [onfocus], a[href^=javascript]").count() == 0
