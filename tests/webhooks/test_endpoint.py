"""What an endpoint may be, which events it receives, its secrets, and when it is disabled."""

from datetime import UTC, datetime, timedelta

import pytest

from app.contracts.webhooks import EVENT_TYPES
from app.webhooks.endpoint import (
    Endpoint,
    InvalidEndpoint,
    UrlRules,
    after_attempt,
    checked_events,
    checked_url,
    rotated,
)
from app.webhooks.signatures import Secret

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
SECRET = Secret(value="whsec_b25l", created_at=NOW)
NEW = Secret(value="whsec_dHdv", created_at=NOW)


def an_endpoint(**members: object) -> Endpoint:
    defaults: dict[str, object] = {
        "endpoint_id": "we_1",
        "user_id": "shop",
        "url": "https://shop.example/hooks",
        "description": "",
        "events": ("*",),
        "secrets": (SECRET,),
        "created_at": NOW,
    }
    return Endpoint(**{**defaults, **members})


INVALID_URLS = {
    "http": "http://shop.example/",
    "another scheme": "file:///etc/passwd",
    "no scheme": "shop.example/hooks",
    "no host": "https:///hooks",
    "user and password": "https://user:secret@shop.example/",
    "user name that looks like a host": "https://shop.example@10.0.0.1/",
    "backslash": "https://shop.example\\@10.0.0.1/",
    "fragment": "https://shop.example/#hooks",
    "another port": "https://shop.example:22/",
    "port that is no number": "https://shop.example:https/",
    "port that is too large": "https://shop.example:99999/",
    "port zero": "https://shop.example:0/",
    "no IPv6 address": "https://[::zz]/",
    "IPv6 address with a zone": "https://[fe80::1%25eth0]/",
    "metadata with a trailing dot": "https://169.254.169.254./",
    "decimal address": "https://2130706433/",
    "octal address": "https://0177.0.0.1/",
    "hexadecimal address": "https://0x7f.0.0.1/",
    "short address": "https://127.1/",
    "space": "https://shop.example/a b",
    "line break": "https://shop.example/\r\nHost: internal",
    "letters that are not ASCII": "https://shöp.example/",
    "full-width digits": "https://１27.0.0.1/",
    "empty label": "https://shop..example/",
    "too long": "https://shop.example/" + "a" * 2048,
    "empty": "",
}


@pytest.mark.parametrize("url", INVALID_URLS.values(), ids=INVALID_URLS.keys())
def test_an_address_that_is_no_plain_https_url_is_refused(url):
    with pytest.raises(InvalidEndpoint) as refused:
        checked_url(url, UrlRules())
    assert refused.value.member == "url"


@pytest.mark.parametrize(
    "url",
    [
        "https://shop.example",
        "https://shop.example/hooks?tenant=7",
        "https://shop.example:443/",
        "https://xn--shp-sna.example/",
        "https://192.0.2.7/hooks",
        "https://[2001:db8::7]/hooks",
        "https://shop.example./",
    ],
)
def test_an_https_url_is_accepted(url):
    assert checked_url(url, UrlRules()) == url


def test_an_administrator_allows_ports_and_plain_http():
    assert checked_url("https://shop.example:8443/", UrlRules(ports=frozenset({443, 8443})))
    assert checked_url("http://127.0.0.1:9000/hooks", UrlRules(plain_http=True))
    with pytest.raises(InvalidEndpoint):
        checked_url("ftp://127.0.0.1/", UrlRules(plain_http=True))


@pytest.mark.parametrize(
    ("patterns", "event_type", "user_id", "expected"),
    [
        (("*",), "order.created", "shop", True),
        (("order.*",), "order.refund_failed", "shop", True),
        (("order.created",), "order.created", "shop", True),
        (("order.created",), "order.declined", "shop", False),
        (("order.created", "order.d*"), "order.declined", "shop", False),
        (("*",), "order.created", "another", False),
    ],
)
def test_an_endpoint_receives_the_events_that_it_names(patterns, event_type, user_id, expected):
    assert an_endpoint(events=patterns).receives(event_type, user_id) is expected


def test_an_endpoint_for_all_users_receives_the_events_of_each():
    assert an_endpoint(user_id="").receives("order.created", "anybody")


def test_event_types_are_checked_and_named_once():
    assert checked_events(["order.*", "order.created", "order.*"]) == ("order.*", "order.created")
    for wrong in (["order.creatd"], [], ["payment.*"], ["order"], [""], ["order.cre*"]):
        with pytest.raises(InvalidEndpoint) as refused:
            checked_events(wrong)
        assert refused.value.member == "events"
    assert checked_events(EVENT_TYPES) == tuple(EVENT_TYPES)


def test_a_former_secret_signs_until_its_time_is_over():
    endpoint = rotated(an_endpoint(), NEW, NOW, 3600)
    assert endpoint.signing_secrets(NOW) == endpoint.secrets
    assert [one.value for one in endpoint.secrets] == [NEW.value, SECRET.value]
    assert endpoint.signing_secrets(NOW + timedelta(hours=1)) == (NEW,)


def test_a_secret_that_leaked_is_replaced_at_once():
    assert rotated(an_endpoint(), NEW, NOW, 0).secrets == (NEW,)


def test_a_second_rotation_does_not_prolong_the_first():
    twice = rotated(rotated(an_endpoint(), NEW, NOW, 60), SECRET, NOW, 3600)
    assert [one.expires_at for one in twice.secrets] == [
        None,
        NOW + timedelta(hours=1),
        NOW + timedelta(minutes=1),
    ]


@pytest.mark.parametrize(
    ("failing_for", "expected"), [(timedelta(0), False), (timedelta(days=4.9), False), (timedelta(days=5), True)]
)
def test_an_endpoint_that_only_failed_for_five_days_is_disabled(failing_for, expected):
    failing = an_endpoint(failing_since=NOW - failing_for)
    after = after_attempt(failing, NOW, succeeded=False, gone=False)
    assert (after.enabled, after.failing_since) == (not expected, NOW - failing_for)


def test_failures_are_counted_from_the_first_one_until_a_success():
    failing = after_attempt(an_endpoint(), NOW, succeeded=False, gone=False)
    assert failing.failing_since == NOW
    assert after_attempt(failing, NOW + timedelta(hours=1), succeeded=False, gone=False) == failing
    assert after_attempt(failing, NOW + timedelta(days=9), succeeded=True, gone=False) == an_endpoint()


def test_an_endpoint_that_is_gone_is_disabled_at_once_and_only_by_the_first_answer():
    gone = after_attempt(an_endpoint(), NOW, succeeded=False, gone=True)
    assert gone.disabled_reason == "its receiver answered 410 Gone"
    assert after_attempt(gone, NOW + timedelta(days=9), succeeded=False, gone=False) == gone
