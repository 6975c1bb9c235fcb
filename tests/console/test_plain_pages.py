"""Pages of a few sentences in a browser: problems, and addresses that have nothing."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.console.pages import fits
from tests.console.server import http

pytestmark = pytest.mark.extended

MISSING = ["/console/nothing", "/console/orders/one/two", "/console/nothing.js"]


@pytest.mark.parametrize("path", [MISSING[0], "/problems", "/problems/overloaded"])
def test_a_plain_page_has_its_style_and_keeps_nobody_out(open_page, server, path):
    page = open_page(server.url + path)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 28, 40)")):
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("main")).to_have_css("background-color", background)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    fits(page, 360, 1280)


def test_a_kind_of_problem_leads_to_all_of_them_and_back(open_page, server):
    page = open_page(f"{server.url}/problems/overloaded")
    page.get_by_role("link", name="All problems").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Problems")
    page.get_by_role("link", name="order_not_found", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("The order does not exist")
    page.get_by_role("link", name="The console").click()
    expect(page).to_have_title("Orders · Orderflow")


@pytest.mark.parametrize("path", MISSING)
def test_an_address_that_has_nothing_is_a_page_for_a_browser_and_a_problem_for_a_program(open_page, server, path):
    page = open_page(server.url + path)
    expect(page.get_by_role("heading", level=1)).to_have_text("No such page")
    page.get_by_role("link", name="All orders").click()
    expect(page).to_have_title("Orders · Orderflow")
    browser = http.get(server.url + path, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    program = http.get(server.url + path)
    assert (browser.status_code, program.status_code, program.json()["code"]) == (404, 404, "not_found")
    assert (browser.headers["Vary"], program.headers["Vary"]) == ("Accept", "Accept")
