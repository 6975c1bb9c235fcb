"""The page of the simulated provider in a browser: its policy lets the form through, and the decision reaches the payment."""

import time

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from app.payments.providers.entries import PAGE

pytestmark = pytest.mark.extended


def page_of(mongo, database: str, order_id: str) -> str:
    """The path of the page for an order, as soon as its payment was charged."""
    ends = time.monotonic() + 30
    while not (entry := mongo[database].ledger.find_one({"orderId": order_id})):
        assert time.monotonic() < ends, "not charged"
        time.sleep(0.05)
    return f"{PAGE}{entry['token']}"


@pytest.mark.parametrize(
    ("button", "says", "status"),
    [("Approve", "The payment is made.", "Success"), ("Refuse", "The payment is declined.", "Declined")],
)
def test_a_customer_decides_in_a_browser(open_page, server, mongo, console_database, button, says, status):
    order_id = server.place(productId="action-required")
    page = open_page(f"{server.url}{page_of(mongo, console_database, order_id)}")
    expect(page.get_by_role("status")).to_have_text("The payment waits for you.")
    assert Axe().run(page).response["violations"] == []
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("status")).to_have_text(says)
    expect(page.get_by_role("button")).to_have_count(0)
    assert server.get(f"/orders/status/{order_id}?wait=20")["orderStatus"] == status
