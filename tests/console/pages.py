"""What a visitor does in the console, and what is then to be seen."""

import time

import jwt
from playwright.sync_api import Locator, Page, expect

KEY = "k" * 40
IDENTITY = {
    "AUTH_JWT_ALGORITHM": "HS256",
    "AUTH_JWT_KEY": KEY,
    "AUTH_JWT_ISSUER": "i",
    "AUTH_JWT_AUDIENCE": "a",
}


def place(page: Page, kind: str = "Captured", **choices: str) -> str:
    """Place an order on the page of all orders, with these choices of how it is paid; its id."""
    link = page.locator("#message a")
    before = link.get_attribute("href") if link.count() else ""
    page.get_by_role("button", name="Place an order").click()
    page.get_by_role("radio", name=kind, exact=True).check()
    if choices:
        if not page.get_by_label("Payment method").is_visible():
            page.get_by_text("How it is paid").click()
        page.get_by_label("Payment method").fill(choices.get("method", ""))
        page.locator('select[name="capture"]').select_option(choices.get("capture", ""))
    page.get_by_role("button", name="Place order", exact=True).click()
    expect(link).not_to_have_attribute("href", before)
    return (link.get_attribute("href") or "").rpartition("/")[2]


def row(page: Page, order_id: str) -> Locator:
    """The row of an order in the table."""
    return page.locator(f'tr[data-id="{order_id}"]')


def open_order(page: Page, url: str, order_id: str) -> Page:
    """The page of an order, once its timeline is there."""
    page.goto(f"{url}/console/orders/{order_id}")
    expect(page.locator(".timeline li").first).to_be_visible()
    return page


def statuses(page: Page, order: str, payment: str) -> None:
    """Expect these statuses on the page of an order."""
    expect(page.locator("#chips .chip").nth(0)).to_have_text(f"Order: {order}")
    expect(page.locator("#chips .chip").nth(1)).to_have_text(f"Payment: {payment}")


def dialog(page: Page) -> Locator:
    """The open question."""
    return page.locator("dialog.ask")


def send(page: Page) -> None:
    """Press the button of the open question that does it."""
    dialog(page).locator("button[type=submit]").click()


def sign_in(page: Page, text: str) -> None:
    """Give the page a token."""
    page.get_by_label("Token", exact=True).fill(text)
    page.get_by_role("button", name="Use token").click()


def token(user: str, scope: str) -> str:
    """A token of a user for a server with IDENTITY."""
    now = int(time.time())
    claims = {"iss": "i", "aud": "a", "sub": user, "iat": now, "exp": now + 600, "scope": scope}
    return jwt.encode(claims, KEY, algorithm="HS256")


def fits(page: Page, *widths: int) -> None:
    """Nothing scrolls sideways at these widths."""
    for width in widths:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, f"{page.url} at {width}"
