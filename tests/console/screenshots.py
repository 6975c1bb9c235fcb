"""Pictures of the console for the documentation: `make screenshots` writes docs/images/console*.png."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from app.storage.embedded_mongod import Mongod
from tests.console.server import ROOT, Server, browser, installed, running
from tests.webhooks import receiver as webhooks
from tests.webhooks.receiver import OK, Answer, Received, Receiver

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 400_000
PEOPLE = ("ada", "grace", "linus", "barbara", "ken", "radia")
GOODS = (("Espresso machine", "RM 2,499"), ("Grinder", "RM 349"), ("Kettle", "RM 129.90"), ("Filters", "RM 19"))
ITEMS = [
    {"productId": "1", "productName": "Espresso machine", "quantity": 1, "unitAmount": "RM 2,349"},
    {"productId": "7", "productName": "Beans, 1 kg", "quantity": 2, "unitAmount": "RM 75"},
]
Act = Callable[[Page, Server], None]


def busy(server: Server, stop: threading.Event) -> None:
    """Places orders of several customers until the pictures are taken."""
    at = 0
    while not stop.wait(0.05):
        name, amount = GOODS[at % len(GOODS)]
        product_id = "2" if at % 6 == 5 else "1"
        server.place(userId=PEOPLE[at % 5], productId=product_id, productName=name, totalOrderAmount=amount)
        at += 1


def all_orders(page: Page, server: Server) -> None:
    """The table, with the picture unfolded."""
    page.goto(server.url)
    page.locator('#connection[data-state="live"]').wait_for()
    page.locator("#flow > summary").click()
    page.locator("#flow-note", has_text="requests a second").wait_for()
    page.locator("#scene[data-orders]").wait_for()
    time.sleep(2.5)


def one_order(page: Page, server: Server) -> None:
    """An order that was refunded in part and confirmed."""
    order_id = server.place(
        userId="radia",
        productId=None,
        productName=None,
        totalOrderAmount=None,
        items=ITEMS,
        metadata={"cart": "A-1207"},
    )
    page.goto(f"{server.url}/console/orders/{order_id}")
    page.get_by_role("button", name="Refund…").click()
    page.get_by_label("Amount in MYR").fill("150")
    page.get_by_label("Reason").fill("The lid was scratched; the customer keeps the machine")
    page.locator("dialog.ask button[type=submit]").click()
    page.locator(".timeline li").nth(3).wait_for()
    page.get_by_role("button", name="Confirm", exact=True).click()
    page.locator(".timeline li").nth(4).wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def refund(page: Page, server: Server) -> None:
    """The question before a refund."""
    one_order(page, server)
    page.get_by_role("button", name="Refund…").click()
    page.get_by_label("Amount in MYR").fill("49.90")


def desk(page: Page, server: Server) -> None:
    """Payments that wait for an operator."""
    for name in PEOPLE[:2]:
        server.place(userId=name, productId="timeout-after-charge", totalOrderAmount="RM 349")
    page.goto(f"{server.url}/console/desk")
    page.locator(".case").nth(1).wait_for()


def endpoints(page: Page, server: Server) -> None:
    """Endpoints that take what they are told, and one that is disabled."""
    page.goto(f"{server.url}/console/webhooks")
    page.locator("#endpoints tbody tr").nth(2).wait_for()


def deliveries(page: Page, server: Server) -> None:
    """An endpoint and what was sent to it: some of it has failed."""
    endpoints(page, server)
    page.locator("#endpoints a").first.click()
    page.locator("#deliveries .chip.bad, #deliveries .chip.busy").first.wait_for()


# By name of the picture: width, height, colours, and what is done before it is taken.
PICTURES: dict[str, tuple[int, int, Literal["light", "dark"], Act]] = {
    "console": (1440, 1000, "light", all_orders),
    "console-dark": (1440, 1000, "dark", all_orders),
    "console-order": (1440, 1300, "light", one_order),
    "console-refund": (1440, 900, "dark", refund),
    "console-desk": (1440, 800, "light", desk),
    "console-webhooks": (1440, 800, "light", endpoints),
    "console-deliveries": (1440, 1000, "dark", deliveries),
    "console-phone": (390, 1400, "light", one_order),
}


def flaky(_request: Received, count: int) -> Answer:
    """Takes most of what it is told."""
    return (503, {}, b"The warehouse is closed for stocktaking") if count % 5 == 3 else OK


def add_endpoints(server: Server, receiver: Receiver) -> None:
    """Endpoints of a shop, of which one is disabled."""
    for path, members in {
        "warehouse": {"description": "Warehouse", "events": ["order.succeeded", "order.cancelled"], "userId": "ada"},
        "mail": {"description": "Mail to customers", "events": ["order.*"], "userId": "ada"},
        "ledger": {"description": "Bookkeeping, until the end of the year", "signature": "v1a"},
    }.items():
        body = {"url": f"{receiver.url}/{path}", **members}
        answer = httpx.post(f"{server.url}/webhooks/endpoints", json=body).raise_for_status()
    last = f"{server.url}/webhooks/endpoints/{answer.json()['endpoint']['id']}"
    httpx.patch(last, json={"enabled": False}).raise_for_status()


def take(chromium: Browser, server: Server, name: str) -> None:
    """One picture."""
    width, height, scheme, act = PICTURES[name]
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    act(page, server)
    target = IMAGES / f"{name}.png"
    page.screenshot(path=target)
    page.close()
    size = target.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{target} has {size} bytes: at most {MAX_BYTES} may be committed")
    print(f"{target.relative_to(ROOT)}  {size // 1000} kB")


def main() -> None:
    """All pictures, of a server and a database that are gone afterwards."""
    if not installed():
        sys.exit("no browser is installed: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        Mongod(Path(folder) / "data") as mongod,
        sync_playwright() as playwright,
        running(mongod.uri, "orderflow", Path(folder), PAYMENT_TRIES="1", ALLOW_UNSAFE="webhook_http") as server,
        webhooks.running(Receiver(flaky)) as receiver,
    ):
        add_endpoints(server, receiver)
        customers = threading.Thread(target=busy, args=(server, stop))
        customers.start()
        chromium = browser(playwright)
        try:
            for name in PICTURES:
                take(chromium, server, name)
        finally:
            stop.set()
            customers.join()
            chromium.close()


if __name__ == "__main__":
    main()
