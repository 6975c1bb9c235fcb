"""An order's timeline, as JSON and as server-sent events: resumed where it was cut, ended in order."""

import json
import socket
import threading
from dataclasses import replace
from itertools import islice

import pytest

from app.contracts.base import Unavailable
from app.gateway.routes import timeline
from app.gateway.security.stream_limits import client_disconnected
from app.main import create_app, runtime
from app.orders.queries import OrderQueries
from tests.gateway.routes.test_orders import step

SSE = {"Accept": "text/event-stream"}
MEMBERS = {"orderId", "sequence", "type", "at", "actor", "from", "to", "paymentStatus", "detail", "requestId"}


def parsed(blocks):
    """Server-sent events as `(id, event, data)`, comments and the rest left out."""
    for block in blocks:
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] not in ("", ":"))
        if "data" in lines:
            yield int(lines["id"]), lines["event"], json.loads(lines["data"])


def blocks(answer):
    return (chunk.decode() for chunk in answer.response)


def stream(client, order_id, query="", **headers):
    answer = client.get(f"/orders/one/{order_id}/events{query}", headers={**SSE, **headers}, buffered=False)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream"), answer.text
    return answer


@pytest.fixture
def moved(http, captured):
    """An order with three changes after its first entry."""
    for text in ("Confirm", "Packed", "Sent"):
        assert step(http, captured, text).status_code == 200
    return captured


@pytest.fixture
def alone(shared_settings):
    """An application of the test's own, to be stopped in the middle."""
    app = create_app(replace(shared_settings, streams_per_caller=2))
    yield app
    runtime(app).stop()


def test_the_timeline_is_complete_or_starts_after_a_sequence(http, moved):
    answer = http.get(f"/orders/one/{moved}/events")
    assert (answer.status_code, answer.headers["Vary"], answer.json["version"]) == (200, "Accept", 4)
    events = answer.json["events"]
    assert all(event.keys() == MEMBERS for event in events)
    assert [event["sequence"] for event in events] == [1, 2, 3, 4]
    assert [event["to"] for event in events] == ["Processing", "Confirm", "Packed", "Sent"]
    assert {event["orderId"] for event in events} == {moved}
    assert http.get(f"/orders/one/{moved}/events?after=2").json["events"] == events[2:]
    assert http.get(f"/orders/one/{moved}/events?after=4").json["events"] == []
    resumed = http.get(f"/orders/one/{moved}/events?after=0", headers={"Last-Event-ID": "3"})
    assert resumed.json["events"] == events[3:]


def test_a_stream_has_the_same_entries_and_a_retry_interval(http, moved):
    told = http.get(f"/orders/one/{moved}/events").json["events"]
    answer = stream(http, moved)
    first, *rest = islice(blocks(answer), 5)
    answer.close()
    assert first == "retry: 2000\n\n"
    assert list(parsed(rest)) == [(event["sequence"], event["type"], event) for event in told]
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [("?after=2", {}, 3), ("", {"Last-Event-ID": "3"}, 4), ("?after=0", {"Last-Event-ID": "1"}, 2)],
)
def test_a_stream_begins_after_what_was_seen_last(http, moved, query, headers, first):
    answer = stream(http, moved, query, **headers)
    told = next(parsed(blocks(answer)))
    answer.close()
    assert told[0] == first


@pytest.mark.parametrize("given", ["", "x", "-1", "1.5", "+1", "9" * 10])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_an_invalid_sequence_is_rejected(http, moved, refused, given, accept):
    address = f"/orders/one/{moved}/events"
    answer = http.get(f"{address}?after={given}", headers={"Accept": accept})
    assert refused(answer, 400, "invalid_parameter")["parameter"] == "after"
    answer = http.get(address, environ_overrides={"HTTP_LAST_EVENT_ID": given}, headers={"Accept": accept})
    assert refused(answer, 400, "invalid_parameter")["parameter"] == "Last-Event-ID"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream, application/json;q=0.5", "text/event-stream"),
    ],
)
def test_the_form_is_the_one_that_is_preferred(http, moved, accept, kind):
    answer = http.get(f"/orders/one/{moved}/events", headers={"Accept": accept}, buffered=False)
    answer.close()
    assert answer.mimetype == kind


def test_changes_are_streamed_as_they_happen(http, captured, shared_app):
    answer = stream(http, captured)
    told = parsed(blocks(answer))
    assert next(told)[:2] == (1, "OrderCreated")
    for at, text in enumerate(("Confirm", "Packed", "Cancelled"), 2):
        threading.Timer(0.1, step, (shared_app.test_client(), captured, text)).start()
        sequence, _, event = next(told)
        assert (sequence, event["to"]) == (at, text)
    answer.close()


def test_a_quiet_stream_has_a_heartbeat(http, captured, monkeypatch):
    monkeypatch.setattr(timeline, "HEARTBEAT_SECONDS", 0.1)
    answer = stream(http, captured, "?after=1")
    assert list(islice(blocks(answer), 4)) == ["retry: 2000\n\n", *[": heartbeat\n\n"] * 3]
    answer.close()


def test_a_stream_outlasts_a_database_that_is_away_for_a_moment(http, captured, monkeypatch):
    monkeypatch.setattr(timeline, "HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(timeline, "PAUSE_SECONDS", 0.05)
    answer = stream(http, captured)
    told = blocks(answer)
    assert len(list(islice(told, 2))) == 2

    def away(*_):
        raise Unavailable("away")

    with monkeypatch.context() as gone:
        gone.setattr(OrderQueries, "check_status", away)
        assert next(told) == ": heartbeat\n\n"
    step(http, captured, "Confirm")
    assert [event["to"] for _, _, event in islice(parsed(told), 1)] == ["Confirm"]
    answer.close()


def test_a_stream_ends_after_its_maximum_and_can_be_resumed(http, moved, monkeypatch):
    monkeypatch.setattr(timeline, "MAX_STREAM_SECONDS", 0.0)
    seen = [sequence for sequence, _, _ in parsed(blocks(stream(http, moved)))]
    again = list(parsed(blocks(stream(http, moved, **{"Last-Event-ID": str(seen[-1])}))))
    assert (seen, again) == ([1, 2, 3, 4], [])


def test_a_stopping_server_ends_its_streams(alone, moved):
    answer = stream(alone.test_client(), moved)
    told = blocks(answer)
    assert len(list(islice(told, 5))) == 5
    ending = threading.Timer(0.2, runtime(alone).drain)
    ending.start()
    assert [block for block in told if "data" in block] == []
    late = list(parsed(blocks(stream(alone.test_client(), moved))))
    assert [sequence for sequence, _, _ in late] == [1, 2, 3, 4]


def test_a_place_is_free_again_whatever_became_of_the_stream(alone, moved, refused):
    client = alone.test_client()
    address = f"/orders/one/{moved}/events"
    for _ in range(5):
        client.head(address, headers=SSE).close()
        stream(client, moved).close()
        opened = stream(client, moved)
        next(blocks(opened))
        opened.close()
        refused(client.get("/orders/one/nothing/events", headers=SSE), 404, "order_not_found")
    held = [stream(client, moved) for _ in range(2)]
    refused(client.get(address, headers=SSE), 429, "too_many_streams")
    assert client.get(address).status_code == 200
    for one in held:
        one.close()
    stream(client, moved).close()


def test_nothing_of_the_inside_is_streamed(http, moved):
    answer = stream(http, moved)
    told = "".join(islice(blocks(answer), 5))
    answer.close()
    assert not [name for name in ("outbox", "relay", "idempotency", "paymentSequence") if name in told]


def test_a_disconnected_client_is_detected():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not client_disconnected({})
        assert not client_disconnected({"gunicorn.socket": ours})
        theirs.send(b"GET /the next request")
        assert not client_disconnected({"gunicorn.socket": ours})
        ours.recv(100)
        theirs.close()
        assert client_disconnected({"gunicorn.socket": ours})
    assert client_disconnected({"gunicorn.socket": ours})


def test_a_stream_ends_when_its_client_has_disconnected(http, captured, monkeypatch):
    monkeypatch.setattr(timeline, "client_disconnected", lambda environ: True)
    told = list(blocks(stream(http, captured)))
    assert (len(told), told[0]) == (2, "retry: 2000\n\n")
