"""The commands of webhooks: what they print and change, and the receiver on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from app.cli import webhook_listener
from app.cli.webhook_listener import is_signed
from app.contracts.webhooks import EVENT_TYPES
from app.main import create_app, runtime
from app.webhooks.signatures import Secret, signature_header
from tests.webhooks.receiver import Receiver, running
from tools.cluster.servers import Server

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
URL = "https://shop.example/webhooks"
# In UTC it is in the year 10000.
LAST = "9999-12-31T23:59:59-14:00"
ABSENT = "we_692000000000000000000000"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture
def run(app):
    """Run a command beside the server; returns its exit code and its output."""

    def command(*words, within=app, typed=None):
        result = within.test_cli_runner().invoke(args=("webhooks", *words), input=typed)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    return command


@pytest.fixture
def said(run):
    """Run a command with --json; returns what it prints."""

    def command(*words):
        code, output = run(*words, "--json")
        assert code == 0, output
        return json.loads(output)

    return command


@pytest.fixture
def deliveries(database):
    return database.webhook_deliveries


def keep(deliveries, endpoint_id, number, **members):
    """Store a delivery that has failed; returns its id."""
    at = datetime(2026, 11, 26, 9, number, tzinfo=UTC)
    delivery_id = f"event-{number}.{endpoint_id}"
    known = {"endpointId": endpoint_id, "eventId": f"event-{number}", "type": "order.updated", "body": '{"a":1}'}
    attempts = [{"at": at, "tookMs": 7, "status": 500, "response": "try later"}]
    stored = {**known, "status": "failed", "createdAt": at, "tries": 1, "orderId": "a" * 24, "attempts": attempts}
    deliveries.insert_one({"_id": delivery_id, **stored, **members})
    return delivery_id


# --- endpoints ---


def test_an_endpoint_is_added_shown_changed_and_removed(run, said):
    added = said("endpoints", "add", URL, "--user", "user-7", "--event", "order.*", "--description", "The warehouse")
    assert (added["url"], added["userId"], added["events"]) == (URL, "user-7", ["order.*"])
    assert added["secret"].startswith("whsec_")
    shown = {name: value for name, value in added.items() if name != "secret"}
    assert said("endpoints", "show", added["id"]) == shown
    assert said("endpoints", "list") == said("endpoints", "list", "--user", "user-7") == [shown]
    assert said("endpoints", "list", "--user", "user-8") == []
    changed = said("endpoints", "change", added["id"], "--event", "order.refunded", "--description", "")
    assert (changed["events"], changed["description"]) == (["order.refunded"], "")
    assert said("endpoints", "disable", added["id"])["enabled"] is False
    assert said("endpoints", "enable", added["id"])["enabled"] is True
    assert run("endpoints", "remove", added["id"], typed="n\n")[0] == 1
    assert run("endpoints", "remove", added["id"], "--yes") == (0, f"{added['id']} is deleted\n")
    assert said("endpoints", "list") == []


def test_all_endpoints_are_listed_however_many_there_are(said, database):
    at = datetime(2026, 11, 26, 9, tzinfo=UTC)
    secret = {"value": SECRET, "createdAt": at}
    known = {
        "url": URL,
        "description": "",
        "events": ["*"],
        "secrets": [secret],
        "version": 1,
        "createdAt": at,
        "changedAt": at,
    }
    database.webhook_endpoints.insert_many(
        {"_id": f"we_{number:04d}", "userId": f"user-{number % 2}", **known} for number in range(1001)
    )
    assert [one["id"] for one in said("endpoints", "list")] == [f"we_{number:04d}" for number in range(1001)]
    assert len(said("endpoints", "list", "--user", "user-1")) == 500


def test_people_see_tables(run, said):
    code, output = run("endpoints", "add", URL)
    assert (code, URL in output, "whsec_" in output) == (0, True, True)
    endpoint_id = re.search(r"we_[0-9a-f]{24}", output)[0]
    for words in (("endpoints", "list"), ("endpoints", "show", endpoint_id)):
        code, output = run(*words)
        assert (code, endpoint_id in output, URL in output, "whsec_" in output) == (0, True, True, False)
    assert "order.refund_failed" in run("event-types")[1]
    assert run("deliveries", "list", endpoint_id) == (0, "Deliveries: none\n")


def test_a_secret_is_replaced(said):
    added = said("endpoints", "add", URL)
    rotated = said("endpoints", "rotate-secret", added["id"], "--overlap-hours", "1")
    assert rotated["secret"] not in ("", added["secret"])
    assert rotated["formerSecretUntil"]
    assert said("endpoints", "add", URL, "--signature", "v1a")["publicKey"].startswith("whpk_")


def test_event_types_have_examples(said):
    told = said("event-types")
    assert {one["name"] for one in told} == set(EVENT_TYPES)
    assert all(json.loads(one["example"])["type"] == one["name"] for one in told)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("endpoints", "add", "http://shop.example/"), "Must begin with https://."),
        (("endpoints", "add", URL, "--event", "order.paid"), "order.paid is no event type"),
        (("endpoints", "show", ABSENT), "there is no such endpoint"),
        (("endpoints", "test", ABSENT), "there is no such endpoint"),
        (("deliveries", "list", ABSENT), "there is no such endpoint"),
        (("deliveries", "show", "x"), "there is no such delivery"),
        (("retry", "x"), "there is no such delivery"),
        (("replay", ABSENT, "--since", "2026-11-26T09:00:00Z", "--yes"), "there is no such endpoint"),
        (("replay", ABSENT, "--since", "2026-11-26T09:00:00Z", "--until", LAST, "--yes"), "there is no such endpoint"),
        (("endpoints", "add", URL, "--description", "4242 4242 4242 4242"), "the body contains a card number"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(run, words, sentence):
    code, output = run(*words)
    assert (code, sentence in output) == (1, True), output


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("endpoints", "change", ABSENT), "name at least one of --url, --event and --description"),
        (("endpoints", "add", URL, "--description", "a\u202eb"), "change the direction of writing"),
        (("endpoints", "add", URL, "--description", "x" * 201), "Length must be between 1 and 200"),
        (("endpoints", "rotate-secret", ABSENT, "--overlap-hours", "169"), "169 is not in the range"),
        (("deliveries", "list", ABSENT, "--status", "sent"), "'sent' is not one of"),
        (("deliveries", "list", ABSENT, "--since", "yesterday"), "must be a time with an offset"),
        (("replay", ABSENT, "--since", "2026-11-26"), "must be a time with an offset"),
        (
            ("replay", ABSENT, "--since", "2026-11-26T09:00:00Z", "--until", "2026-11-26T09:00:00Z"),
            "--until must be later than --since",
        ),
    ],
)
def test_wrong_usage_is_said_in_a_sentence(run, words, sentence):
    code, output = run(*words)
    assert (code, sentence in output) == (2, True), output


# --- deliveries ---


def test_deliveries_are_listed_with_filters_and_shown_with_attempts(run, said, deliveries):
    endpoint_id = said("endpoints", "add", URL)["id"]
    first, second = (keep(deliveries, endpoint_id, number) for number in (1, 2))
    keep(deliveries, endpoint_id, 3, status="held", orderId="b" * 24)

    def ids(*words):
        return [one["id"] for one in said("deliveries", "list", endpoint_id, *words)]

    assert ids("--status", "failed") == [second, first]
    assert ids("--order", "a" * 24, "--until", "2026-11-26T09:02:00Z") == [first]
    assert ids("--since", "2026-11-26T09:02:00Z", "--status", "failed") == [second]
    code, output = run("deliveries", "list", endpoint_id, "--limit", "1")
    assert (code, "there are more than 1" in output) == (0, True)
    shown = said("deliveries", "show", first)
    assert (shown["body"], shown["attempts"][0]["response"]) == ('{"a":1}', "try later")
    code, output = run("deliveries", "show", first)
    assert (code, '{"a":1}' in output, "500" in output, "try later" in output) == (0, True, True, True)


def test_deliveries_are_sent_again(run, said, deliveries):
    endpoint_id = said("endpoints", "add", URL)["id"]
    first, second, third = (keep(deliveries, endpoint_id, number) for number in (1, 2, 3))
    assert run("retry", first) == (0, f"{first} is pending\n")
    times = ("--since", "2026-11-26T09:02:00Z", "--until", "2026-11-26T09:03:00Z")
    assert run("replay", endpoint_id, *times, typed="n\n")[0] == 1
    assert deliveries.find_one({"_id": second})["status"] == "failed"
    assert said("replay", endpoint_id, *times, "--yes") == {"endpointId": endpoint_id, "count": 1}
    assert [deliveries.find_one({"_id": key})["status"] for key in (second, third)] == ["pending", "failed"]


def test_the_command_line_has_the_server_send_a_test(run, app, settings, deliveries, eventually):
    """The command itself sends nothing: it may run on a machine that must not call out."""
    with running(Receiver()) as receiver:
        server = create_app(replace(settings, allow_unsafe="webhook_http"))
        runtime(server).prepare()
        added = json.loads(run("endpoints", "add", receiver.url, "--json", within=server)[1])
        code, output = run("endpoints", "test", added["id"])
        assert (code, output.endswith(" is pending\n")) == (0, True)
        assert receiver.requests == []
        runtime(server).start()
        [request] = receiver.wait_for(1)
        runtime(server).stop()
    assert Webhook(added["secret"]).verify(request.body, request.headers)["type"] == "endpoint.test"


# --- listen ---


@pytest.fixture
def server(settings):
    """A running application that may send to this machine."""
    app = create_app(replace(settings, allow_unsafe="webhook_http"))
    runtime(app).prepare()
    runtime(app).start()
    yield app.test_client()
    runtime(app).stop()


class Listener:
    """The command in a process of its own."""

    def __init__(self, words, environ):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app", *words],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self):
        """Where it listens, once it is ready."""
        for line in self.process.stderr:
            if found := re.match(r"(http://127\.0\.0\.1:\d+/) is told of", line):
                return found[1]
        raise AssertionError(self.process.wait())

    def lines(self, count):
        return [self.process.stdout.readline().rstrip("\n") for _ in range(count)]

    def end(self, number=signal.SIGTERM):
        """Stop it; returns its exit code and what it says at last."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


@pytest.fixture
def listen(settings, tmp_path):
    """Start the command."""
    started = []

    def start(*words):
        environ = {
            "MONGODB_URI": settings.mongodb_uri,
            "MONGODB_DATABASE": settings.database,
            "ORDERFLOW_DATA": str(tmp_path),
            "ALLOW_UNSAFE": "webhook_http",
            # A busy machine may make a command slow.
            "REQUEST_DEADLINE": "10",
        }
        started.append(Listener(["webhooks", "listen", *words], environ))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_listen_prints_what_is_delivered_and_leaves_no_endpoint_behind(server, listen, place, database, number):
    listener = listen()
    listener.url()
    [endpoint] = server.get("/webhooks/endpoints").json["endpoints"]
    assert (endpoint["description"], "userId" in endpoint) == ("orderflow webhooks listen", False)
    order_id = place(server)
    told = sorted(line.split("  ", 1)[1] for line in listener.lines(2))
    assert [line.split() for line in told] == [
        ["order.created", order_id, "1", "Processing", "MYR", "99.00"],
        ["order.succeeded", order_id, "2", "Success", "MYR", "99.00"],
    ]
    assert listener.end(number) == (0, "", "")
    assert server.get("/webhooks/endpoints").json["endpoints"] == []


def test_listen_prints_bodies_of_one_user_and_passes_them_on(server, listen, place):
    with running(Receiver(answer=lambda *_: (503, {}, b""))) as receiver:
        listener = listen("--json", "--user", "user-8", "--forward-to", receiver.url)
        listener.url()
        secret = listener.process.stderr.readline().split()[0]
        place(server)
        order_id = place(server, userId="user-8")
        # On a busy machine what was refused may come again before the next one.
        bodies = {}
        while len(bodies) < 2:
            [line] = listener.lines(1)
            bodies[json.loads(line)["id"]] = json.loads(line)
        assert {body["data"]["order"]["id"] for body in bodies.values()} == {order_id}
        verified = [Webhook(secret).verify(one.body, one.headers) for one in [*receiver.requests]]
    passed = {body["id"]: body for body in verified}
    test, *told = passed.values()
    assert test["type"] == "endpoint.test"
    assert sorted(told, key=json.dumps) == sorted(bodies.values(), key=json.dumps)
    # The answer of the program is the answer to the delivery.
    [endpoint] = server.get("/webhooks/endpoints").json["endpoints"]
    found = server.get(f"/webhooks/endpoints/{endpoint['id']}/deliveries").json["deliveries"]
    assert {attempt["status"] for one in found for attempt in one.get("attempts", [])} == {503}


def test_listen_refuses_what_is_not_signed(server, listen):
    listener = listen()
    url = listener.url()
    for headers in ({}, {"webhook-id": "x", "webhook-timestamp": str(int(time.time())), "webhook-signature": "v1,x"}):
        assert httpx.post(url, json={"type": "order.created"}, headers=headers, timeout=60).status_code == 401
    assert httpx.post(url, content=iter([b"x"]), timeout=60).status_code == 413
    code, output, errors = listener.end()
    assert (code, output, errors.count("a request without a valid signature was refused")) == (0, "", 2)


def test_listen_says_what_to_set_where_the_command_may_not_use_http(run):
    code, output = run("listen")
    assert code == 1
    assert "ALLOW_UNSAFE=webhook_http" in output
    assert "Traceback" not in output


def test_listen_says_what_to_set_where_the_server_may_not_call_this_machine(run, app, settings, running, database):
    allowed = create_app(replace(settings, allow_unsafe="webhook_http"))
    code, output = run("listen", within=allowed)
    runtime(allowed).stop()
    assert code == 1
    assert "the host has no address, or one that is not public" in output
    assert "ALLOW_UNSAFE=webhook_http" in output
    assert database.webhook_endpoints.count_documents({"deletedAt": {"$exists": False}}) == 0


def test_listen_says_that_no_server_sends(run, app, settings, monkeypatch, database):
    monkeypatch.setattr(webhook_listener, "TEST_SECONDS", 0.3)
    allowed = create_app(replace(settings, allow_unsafe="webhook_http"))
    code, output = run("listen", within=allowed)
    runtime(allowed).stop()
    assert (code, "no server sends webhooks" in output) == (3, True)
    assert database.webhook_endpoints.count_documents({"deletedAt": {"$exists": False}}) == 0


def test_listen_says_that_its_port_is_taken(run):
    with running(Receiver()) as receiver:
        port = httpx.URL(receiver.url).port
        code, output = run("listen", "--port", str(port))
    assert (code, f"port {port} cannot be used" in output) == (1, True)


@pytest.mark.parametrize(
    ("changes", "verified"),
    [
        ({}, True),
        ({"webhook-signature": "v1a,x v1,y {signature}"}, True),
        ({"webhook-signature": "{signature}x"}, False),
        ({"webhook-signature": ""}, False),
        ({"webhook-id": "evt_2"}, False),
        ({"webhook-timestamp": "1000301"}, False),
        ({"webhook-timestamp": "-1"}, False),
        ({"webhook-timestamp": ""}, False),
    ],
    ids=str,
)
def test_a_delivery_is_signed_recently_with_the_secret(changes, verified):
    secret, at = Secret(value=SECRET, created_at=datetime.now(UTC)), 1_000_000
    signature = signature_header([secret], "evt_1", at, b"{}")
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(at), "webhook-signature": signature}
    headers |= {name: value.format(signature=signature) for name, value in changes.items()}
    assert is_signed(SECRET, headers, b"{}", at + 300) is verified
    assert not is_signed(SECRET, headers, b"{}", at + 301)
    assert not is_signed("", headers, b"{}", at)


# --- the first minute ---


@pytest.mark.extended
def test_the_first_delivery_as_the_page_shows_it(tmp_path):
    """On a development server, which needs no setting for it."""
    section = (ROOT / "docs/webhooks.md").read_text().partition("## The first delivery")[2].partition("\n## ")[0]
    command, order = (
        block.replace("\\\n", " ").strip()
        for block in re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[:2]
    )
    assert command.startswith(".venv/bin/orderflow ")
    environ = {"ORDERFLOW_DATA": str(tmp_path / "data"), "WEB_CONCURRENCY": "1", "REQUEST_DEADLINE": "10"}
    with Server(tmp_path, environ, command=[sys.executable, "-m", "app", "run"]) as server:
        listener = Listener(command.split()[1:], environ)
        listener.url()
        placed = order.replace("localhost:7000", server.url.removeprefix("http://"))
        subprocess.run(["bash", "-c", placed], check=True, capture_output=True)
        assert [line.split()[1] for line in sorted(listener.lines(2))] == ["order.created", "order.succeeded"]
        assert listener.end() == (0, "", "")
