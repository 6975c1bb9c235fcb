"""The live feed: whole orders or none, tallies that count all, and followers in any process."""

import threading
import time

import pytest

from app.messaging import live_feed as feeds
from app.messaging.live_feed import LiveFeed, Tally
from app.observability.stages import Stage
from app.storage.mongodb import Database


@pytest.fixture
def feed(settings):
    database = Database(settings.mongodb_uri, settings.database)
    made = LiveFeed(database.collection("steps", 5.0))
    made.prepare()
    yield made
    made.stop()
    database.close()


@pytest.fixture
def frozen(monkeypatch):
    """A clock that stands still, so that no allowance comes back."""
    now = time.monotonic()
    monkeypatch.setattr(feeds.time, "monotonic", lambda: now)


def line(order_id, took_ms=1.0, request_id="r", **more):
    return {"module": "orders", "order_id": order_id, "request_id": request_id, "took_ms": took_ms, **more}


def taken(feed):
    return list(feed._lines.queue)


def test_of_too_many_orders_some_are_told_whole_and_the_others_not_at_all(feed, frozen):
    orders = [f"o{at}" for at in range(50)]
    for step in Stage:
        feed.take(step, 1.0, [line(order_id) for order_id in orders])
    told = taken(feed)
    whole = {one["order_id"] for one in told}
    assert whole == set(orders[: feeds.RATE // len(Stage)])
    assert len(told) == len(whole) * len(Stage)


def test_what_is_no_order_of_this_process_is_told_while_there_is_room(feed, frozen):
    for at in range(2 * feeds.RATE):
        feed.take(Stage.PAYMENT_PROCESSED, 1.0, [line(f"o{at}")])
    assert len(taken(feed)) == feeds.RATE


@pytest.mark.parametrize("request_id", ["console-1", "demo-1"])
def test_an_order_that_somebody_waits_for_is_told_however_many_others_there_are(feed, frozen, request_id):
    feed.take(Stage.GATEWAY_RECEIVED, 1.0, [line(f"o{at}") for at in range(50)])
    feed.take(Stage.GATEWAY_RECEIVED, 1.0, [line("mine", request_id=request_id)])
    feed.take(Stage.ORDER_STORED, 1.0, [line("mine", request_id=request_id)])
    assert [one["step"] for one in taken(feed) if one["order_id"] == "mine"] == ["gateway received", "order stored"]


def test_whom_it_keeps_in_mind_has_a_bound(feed, monkeypatch):
    monkeypatch.setattr(feeds, "CHOSEN", 3)
    for at in range(6):
        feed.take(Stage.GATEWAY_RECEIVED, 1.0, [line(f"o{at}")])
    assert list(feed._chosen) == ["o3", "o4", "o5"]


def test_a_tally_counts_all_and_times_the_newest():
    tally = Tally()
    tally.add("one", [line("o", took_ms=float(at)) for at in range(1000)])
    tally.add("other", [line("o", took_ms=7.0)])
    steps = tally.steps()
    assert steps["other"] == {"count": 1, "p50": 7.0, "p99": 7.0}
    assert steps["one"]["count"] == 1000
    assert 744 <= steps["one"]["p50"] < 1000
    assert steps["one"]["p99"] == pytest.approx(997, abs=1)


def test_whoever_watches_sees_steps_and_tallies_of_every_process(feed, settings, eventually):
    seen, database = [], Database(settings.mongodb_uri, settings.database)
    watcher = LiveFeed(database.collection("steps", 5.0))
    since = time.time() - 1

    def watch():
        for batch in watcher.watch(since, 30.0):
            seen.extend(batch)

    watching = threading.Thread(target=watch)
    watching.start()
    feed.start()
    feed.take(Stage.GATEWAY_RECEIVED, time.time(), [line("o1"), line("o2")])
    eventually(lambda: {one.get("order_id") for one in seen} >= {"o1", "o2"})
    tally = eventually(lambda: next((one for one in seen if "tally" in one), None))
    assert tally["tally"]["gateway received"]["count"] == 2
    watcher.draining = True
    watching.join(5.0)
    assert not watching.is_alive()
    assert len({one["_id"] for one in seen}) == len(seen)
    database.close()


def test_what_was_told_before_that_is_not_told_again(feed, database, eventually):
    now = time.time()
    database.steps.insert_many([{"at": now - 100, **line("old")}, {"at": now, **line("new")}])
    found = next(batch for batch in feed.watch(now - 1, 5.0) if batch)
    assert [one["order_id"] for one in found] == ["new"]


def test_an_orders_steps_are_found_by_an_index_oldest_first(feed, database):
    database.steps.insert_many([
        {"step": "b", "at": 2.0, **line("o")}, {"step": "x", "at": 1.5, **line("p")}, {"step": "a", "at": 1.0, **line("o")},
    ])  # fmt: skip
    assert [one["step"] for one in feed.of_order("o")] == ["a", "b"]
    plan = database.steps.find({"order_id": "o"}).explain()["queryPlanner"]["winningPlan"]
    assert "of_order" in str(plan)


def test_a_line_told_before_the_collection_was_made_does_not_make_it_endless(settings, database):
    """Where modules run apart, the gateway makes it, and others may be earlier."""
    database.steps.insert_one({"step": "orders received", "at": 1.0, "order_id": "o"})
    connection = Database(settings.mongodb_uri, settings.database)
    early, late = (LiveFeed(connection.collection("steps", 5.0)) for _ in range(2))
    for one in (early, late):
        one.prepare()
    assert database.steps.options() == {"capped": True, "size": feeds.CAPPED_BYTES}
    assert "of_order" in database.steps.index_information()
    assert [line["order_id"] for line in late.of_order("o")] == ["o"]
    connection.close()
