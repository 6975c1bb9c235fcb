"""Pictures of the console for the documentation: `make screenshots` writes docs/images/console*.png."""

import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from app.storage.embedded_mongod import Mongod
from tests.console.server import ROOT, Server, browser, installed, running

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 400_000
# By name of the picture: width, height, colours.
PICTURES = {
    "console": (1440, 1640, "light"),
    "console-dark": (1440, 1640, "dark"),
    "console-phone": (390, 1700, "light"),
}
PEOPLE = ("ada", "grace", "linus", "barbara", "ken", "radia")
GOODS = (("Espresso machine", "RM 2,499"), ("Grinder", "RM 349"), ("Kettle", "RM 129.90"), ("Filters", "RM 19"))


def busy(server: Server, stop: threading.Event) -> None:
    """Places orders of several customers until the pictures are taken."""
    at = 0
    while not stop.wait(0.05):
        name, amount = GOODS[at % len(GOODS)]
        product_id = "2" if at % 6 == 5 else "1"
        server.place(userId=PEOPLE[at % 5], productId=product_id, productName=name, totalOrderAmount=amount)
        at += 1


def act(page: Page) -> None:
    """What a visitor does: an order that has trouble, is captured in the end, and given back in part."""
    page.locator('#connection[data-state="live"]').wait_for()
    page.get_by_label("User").first.fill("radia")
    page.get_by_role("radio", name="Flaky").check()
    page.get_by_role("button", name="Place order").click()
    page.get_by_role("button", name="Confirm", exact=True).wait_for(timeout=60_000)
    page.get_by_role("button", name="Confirm", exact=True).click()
    page.locator(".timeline li").nth(2).wait_for()
    page.get_by_role("radio", name="Slow").check()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    time.sleep(2.5)


def take(chromium: Browser, server: Server, name: str) -> None:
    """One picture."""
    width, height, scheme = PICTURES[name]
    page = chromium.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(server.url)
    act(page)
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
        running(mongod.uri, "orderflow", Path(folder)) as server,
    ):
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
