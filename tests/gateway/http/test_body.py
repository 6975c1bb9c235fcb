"""Bodies of requests: read strictly, or refused with nothing stored."""

import json
from io import BytesIO

import pytest

GOOD = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
GOOD_TEXT = json.dumps(GOOD)
LARGEST = 64 * 1024

# Every route that takes a body.
ONE = "/orders/one/692000000000000000000000"
ROUTES = [("POST", "/orders"), ("PUT", "/orders"), ("POST", f"{ONE}/refunds"), ("POST", f"{ONE}/capture")]
every_route = pytest.mark.parametrize(("method", "address"), ROUTES, ids=lambda part: part.strip("/"))
untouched = pytest.mark.usefixtures("nothing_stored")

MALFORMED = {
    "nothing": b"",
    "blanks": b" \r\n\t ",
    "half an object": GOOD_TEXT[:-1].encode(),
    "half a string": b'{"userId": "us',
    "two objects": f"{GOOD_TEXT}{GOOD_TEXT}".encode(),
    "garbage behind": f"{GOOD_TEXT} x".encode(),
    "NUL behind": f"{GOOD_TEXT}\0".encode(),
    "garbage before": f"x{GOOD_TEXT}".encode(),
    "a comma too many": f"{GOOD_TEXT[:-1]},}}".encode(),
    "single quotes": GOOD_TEXT.replace('"', "'").encode(),
    "a comment": f"{GOOD_TEXT} // yes".encode(),
    "a line break in a string": GOOD_TEXT.replace("Espresso machine", "Espresso\nmachine").encode(),
    "a bad escape": GOOD_TEXT.replace("Espresso", "\\xEspresso").encode(),
    "Latin-1": GOOD_TEXT.replace("Espresso", "Café").encode("latin-1"),
    "an overlong NUL": GOOD_TEXT.encode().replace(b"user-7", b"user\xc0\x80"),
    "a surrogate in UTF-8": GOOD_TEXT.encode().replace(b"user-7", b"user\xed\xa0\x80"),
    "a cut-off character": GOOD_TEXT.encode() + b"\xe2\x82",
    "UTF-8 with a mark": GOOD_TEXT.encode("utf-8-sig"),
    "UTF-16": GOOD_TEXT.encode("utf-16"),
    "UTF-16 without a mark": GOOD_TEXT.encode("utf-16-le"),
    "UTF-32": GOOD_TEXT.encode("utf-32"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00",
    "a list": f"[{GOOD_TEXT}]".encode(),
    "an empty list": b"[]",
    "null": b"null",
    "true": b"true",
    "a string": json.dumps(GOOD_TEXT).encode(),
    "a number": b"7",
    "a list of pairs": b'[["userId", "user-7"]]',
    "NaN alone": b"NaN",
    "NaN": f'{GOOD_TEXT[:-1]}, "x": NaN}}'.encode(),
    "Infinity": f'{GOOD_TEXT[:-1]}, "x": Infinity}}'.encode(),
    "-Infinity": f'{GOOD_TEXT[:-1]}, "x": [-Infinity]}}'.encode(),
    "a number with a leading zero": f'{GOOD_TEXT[:-1]}, "x": 01}}'.encode(),
    "a hexadecimal number": f'{GOOD_TEXT[:-1]}, "x": 0x1}}'.encode(),
    "a member twice": f'{GOOD_TEXT[:-1]}, "userId": "thief"}}'.encode(),
    "a member twice, alike": f'{GOOD_TEXT[:-1]}, "userId": "user-7"}}'.encode(),
    "a member twice, escaped": f'{GOOD_TEXT[:-1]}, "user\\u0049d": "thief"}}'.encode(),
    "an unknown member twice": f'{GOOD_TEXT[:-1]}, "x": 1, "x": 2}}'.encode(),
    "a nested member twice": f'{GOOD_TEXT[:-1]}, "x": [{{"y": {{"z": 1, "z": 2}}}}]}}'.encode(),
    "money with a member twice": GOOD_TEXT.replace(
        '"RM 99"', '{"value": 9900, "currency": "MYR", "value": 1}'
    ).encode(),
    "lists 65,000 deep": b"[" * 65_000,
    "lists 32,000 deep, all closed": b"[" * 32_000 + b"]" * 32_000,
    "objects 13,000 deep": b'{"a":' * 13_000,
    "a member 30,000 deep": f'{GOOD_TEXT[:-1]}, "x": {"[" * 30_000}{"]" * 30_000}}}'.encode(),
    "4,301 digits": b'{"x": %s}' % (b"1" * 4301),
    "60,000 digits": b"-" + b"9" * 60_000,
}
WRONG_TYPES = [
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
    "application/problem+json",
    "application/merge-patch+json",
    "application/json; charset=latin-1",
    "application/json; charset=utf-16",
    "application/json; charset=utf-7",
    'application/json; charset=""',
    "text/plain; application/json",
]


def send(client, route, data, kind="application/json", **more):
    method, address = route
    return client.open(address, method=method, data=data, content_type=kind, **more)


def chunked(client, route, data):
    """As a server hands a chunked body over: no length, an end of its own."""
    ended = {"wsgi.input_terminated": True}
    return send(client, route, data, headers={"Transfer-Encoding": "chunked"}, environ_overrides=ended)


@untouched
@every_route
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_one_json_object_in_utf_8_is_refused(http, refused, method, address, data):
    refused(send(http, (method, address), data), 400, "malformed_body")


@untouched
@every_route
@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_another_type_or_charset_is_refused(http, refused, method, address, kind):
    refused(send(http, (method, address), GOOD_TEXT, kind), 415, "unsupported_media_type")


@untouched
@every_route
def test_a_body_without_a_type_is_refused(http, refused, method, address):
    refused(http.open(address, method=method, data=GOOD_TEXT), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON", "application/json;charset=utf-8", 'application/json; charset="UTF-8"'],
)
def test_json_in_utf_8_is_read_however_its_type_is_spelt(http, kind):
    assert send(http, ROUTES[0], GOOD_TEXT, kind).status_code == 201


def test_text_comes_back_as_it_was_sent(http):
    name = 'é 用 🦀 "quoted" \\ / \u00a0 \u200d <b> $x {y}'
    for text in (
        json.dumps({**GOOD, "productName": name}),
        json.dumps({**GOOD, "productName": name}, ensure_ascii=False),
    ):
        location = send(http, ROUTES[0], text.encode()).headers["Location"]
        assert http.get(location).json["order"]["productName"] == name


@pytest.mark.parametrize("way", [send, chunked])
def test_a_body_of_exactly_64_kib_is_accepted(http, way):
    assert way(http, ROUTES[0], GOOD_TEXT.encode().ljust(LARGEST)).status_code == 201


@untouched
@every_route
@pytest.mark.parametrize("way", [send, chunked])
@pytest.mark.parametrize("size", [LARGEST + 1, 100_000, 1_000_000])
def test_a_longer_body_is_refused_and_not_cut(http, refused, method, address, way, size):
    refused(way(http, (method, address), GOOD_TEXT.encode().ljust(size)), 413, "body_too_large")


@untouched
@every_route
def test_a_longer_body_is_refused_by_its_length_alone(http, refused, method, address):
    answer = send(http, (method, address), b"", environ_overrides={"CONTENT_LENGTH": "65537"})
    refused(answer, 413, "body_too_large")


@untouched
@every_route
def test_lists_100_000_deep_are_refused(http, refused, method, address):
    refused(send(http, (method, address), b"[" * 100_000), 413, "body_too_large")


@untouched
def test_a_body_that_breaks_off_is_refused_although_what_came_of_it_is_whole(http, refused):
    ended = {"CONTENT_LENGTH": "1000", "wsgi.input_terminated": True}
    refused(send(http, ROUTES[0], GOOD_TEXT, environ_overrides=ended), 400, "malformed_body")


@untouched
@pytest.mark.parametrize("error", [RuntimeError, OSError, ValueError, EOFError])
def test_a_body_that_the_server_cannot_read_is_the_clients_fault(http, refused, error):
    class Garbled(BytesIO):
        """What a server makes of a chunk whose size is no number."""

        def read(self, *_):
            raise error("Invalid chunk size: b'zz'")

        readinto = read

    answer = send(
        http,
        ROUTES[0],
        b"",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input": Garbled(), "wsgi.input_terminated": True},
    )
    assert answer.status_code == 400
    refused(answer, 400, answer.json["code"])
    assert "zz" not in answer.text


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-400", "9" * 4300, str(2**63), "-0", "1.5"])
def test_a_number_in_a_member_that_is_ignored_is_any_json_number(http, number):
    body = f'{GOOD_TEXT[:-1]}, "x": {number}}}'
    assert send(http, ("POST", "/orders?strict=false"), body).status_code == 201


@untouched
@pytest.mark.parametrize("number", ["1e400", "9.9e2", "9900.0", "1" * 4300, str(2**63), str(2**64), "-1", "0", "-0"])
def test_a_number_that_is_no_amount_of_minor_units_is_refused(http, pointers, number):
    text = GOOD_TEXT.replace('"RM 99"', f'{{"value": {number}, "currency": "MYR"}}')
    assert pointers(send(http, ROUTES[0], text)) == ["/totalOrderAmount"]
