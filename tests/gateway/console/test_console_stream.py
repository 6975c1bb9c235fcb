"""The console's files and its stream, over HTTP without a browser; and the latency of an order."""

import importlib
import re
import threading
from dataclasses import replace
from importlib import resources

import orjson
import pytest

from app.main import create_app, runtime

# The package has a function of that name.
streaming = importlib.import_module("app.gateway.console.stream")
FILES = ("icon.svg", "console.css", "theme.js", "orders_page.js", "api.js", "flow.js")
WEBHOOK_PAGES = ("/console/webhooks", "/console/webhooks/we_1", "/console/deliveries/e.we_1")
PAGES = ("/", "/console/orders/692000000000000000000000", "/console/desk", *WEBHOOK_PAGES)


@pytest.mark.parametrize("address", [*PAGES, *(f"/console/{name}" for name in FILES)])
def test_a_file_is_revalidated_and_sent_once(http, address):
    answer = http.get(address)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-cache")
    again = http.get(address, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("address", [*PAGES, "/console/api.js"])
def test_the_policy_allows_its_own_files_only(http, address):
    policy = dict(part.split(" ", 1) for part in http.get(address).headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        **dict.fromkeys(("script-src", "style-src", "connect-src", "img-src"), "'self'"),
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
    }


@pytest.mark.parametrize("address", PAGES)
def test_a_page_names_no_address_outside_and_holds_no_script_or_style(http, address):
    page = http.get(address).text
    assert not re.search(r"https?://|style=|<style|onclick|<script>", page)
    for address in re.findall(r'(?:src|href)="(/[^"]*)"', page):
        assert http.get(address).status_code == 200


def test_every_module_that_is_imported_is_there(http):
    names, seen = [name for page in PAGES for name in re.findall(r"/console/(\w+_page.js)", http.get(page).text)], set()
    while names:
        name = names.pop()
        seen.add(name)
        answer = http.get(f"/console/{name}")
        assert (answer.status_code, answer.mimetype) == (200, "text/javascript")
        names += set(re.findall(r'from "\./([\w.]+)"', answer.text)) - seen
    files = {file.name for file in resources.files("app.gateway.console").joinpath("static").iterdir()}
    assert seen == {name for name in files if name.endswith(".js")} - {"theme.js"}


@pytest.mark.parametrize("name", ["nothing.js", "..", "../__init__.py", "%2e%2e/stream.py", "orders.html", "api.js/x"])
def test_there_are_no_other_files(http, name):
    assert http.get(f"/console/{name}").status_code == 404


def test_a_server_without_webhooks_has_no_page_of_them_and_no_link_to_one(settings):
    client = create_app(replace(settings, webhooks=False)).test_client()
    for address in WEBHOOK_PAGES:
        assert client.get(address).status_code == 404
    for address in set(PAGES) - set(WEBHOOK_PAGES):
        page = client.get(address)
        assert (page.status_code, "webhook" in page.text.lower()) == (200, False)


def test_the_queues_are_available_as_json(http):
    queues = http.get("/console/stream").json["queues"]
    assert queues.keys() == {"orders", "payments"}
    assert queues["orders"].keys() == {"open", "due", "retrying", "parked", "dead"}


@pytest.fixture
def watched(settings, monkeypatch):
    """A running application, and the events of its stream by name."""
    # On a busy machine a stream may begin, and the stages of an order may lie, many seconds after the first of them.
    monkeypatch.setattr(streaming, "RECENT_SECONDS", streaming.MAX_REPLAY_SECONDS)
    # On a busy machine a short lease ends, and a sweep delivers an event again: its stages would be told twice.
    app = create_app(replace(settings, simulated_unknown_product="capture", relay_lease=30.0))
    runtime(app).prepare()
    runtime(app).start()
    told = {"stages": [], "statistics": [], "queues": []}
    ids = []

    def read(headers=()):
        answer = app.test_client().get("/console/stream", headers=[("Accept", "text/event-stream"), *headers])
        assert answer.status_code == 200
        for chunk in answer.response:
            for event in chunk.decode().split("\n\n"):
                lines = dict(line.split(": ", 1) for line in event.split("\n") if ": " in line)
                if "id" in lines:
                    ids.append(lines["id"])
                if "event" in lines:
                    data = orjson.loads(lines["data"])
                    told[lines["event"]] += data if isinstance(data, list) else [data]

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    yield app, told, ids, read
    runtime(app).stop()
    reading.join(60.0)
    assert not reading.is_alive()


def test_the_stream_has_stages_statistics_and_queues_and_ends_with_the_process(watched, place, eventually):
    app, told, ids, _ = watched
    order_id = place(app.test_client())
    # The last to be told need not be "order updated".
    eventually(lambda: len([line for line in told["stages"] if line["order_id"] == order_id]) == 9)
    assert "order updated" in {line["stage"] for line in told["stages"]}
    assert "request_id" not in told["stages"][0]
    statistics = eventually(lambda: next((one for one in told["statistics"] if "order stored" in one["stages"]), None))
    assert statistics["stages"]["order stored"].keys() == {"count", "p50", "p99"}
    queues = eventually(lambda: told["queues"])
    assert queues[0].keys() == {"now", "orders", "payments"}
    assert all(one.isdecimal() for one in ids)


def test_a_resumed_stream_repeats_what_was_missed(watched, place, eventually):
    app, told, ids, read = watched
    order_id = place(app.test_client())
    eventually(lambda: len(told["stages"]) == 9)
    first = {line["id"] for line in told["stages"]}
    told["stages"].clear()
    again = threading.Thread(target=read, args=([("Last-Event-ID", ids[-1])],), daemon=True)
    again.start()
    eventually(lambda: {line["id"] for line in told["stages"] if line["order_id"] == order_id} == first)


@pytest.mark.parametrize("given", ["x", "-1", "1" * 16, "1.5", ""])
def test_an_invalid_event_id_is_rejected(http, refused, given):
    answer = http.get("/console/stream", headers={"Accept": "text/event-stream", "Last-Event-ID": given})
    refused(answer, 400, "invalid_parameter")


def test_the_replay_of_a_stream_is_bounded(monkeypatch):
    monkeypatch.setattr(streaming.time, "time", lambda: 1000.0)
    assert streaming._since(None) == 998.0
    assert streaming._since("999500") == 997.5
    assert streaming._since("0") == 970.0
    assert streaming._since("9999999999") == 998.0


def test_a_stream_takes_a_place(shared_settings, refused):
    app = create_app(replace(shared_settings, streams_max=0, streams_per_caller=0))
    answer = app.test_client().get("/console/stream", headers={"Accept": "text/event-stream"})
    refused(answer, 429, "too_many_streams")
    runtime(app).stop()


def test_the_way_of_an_order_has_its_stages_and_the_providers_answers(watched, place, eventually):
    app, _, _, _ = watched
    client = app.test_client()
    order_id = place(client)
    way = eventually(
        lambda: (told := client.get(f"/orders/one/{order_id}/latency").json) and len(told["stages"]) == 9 and told
    )
    assert [stage["stage"] for stage in way["stages"]][:3] == ["gateway received", "orders received", "order stored"]
    assert way["stages"][0].keys() == {"stage", "module", "at", "tookMs", "requestId"}
    assert len({stage["requestId"] for stage in way["stages"]}) == 1
    [attempt] = way["attempts"]
    assert (attempt["attempt"], attempt["call"], attempt["answer"]) == (1, "charge", "captured")
    assert attempt["tookMs"] >= 0


def test_an_order_that_payments_has_not_heard_of_has_a_way_without_attempts(http, place):
    assert http.get(f"/orders/one/{place(http)}/latency").json == {"ok": True, "attempts": [], "stages": []}
