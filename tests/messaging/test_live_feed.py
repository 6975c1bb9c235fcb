"""The live feed: whole orders or none, statistics that count all, and followers in any process."""

import threading
import time

import pytest

from app.messaging import live_feed as feeds
from app.messaging.live_feed import LiveFeed, StageStatistics
from app.observability.stages import Stage
from app.storage.mongodb import Database


@pytest.fixture
def feed(settings):
    database = Database(settings.mongodb_uri, settings.database)
    made = LiveFeed(database.collection("stages", 30.0))
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


def buffered(feed):
    return list(feed._lines.queue)


def test_of_too_many_orders_some_are_sent_whole_and_the_others_not_at_all(feed, frozen):
    orders = [f"o{at}" for at in range(50)]
    for stage in Stage:
        feed.ingest(stage, 1.0, [line(order_id) for order_id in orders])
    sent = buffered(feed)
    whole = {one["order_id"] for one in sent}
    assert whole == set(orders[: feeds.LINES_PER_SECOND // len(Stage)])
    assert len(sent) == len(whole) * len(Stage)


def test_lines_of_other_processes_orders_are_sent_within_the_allowance(feed, frozen):
    for at in range(2 * feeds.LINES_PER_SECOND):
        feed.ingest(Stage.PAYMENT_PROCESSED, 1.0, [line(f"o{at}")])
    assert len(buffered(feed)) == feeds.LINES_PER_SECOND


@pytest.mark.parametrize("request_id", ["console-1", "demo-1"])
def test_an_order_that_a_user_watches_is_sent_however_many_others_there_are(feed, frozen, request_id):
    feed.ingest(Stage.GATEWAY_RECEIVED, 1.0, [line(f"o{at}") for at in range(50)])
    feed.ingest(Stage.GATEWAY_RECEIVED, 1.0, [line("mine", request_id=request_id)])
    feed.ingest(Stage.ORDER_STORED, 1.0, [line("mine", request_id=request_id)])
    assert [one["stage"] for one in buffered(feed) if one["order_id"] == "mine"] == ["gateway received", "order stored"]


def test_the_number_of_sampled_orders_is_bounded(feed, monkeypatch):
    monkeypatch.setattr(feeds, "MAX_SAMPLED_ORDERS", 3)
    for at in range(6):
        feed.ingest(Stage.GATEWAY_RECEIVED, 1.0, [line(f"o{at}")])
    assert list(feed._sampled_orders) == ["o3", "o4", "o5"]


def test_statistics_count_all_stages_and_time_the_newest():
    statistics = StageStatistics()
    statistics.add("one", [line("o", took_ms=float(at)) for at in range(1000)])
    statistics.add("other", [line("o", took_ms=7.0)])
    summary = statistics.summary()
    assert summary["other"] == {"count": 1, "p50": 7.0, "p99": 7.0}
    assert summary["one"]["count"] == 1000
    assert 744 <= summary["one"]["p50"] < 1000
    assert summary["one"]["p99"] == pytest.approx(997, abs=1)


def test_a_follower_sees_stages_and_statistics_of_every_process(feed, settings, eventually):
    seen, database = [], Database(settings.mongodb_uri, settings.database)
    watcher = LiveFeed(database.collection("stages", 30.0))
    since = time.time() - 1

    def watch():
        for batch in watcher.follow_since(since, 100.0):
            seen.extend(batch)

    watching = threading.Thread(target=watch)
    watching.start()
    feed.start()
    feed.ingest(Stage.GATEWAY_RECEIVED, time.time(), [line("o1"), line("o2")])
    eventually(lambda: {one.get("order_id") for one in seen} >= {"o1", "o2"})
    found = eventually(lambda: next((one for one in seen if "statistics" in one), None))
    assert found["statistics"]["gateway received"]["count"] == 2
    watcher.draining = True
    watching.join(60.0)
    assert not watching.is_alive()
    assert len({one["_id"] for one in seen}) == len(seen)
    database.close()


def test_lines_before_the_given_time_are_not_returned(feed, database, eventually):
    now = time.time()
    database.stages.insert_many([{"at": now - 100, **line("old")}, {"at": now, **line("new")}])
    found = next(batch for batch in feed.follow_since(now - 1, 60.0) if batch)
    assert [one["order_id"] for one in found] == ["new"]


def test_an_orders_stages_are_found_by_an_index_oldest_first(feed, database):
    database.stages.insert_many([
        {"stage": "b", "at": 2.0, **line("o")}, {"stage": "x", "at": 1.5, **line("p")}, {"stage": "a", "at": 1.0, **line("o")},
    ])  # fmt: skip
    assert [one["stage"] for one in feed.stages_of_order("o")] == ["a", "b"]
    plan = database.stages.find({"order_id": "o"}).explain()["queryPlanner"]["winningPlan"]
    assert "order_id" in str(plan["inputStage"])


def test_a_collection_that_a_line_created_is_converted_to_capped(settings, database):
    """Where modules run apart, the gateway makes it, and others may be earlier."""
    database.stages.insert_one({"stage": "orders received", "at": 1.0, "order_id": "o"})
    connection = Database(settings.mongodb_uri, settings.database)
    early, late = (LiveFeed(connection.collection("stages", 30.0)) for _ in range(2))
    for one in (early, late):
        one.prepare()
    assert database.stages.options() == {"capped": True, "size": feeds.CAPPED_BYTES}
    assert "order_id" in database.stages.index_information()
    assert [line["order_id"] for line in late.stages_of_order("o")] == ["o"]
    connection.close()
