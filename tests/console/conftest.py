"""The console in a real browser: one server and one browser for all of its tests in a worker."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.console.server import Server, browser, http, installed, running
from tests.webhooks import receiver as webhooks
from tests.webhooks.receiver import Receiver

# Other tests take the processors as well.
PATIENCE_MS = 30_000
# Whatever a policy forbids is noted before anything of the page runs.
WATCH = """
window.forbidden = [];
document.addEventListener("securitypolicyviolation", (event) => window.forbidden.push(`${event.violatedDirective} ${event.blockedURI}`));
window.longTasks = [];
new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((task) => task.duration))).observe({ type: "longtask" });
// What the picture and its line have shown, however briefly: a test may look too late.
window.mostOrders = 0;
window.notes = [];
addEventListener("DOMContentLoaded", () => {
  const [scene, note] = ["scene", "flow-note"].map((id) => document.getElementById(id));
  if (!scene || !note) return;
  const count = () => { window.mostOrders = Math.max(window.mostOrders, scene.dataset.orders || 0); };
  new MutationObserver(count).observe(scene, { attributes: true, attributeFilter: ["data-orders"] });
  new MutationObserver(() => window.notes.push(note.textContent)).observe(note, { childList: true, characterData: true, subtree: true });
});
"""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not installed():
        if os.environ.get("CI"):
            pytest.fail("the console has to be tried in a browser: apt-get install chromium")
        pytest.skip("no browser is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = browser(playwright)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def console_database(mongo) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    yield name
    mongo.drop_database(name)


@pytest.fixture(scope="session")
def server(chromium, mongodb_uri, console_database, tmp_path_factory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("console")
    with running(mongodb_uri, console_database, folder, PAYMENT_BACKOFF="2", ALLOW_UNSAFE="webhook_http") as started:
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks that takes everything, until the test has it answer otherwise."""
    with webhooks.running(Receiver()) as started:
        yield started


@pytest.fixture
def add_endpoint(server, receiver) -> Iterator[Callable[..., str]]:
    """Add an endpoint past the page, by default the receiver; its id."""
    made = []

    def add(**members) -> str:
        answer = http.post(f"{server.url}/webhooks/endpoints", json={"url": receiver.url, **members})
        made.append(str(answer.raise_for_status().json()["endpoint"]["id"]))
        return made[-1]

    yield add
    for endpoint_id in made:
        http.delete(f"{server.url}/webhooks/endpoints/{endpoint_id}")


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., Page]]:
    """Open an address in a context of its own; in the end nothing was forbidden and no script has failed."""
    contexts, errors = [], []

    def opened(url: str, **options) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1440, "height": 1000}, **options})
        contexts.append(context)
        context.add_init_script(WATCH)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    expect.set_options(timeout=PATIENCE_MS)
    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.forbidden") == []
        context.close()
    assert errors == []


@pytest.fixture
def page(open_page, server) -> Page:
    """The console, connected."""
    found = open_page(server.url)
    expect(found.locator("#connection")).to_have_attribute("data-state", "live")
    return found
