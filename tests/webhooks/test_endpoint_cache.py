"""The endpoints in memory: never so old that an event might miss one."""

from dataclasses import replace
from datetime import timedelta

import pytest
from pymongo.monitoring import CommandListener

from app.config import Settings
from app.contracts.base import Unavailable
from app.storage.mongodb import Database
from app.webhooks.documents import endpoint_document
from app.webhooks.endpoint import Endpoint
from app.webhooks.endpoint_cache import MAX_AGE_SECONDS, EndpointCache
from app.webhooks.endpoint_repository import OVERLAP_SECONDS, EndpointRepository
from tests.stopped_clock import StoppedClock


class Finds(CommandListener):
    """How many documents each query has returned."""

    def __init__(self):
        self.returned: list[int] = []

    def started(self, event):
        """Not of interest."""

    def failed(self, event):
        """Not of interest."""

    def succeeded(self, event):
        if event.command_name == "find":
            self.returned.append(len(event.reply["cursor"]["firstBatch"]))


@pytest.fixture
def finds():
    return Finds()


@pytest.fixture
def clock():
    return StoppedClock()


@pytest.fixture
def endpoints(settings: Settings, finds):
    database = Database(settings.mongodb_uri, settings.database, event_listeners=[finds])
    made = EndpointRepository(database.collection("webhook_endpoints", 5.0))
    made.prepare()
    yield made
    database.close()


@pytest.fixture
def cache(endpoints, clock):
    return EndpointCache(endpoints, clock)


def an_endpoint(name: str, endpoints, **members) -> Endpoint:
    given = {"user_id": "shop", "url": "https://shop.example/", "description": "", "events": ("*",), "secrets": ()}
    return Endpoint(endpoint_id=name, created_at=endpoints.now(), **{**given, **members})


def names(cache) -> list[str]:
    return sorted(endpoint.endpoint_id for endpoint in cache.receivers("order.created", "shop"))


def test_an_old_cache_is_read_again_before_an_event_is_recorded(cache, endpoints, clock):
    assert names(cache) == []
    endpoints.add(an_endpoint("a", endpoints))
    clock.now += MAX_AGE_SECONDS
    assert names(cache) == []
    clock.now += 0.1
    assert names(cache) == ["a"]
    assert cache.users() == ("shop",)


def test_an_old_cache_that_cannot_be_read_again_says_nothing(cache, endpoints, clock, monkeypatch):
    endpoints.add(an_endpoint("a", endpoints))
    assert names(cache) == ["a"]

    def away(_at):
        raise Unavailable("the database has no primary at the moment")

    monkeypatch.setattr(endpoints, "changed_since", away)
    assert names(cache) == ["a"]
    clock.now += MAX_AGE_SECONDS + 0.1
    for ask in (names, EndpointCache.users):
        with pytest.raises(Unavailable):
            ask(cache)


@pytest.mark.parametrize("earlier", [0.0, 6.0, OVERLAP_SECONDS - 5.0])
def test_a_change_with_an_earlier_time_than_the_last_one_read_is_not_missed(cache, endpoints, database, earlier):
    """Another process took its time from a clock that is behind, or its write took long."""
    endpoints.add(an_endpoint("a", endpoints))
    cache.refresh()
    late = endpoint_document(an_endpoint("b", endpoints))
    database["webhook_endpoints"].insert_one({**late, "changedAt": endpoints.now() - timedelta(seconds=earlier)})
    cache.refresh()
    assert names(cache) == ["a", "b"]


def test_what_has_not_changed_for_a_while_is_not_read_again(cache, endpoints, database, finds):
    long_ago = endpoints.now() - timedelta(seconds=2 * OVERLAP_SECONDS)
    database["webhook_endpoints"].insert_many(
        [{**endpoint_document(an_endpoint(f"e{at}", endpoints)), "changedAt": long_ago} for at in range(20)]
    )
    cache.refresh()
    cache.refresh()
    assert finds.returned == [20, 0]


def test_a_deleted_endpoint_is_forgotten_by_every_process(cache, endpoints):
    endpoints.add(an_endpoint("a", endpoints))
    assert names(cache) == ["a"]
    endpoints.delete("a", "shop")
    cache.refresh()
    assert names(cache) == []


def test_the_failing_ones_are_known(cache, endpoints):
    endpoints.add(an_endpoint("a", endpoints))
    endpoints.add(an_endpoint("b", endpoints, failing_since=endpoints.now()))
    cache.refresh()
    assert cache.failing() == ["b"]


def test_a_change_of_this_process_is_not_undone_by_what_was_read_before_it(endpoints, clock):
    """As when an endpoint is disabled while a refresh is under way."""
    endpoints.add(an_endpoint("a", endpoints))

    class SlowEndpoints:
        now = endpoints.now

        def changed_since(self, at):
            found = endpoints.changed_since(at)
            cache.put(endpoints.change("a", "", lambda current: replace(current, disabled_reason="by its user")))
            return found

    cache = EndpointCache(SlowEndpoints(), clock)
    cache.refresh()
    assert cache.get("a").disabled_reason == "by its user"


def test_of_two_changes_of_this_process_the_newer_one_is_remembered(cache, endpoints):
    before = an_endpoint("a", endpoints)
    newer = replace(before, version=2, description="new")
    cache.put(newer)
    cache.put(before)
    assert cache.get("a") == newer
