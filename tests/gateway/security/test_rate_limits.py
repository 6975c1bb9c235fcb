"""Rate limits: counted in the database for all workers together, shown in headers, and off while the database is unavailable."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from flask import Flask, Response, request
from pymongo.read_concern import ReadConcern

from app.config import Settings
from app.contracts.base import Unavailable
from app.gateway.http import problems
from app.gateway.security import rate_limits
from app.gateway.security.caller import Caller
from app.gateway.security.client_addresses import ClientAddresses
from app.gateway.security.rate_limits import RateLimited, RateLimiter, parse_limits
from app.main import create_app, runtime


class Counts:
    """Counts in memory, as the database does."""

    def __init__(self):
        self.counts, self.asked, self.away = {}, 0, None

    def take(self, who, windows):
        self.asked += 1
        if self.away:
            raise self.away
        self.counts[who] = self.counts.get(who, 0) + 1
        return [(self.counts[who], seconds / 2) for seconds in windows]


@pytest.fixture
def counts():
    return Counts()


@pytest.fixture
def http(counts):
    """A client of an application with a limit of 3 a minute that returns the client address that it saw."""

    def serve(**changes):
        settings = Settings(**{"rate_limit": "3/minute", **changes})
        app = Flask("app", static_folder=None)
        problems.install(app)
        rate_limits.install(app, settings, counts.take)
        app.add_url_rule("/", view_func=lambda: "here")
        app.add_url_rule("/healthz", "health.healthz", lambda: "well")
        return app.test_client()

    return serve


def test_without_a_limit_no_request_is_counted(http, counts):
    client = http(rate_limit="")
    assert {client.get("/").status_code for _ in range(20)} == {200}
    assert not [name for name, _ in client.get("/").headers if name.startswith("RateLimit")]
    assert counts.asked == 0


def test_so_many_and_no_more(http):
    client = http()
    assert [client.get("/").status_code for _ in range(6)] == [200] * 3 + [429] * 3


def test_a_response_has_the_remaining_requests(http):
    answer = http().get("/")
    assert answer.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert answer.headers["RateLimit"] == '"default";r=2;t=30'


def test_a_rejection_has_the_time_to_wait(http):
    client = http()
    refused = [client.get("/") for _ in range(4)][-1]
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.headers["Retry-After"] == "30"
    assert refused.headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert refused.headers["RateLimit"] == '"default";r=0;t=30'


def test_several_limits_hold_at_once_and_are_counted_in_one_go(http, counts):
    client = http(rate_limit="100/second;3/minute")
    answer = client.get("/")
    assert answer.headers["RateLimit-Policy"] == '"second";q=100;w=1, "minute";q=3;w=60'
    assert answer.headers["RateLimit"] == '"second";r=99;t=1, "minute";r=2;t=30'
    assert counts.asked == 1
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]


def test_health_is_never_limited(http):
    client = http()
    assert {client.get("/healthz").status_code for _ in range(20)} == {200}


def test_a_caller_over_its_limit_costs_no_database_command(http, counts):
    client = http()
    for _ in range(50):
        client.get("/")
    assert counts.asked == 4


def test_when_the_window_ends_they_may_come_again(counts, monkeypatch):
    limiter = RateLimiter("1/minute", counts.take)
    with Flask("app").test_request_context():
        limiter.check("ada")
        for _ in range(2):
            with pytest.raises(RateLimited):
                limiter.check("ada")
        counts.counts.clear()
        now = time.monotonic()
        monkeypatch.setattr("app.gateway.security.rate_limits.time.monotonic", lambda: now + 31)
        limiter.check("ada")


def test_the_memory_of_callers_over_their_limit_is_bounded(counts, monkeypatch):
    monkeypatch.setattr("app.gateway.security.rate_limits.MAX_BLOCKED", 5)
    limiter = RateLimiter("1/minute", counts.take)
    with Flask("app").test_request_context():
        for number in range(20):
            limiter.check(f"{number}")
            with pytest.raises(RateLimited):
                limiter.check(f"{number}")
    assert len(limiter._blocked_until) == 5


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("not authorized")])
def test_without_counters_all_requests_pass_and_counting_is_retried_seldom(http, counts, error, monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(rate_limits, "time", clock)
    counts.away = error
    client = http()
    answers = [client.get("/") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert counts.asked == 1
    assert "RateLimit" not in answers[-1].headers
    clock.now += rate_limits.PAUSE_SECONDS
    client.get("/")
    assert counts.asked == 2


@pytest.mark.parametrize(
    ("notation", "limits"),
    [
        ("5/second", [("default", 5, 1)]),
        ("1/day", [("default", 1, 86400)]),
        ("1/second;2/minute;3/hour;4/day", [("second", 1, 1), ("minute", 2, 60), ("hour", 3, 3600), ("day", 4, 86400)]),
    ],
)
def test_what_a_setting_says(notation, limits):
    assert [(limit.name, limit.quota, limit.seconds) for limit in parse_limits(notation)] == limits


# --- whose address ---


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "seen"),
    [
        ("", "192.0.2.7", "", "192.0.2.7"),
        ("", "192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("", "127.0.0.1", "198.51.100.1", "127.0.0.1"),
        ("10.0.0.1", "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.0/8", "10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.0/8", "10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", "not an address", "unknown"),
        ("10.0.0.0/8", "192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.1, 10.0.0.2", "10.0.0.2", " 198.51.100.1 ,, ", "198.51.100.1"),
        ("*", "192.0.2.7", "203.0.113.9, 198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "", "198.51.100.1", "198.51.100.1"),
        ("", "", "198.51.100.1", "unknown"),
        ("", "::ffff:192.0.2.7", "", "192.0.2.7"),
        ("", "::ffff:192.0.2.8", "198.51.100.1", "192.0.2.8"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "::ffff:10.0.0.1", "203.0.113.9, ::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.0/104", "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.0/8", "::ffff:192.0.2.7", "198.51.100.1", "192.0.2.7"),
        ("10.0.0.0/8", "10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.0/8", "10.0.0.1", "198.51.100.1:4712, 10.0.0.2:80", "198.51.100.1"),
        ("10.0.0.0/8", "10.0.0.1", "[2001:db8:1:2:3::1]:443", "2001:db8:1:2::"),
        ("10.0.0.0/8", "10.0.0.1", "[2001:db8:1:2:3::1]", "2001:db8:1:2::"),
        ("10.0.0.0/8", "10.0.0.1", "2001:db8:1:2:3::1", "2001:db8:1:2::"),
        ("10.0.0.0/8", "10.0.0.1", "[::ffff:198.51.100.1]:443", "198.51.100.1"),
        ("10.0.0.0/8", "10.0.0.1", "198.51.100.1:x:y", "unknown"),
        ("10.0.0.0/8", "10.0.0.1", "[198.51.100.1", "unknown"),
        ("", "fe80::1%eth0", "", "fe80::"),
        ("", "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
        ("", "2001:db8:1:2:ffff::1", "", "2001:db8:1:2::"),
    ],
)
def test_whose_address_it_is(trusted, peer, forwarded, seen):
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    with Flask("app").test_request_context(headers=headers, environ_base={"REMOTE_ADDR": peer}):
        assert ClientAddresses(trusted).address_of(request) == seen


def test_every_user_has_a_limit_of_their_own_wherever_they_come_from(counts):
    app = Flask("app", static_folder=None)
    problems.install(app)
    app.before_request(lambda: setattr(_g(), "caller", Caller(request.headers["X-User"], frozenset())))
    rate_limits.install(app, Settings(rate_limit="1/minute"), counts.take)
    app.add_url_rule("/", view_func=lambda: Response("here"))
    first, again, other = (app.test_client().get("/", headers={"X-User": user}) for user in ("ada", "ada", "bob"))
    assert [answer.status_code for answer in (first, again, other)] == [200, 429, 200]
    assert set(counts.counts) == {"user:ada", "user:bob"}


def _g():
    from flask import g

    return g


# --- counted in the database ---


@pytest.fixture
def two_workers(settings):
    """Two applications on one database."""
    made = [create_app(replace(settings, rate_limit="20/minute;1000/day")) for _ in range(2)]
    for app in made:
        runtime(app).prepare()
    yield made
    for app in made:
        runtime(app).stop()


def test_workers_count_together_and_lose_no_count(two_workers, database):
    clients = [app.test_client() for app in two_workers]

    def call(number):
        return two_workers[number % 2].test_client().get("/state-machine").status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(call, range(60)))
    assert (statuses.count(200), statuses.count(429)) == (20, 40)
    # Counts are not written to a majority.
    [counted] = database.rate_limits.with_options(read_concern=ReadConcern("local")).find()
    assert counted["_id"] == "address:127.0.0.1"
    assert counted["expireAt"] == counted["in86400"]["ends"]
    assert {client.get("/healthz").status_code for client in clients} == {200}


def test_what_is_counted_is_forgotten_by_the_database(two_workers, database):
    assert database.rate_limits.index_information()["expiry"]["expireAfterSeconds"] == 0


def test_a_window_that_is_over_begins_anew(two_workers, database):
    client = two_workers[0].test_client()
    for _ in range(19):
        client.get("/state-machine")
    database.rate_limits.update_one({}, {"$set": {"in60.ends": datetime.now(UTC) - timedelta(seconds=1)}})
    told = client.get("/state-machine").headers["RateLimit"]
    # The day began with the first request, and each answer may take its time.
    minute, day = re.fullmatch(r'"minute";r=19;t=(\d+), "day";r=980;t=(\d+)', told).groups()
    assert 30 < int(minute) <= 60
    assert 86400 - 60 < int(day) <= 86400
