"""Return URLs: pages of listed origins only, however an address is written."""

from dataclasses import replace
from uuid import uuid4

import pytest
from marshmallow import ValidationError

from app.gateway.http.return_urls import ReturnUrlPolicy
from app.main import create_app, runtime

ORIGINS = frozenset({"https://shop.example:443", "https://pay.shop.example:8443", "http://localhost:3000"})
GOOD = [
    *("https://shop.example", "https://shop.example/", "https://shop.example/paid?order=1&x=%2F#top"),
    *("https://shop.example:443/paid", "HTTPS://SHOP.EXAMPLE/paid", "https://shop.example?x", "https://shop.example#x"),
    *("https://pay.shop.example:8443/a@b", "http://localhost:3000/paid", "https://shop.example/~a/[b]/{c}|d"),
    "https://shop.example//evil.example",
]
BAD = [
    *("http://shop.example/", "https://shop.example:444/", "https://evil.example/", "https://shop.example.evil.example/"),
    *("https://evil.example/https://shop.example", "https://evil.example?https://shop.example", "//shop.example/"),
    *("https://shop.example@evil.example/", "https://me@shop.example/", "https://me:secret@shop.example/", "shop.example"),
    *("https://evil.example\\@shop.example/", "https://shop.example\\.evil.example/", "https:\\\\shop.example/"),
    *("https://shop.example\t.evil.example/", "https://shop.example /", " https://shop.example/", "https://shop.example/\n"),
    *("javascript:alert(1)//https://shop.example", "data:text/html,x", "ftp://shop.example/", "https:shop.example"),
    *("https://shop\u3002example/", "https://\uff53hop.example/", "https://shop.example\u2215evil.example/", "https://"),
    *("https://shop.example:/", "https://shop.example:99999999/", "https://shop.example./", "https://-shop.example/"),
    *("https://shop.example/\u00e9", "http://localhost/", "http://localhost:3001/", "http://127.0.0.1:3000/"),
    *("http://localhost:3000.evil.example/", "https://%73hop.example/", "https://[::1]/", "https://[shop.example]/"),
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_a_page_of_a_listed_origin_is_accepted(url):
    ReturnUrlPolicy(ORIGINS).check(url)


@pytest.mark.parametrize("url", BAD, ids=ascii)
def test_any_other_page_is_refused(url):
    with pytest.raises(ValidationError) as refusal:
        ReturnUrlPolicy(ORIGINS).check(url)
    assert refusal.value.messages.keys() == {"returnUrl"}


@pytest.fixture(scope="module")
def shop(shared_settings, mongo):
    """HTTP to an application that lists the shop's origins, and its orders."""
    settings = replace(
        shared_settings,
        database=f"test_{uuid4().hex}",
        return_url_origins="https://shop.example, http://localhost:3000",
    )
    app = create_app(settings)
    runtime(app).prepare()
    yield app.test_client(), mongo[settings.database].orders
    runtime(app).stop()
    mongo.drop_database(settings.database)


@pytest.mark.parametrize("url", ["https://shop.example/paid?order=1", "http://localhost:3000/"])
def test_the_page_is_stored_with_the_order_as_it_was_written(shop, new_order, url):
    http, orders = shop
    answer = http.post("/orders", json=new_order(returnUrl=url))
    assert answer.status_code == 201, answer.text
    [stored] = orders.find({"returnUrl": url})
    assert str(stored["_id"]) == answer.json["created"]["id"]
    assert stored["outbox"][0]["return_url"] == url


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/",
        "http://shop.example/",
        "",
        "x" * 3000,
        f"https://shop.example/{'x' * 2048}",
        7,
        None,
        [],
    ],
)
def test_another_page_is_pointed_at_and_nothing_stored(shop, new_order, pointers, url):
    http, orders = shop
    before = orders.count_documents({})
    assert pointers(http.post("/orders", json=new_order(returnUrl=url))) == ["/returnUrl"]
    assert orders.count_documents({}) == before


def test_without_a_list_no_page_is_accepted(http, new_order, pointers):
    assert pointers(http.post("/orders", json=new_order(returnUrl="https://shop.example/"))) == ["/returnUrl"]
