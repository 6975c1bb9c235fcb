"""Which names the server answers to, and which sites' pages may change something: against rebound names and blind requests."""

import pytest
from flask import Flask

from app.config import BadSettings, Settings
from app.gateway.http import problems
from app.gateway.security import allowed_hosts

IDENTITY = {
    "auth_jwt_algorithm": "HS256",
    "auth_jwt_key": "k" * 40,
    "auth_jwt_issuer": "i",
    "auth_jwt_audience": "a",
}
EVERYWHERE = {"bind": "0.0.0.0", "allow_unsafe": "no_identity"}
OWN = [
    "localhost",
    "localhost:7000",
    "LocalHost:80",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:7000",
    "127.8.8.8",
    "[::1]:7000",
]
FOREIGN = [
    *("evil.example", "evil.example:7000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost", "x"),
    *("192.0.2.7", "192.0.2.7:7000", "0.0.0.0:7000", "[::]:7000", "[2001:db8::1]", "2130706433", "0x7f.1", "127.1"),
    *("localhost@evil.example", "evil.example#localhost", "localhost, evil.example", "localhost evil.example"),
    *("", " ", ":7000", "localhost:", "localhost:x", "localhost:700000", "[::1", "::1", "localhost\x00", "löcalhost"),
    "a" * 300,
]


@pytest.fixture
def serve():
    """A client of an application that answers to its own names alone."""

    def make(**changes):
        app = Flask("app", static_folder=None)
        problems.install(app)
        allowed_hosts.install(app, Settings(**changes))
        app.add_url_rule("/", view_func=lambda: "here", methods=["GET", "POST", "PUT", "DELETE"])
        for name in ("health.healthz", "health.readyz", "metrics.show"):
            app.add_url_rule(f"/{name}", name, lambda: "well")
        return app.test_client()

    return make


def ask(client, host, path="/", **more):
    return client.open(path, environ_overrides={"HTTP_HOST": host}, **more)


@pytest.mark.parametrize("host", OWN)
def test_this_machine_is_served_under_its_own_names(serve, host):
    assert ask(serve(), host).status_code == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_host_names_are_rejected_without_authentication(serve, host, method):
    answer = ask(serve(), host, method=method)
    assert (answer.status_code, answer.json["code"]) == (421, "misdirected_request")


def test_a_request_that_names_no_host_at_all_is_refused(serve):
    answer = serve().get("/", environ_overrides={"HTTP_HOST": ""})
    assert answer.status_code == 421


@pytest.mark.parametrize("path", ["/health.healthz", "/health.readyz", "/metrics.show"])
def test_probes_and_metrics_answer_to_every_name(serve, path):
    for changes in ({}, {**IDENTITY, "allowed_hosts": "shop.example"}):
        assert ask(serve(**changes), "10.1.2.3:7000", path).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "192.0.2.7", ""])
def test_where_callers_show_tokens_any_name_will_do_unless_some_are_set(serve, host):
    assert ask(serve(**IDENTITY), host).status_code == 200
    named = serve(**IDENTITY, allowed_hosts="shop.example, Other.Example")
    assert ask(named, host).status_code == 421
    for own in ("shop.example", "shop.example:443", "SHOP.example", "other.example.", "127.0.0.1:7000"):
        assert ask(named, own).status_code == 200


def test_where_it_is_published_counts_and_its_other_names_do_not(serve):
    client = serve(bind="0.0.0.0", published_on="192.0.2.7", allow_unsafe="no_identity", allowed_hosts="shop.local")
    assert [ask(client, host).status_code for host in ("192.0.2.7:7000", "shop.local", "localhost")] == [200] * 3
    assert [ask(client, host).status_code for host in ("192.0.2.8", "evil.example", "192.0.2.7.evil")] == [421] * 3


@pytest.mark.parametrize("host", ["192.0.2.7:7000", "10.0.0.1", "[2001:db8::1]:7000"])
def test_on_all_addresses_every_address_may_be_ones_own_and_still_no_name(serve, host):
    client = serve(**EVERYWHERE)
    assert ask(client, host).status_code == 200
    assert ask(client, "evil.example").status_code == 421


@pytest.mark.parametrize("names", ["shop.example:443", "https://shop.example", "a b", "*", "shop.example;x"])
def test_what_is_no_name_is_refused_at_the_start(names):
    with pytest.raises(BadSettings, match="ALLOWED_HOSTS"):
        Settings(allowed_hosts=names)


FROM_ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "odd"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:7000"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost"},
    {"Origin": "null"},
    {"Origin": ""},
]
FROM_HERE = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost:7000"},
    {"Origin": "https://LOCALHOST:7000"},
]


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_page_of_another_site_may_change_nothing(serve, headers, method):
    answer = ask(serve(), "localhost:7000", method=method, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (403, "cross_site_request")


@pytest.mark.parametrize("headers", FROM_HERE, ids=str)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_programs_and_ones_own_pages_may(serve, headers, method):
    assert ask(serve(), "localhost:7000", method=method, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
def test_reading_is_left_to_the_browser_and_callers_with_tokens_to_their_token(serve, headers):
    assert ask(serve(), "localhost:7000", headers=headers).status_code == 200
    assert ask(serve(**IDENTITY), "localhost:7000", method="POST", headers=headers).status_code == 200
