"""Text that looks like other text: characters that are not seen, or turn the direction of writing, are refused."""

import pytest
from bson import ObjectId

from app.gateway.http.visible_text import has_invisible

HIDDEN = {
    "zero-width space": "a\u200bb",
    "at the end": "Cancelled\u200b",
    "word joiner": "a\u2060b",
    "byte order mark": "\ufeffa",
    "right-to-left override": "\u202eSuccess",
    "left-to-right embedding": "a\u202ab",
    "isolate": "a\u2066b\u2069",
    "right-to-left mark": "a\u200fb",
    "Arabic letter mark": "a\u061cb",
    "invisible times": "a\u2062b",
    "tag": "a\U000e0041b",
    "combining grapheme joiner": "a\u034fb",
    "Hangul filler": "a\u3164b",
    "half-width Hangul filler": "a\uffa0b",
    "blank Braille": "a\u2800b",
    "Mongolian vowel separator": "a\u180eb",
}
# What names are written with, and nothing else needs.
JOINED = {
    "Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Malayalam": "\u0d28\u0d4d\u200d",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a soft hyphen": "Espresso\u00admaschine",
    "a keycap": "1\ufe0f\u20e3",
}
PLAIN = [
    "Espresso machine",
    "Müller",
    "北京",
    "क्षत्रिय",
    "עברית",
    "العربية",
    "❤\ufe0f",
    "☕",
    "e\u0301",
    "ﬁ",
    "（東京）",
]


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_what_is_not_seen_is_found(text):
    assert has_invisible(text)
    assert has_invisible(text, joiners=True)


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED)
def test_what_scripts_and_emoji_need_is_let_pass_where_names_stand(text):
    assert has_invisible(text)
    assert not has_invisible(text, joiners=True)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_seen_is_let_pass(text):
    assert not has_invisible(text)
    assert not has_invisible(text, joiners=True)


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("member", ["userId", "productId", "productName"])
@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
def test_no_order_is_placed_with_it(http, new_order, pointers, member, text):
    assert pointers(http.post("/orders", json=new_order(**{member: text}))) == [f"/{member}"]


@pytest.mark.parametrize("text", [*HIDDEN.values(), *JOINED.values()], ids=[*HIDDEN, *JOINED])
def test_no_order_gets_it_as_its_status(http, captured, orders, pointers, text):
    before = orders.find_one({"_id": ObjectId(captured)})
    answer = http.put("/orders", json={"orderId": captured, "orderStatus": text})
    assert pointers(answer) == ["/orderStatus"]
    assert orders.find_one({"_id": ObjectId(captured)}) == before


@pytest.mark.parametrize("text", ["\uff32\uff45\uff46\uff55\uff4e\uff44\uff45\uff44", "Refunded", "\uff33uccess"])
def test_no_order_gets_a_status_that_reads_like_the_systems(http, captured, orders, refused, text):
    before = orders.find_one({"_id": ObjectId(captured)})
    answer = http.put("/orders", json={"orderId": captured, "orderStatus": text})
    refused(answer, 422, "misleading_status")
    assert orders.find_one({"_id": ObjectId(captured)}) == before


@pytest.mark.parametrize("text", [*JOINED.values(), *PLAIN])
def test_a_product_is_called_what_it_is_called_and_comes_back_so(http, place, text):
    order_id = place(http, productName=text)
    assert http.get(f"/orders/one/{order_id}").json["order"]["productName"] == text
