"""What is worked out once gives what gunicorn works out for each request."""

import io
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from app.server import once

OTHERS = "203.0.113.9"
HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"


@pytest.fixture
def config(monkeypatch):
    for module, name in ((wsgi, "base_environ"), (util, "http_date"), (RequestParser, "mesg_class")):
        monkeypatch.setattr(module, name, getattr(module, name))
    settings = Config()
    settings.set("forwarded_allow_ips", "10.0.0.0/8,127.0.0.1")
    settings.set("workers", 3)
    return settings


def request_from(address, config, data):
    return next(RequestParser(config, [data], address))


def test_every_setting_and_property_of_the_configuration_is_the_same(config):
    snapshot = once.install(config)
    names = [*config.settings, "is_ssl", "address", "worker_class", "uid", "proc_name"]
    assert {name: getattr(snapshot, name) for name in names} == {name: getattr(config, name) for name in names}


@pytest.mark.parametrize("address", [("10.1.2.3", 1), ("127.0.0.1", 1), (OTHERS, 1), ("::1", 1), ("no address", 1), ""])
def test_an_address_is_trusted_as_gunicorn_trusts_it(config, address):
    scheme = b"X-Forwarded-Proto: https\r\n\r\n"
    expected = Request(config, RequestParser(config, [HEAD + scheme], address).unreader, address).scheme
    snapshot = once.install(config)
    assert [request_from(address, snapshot, HEAD + scheme).scheme for _ in range(2)] == [expected, expected]


def test_both_kinds_of_address_are_among_the_cases(config):
    snapshot = once.install(config)
    schemes = {
        request_from((address, 1), snapshot, HEAD + b"X-Forwarded-Proto: https\r\n\r\n").scheme
        for address in ("10.1.2.3", OTHERS)
    }
    assert schemes == {"http", "https"}


def test_a_missing_body_is_empty_and_the_next_request_is_found(config):
    parser = RequestParser(
        once.install(config), [HEAD + b"\r\n" + HEAD.replace(b"/ ", b"/next ") + b"\r\n"], (OTHERS, 1)
    )
    first = next(parser)
    assert (first.body.read(), first.body.read(10), first.body.readline()) == (b"", b"", b"")
    assert next(parser).path == "/next"


def test_a_body_is_read(config):
    body = b"Content-Length: 4\r\n\r\nbody"
    assert request_from((OTHERS, 1), once.install(config), HEAD + body).body.read() == b"body"


def test_the_date_is_gunicorns(config):
    expected = [util.http_date(second) for second in (0, 1.5, 1_700_000_000)]
    once.install(config)
    assert [util.http_date(second) for second in (0, 1.5, 1_700_000_000)] == expected


def test_the_date_of_now_changes_with_the_second(config, monkeypatch):
    once.install(config)
    clock = SimpleNamespace(time=lambda: 1_700_000_000.2)
    monkeypatch.setattr(once, "time", clock)
    first = util.http_date()
    clock.time = lambda: 1_700_000_001.0
    assert (parsedate_to_datetime(util.http_date()) - parsedate_to_datetime(first)).total_seconds() == 1


def test_environments_are_gunicorns_and_share_nothing_that_changes(config, monkeypatch):
    expected = wsgi.base_environ(config)
    once.install(config)
    first, second = wsgi.base_environ(config), wsgi.base_environ(config)
    assert {**first, "wsgi.errors": ""} == {**expected, "wsgi.errors": ""}
    assert first is not second
    stream = io.StringIO()
    monkeypatch.setattr(wsgi.sys, "stderr", stream)
    first["wsgi.errors"].write("an error")
    assert stream.getvalue() == "an error"
