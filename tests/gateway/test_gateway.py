"""What every answer carries, whatever it says: a request id and the headers of safety."""

import re

import pytest

MADE = re.compile(r"[0-9a-f]{32}\Z")
ORDER_ID = "692000000000000000000000"

ANSWERS = {
    201: lambda client, body: client.post("/orders", json=body),
    200: lambda client, body: client.get("/orders/user-7"),
    400: lambda client, body: client.post("/orders", data="{", content_type="application/json"),
    404: lambda client, body: client.get("/nothing"),
    405: lambda client, body: client.delete("/orders"),
    413: lambda client, body: client.post("/orders", data=" " * 70_000, content_type="application/json"),
    415: lambda client, body: client.post("/orders", data="x"),
    422: lambda client, body: client.post("/orders", json={}),
}
PAGES = ["/api-json", "/healthz", "/readyz", "/api", "/api/assets/swagger-ui.css", "/api/assets/nothing", "/orders//x"]

SANE = ["a", "Z", "0", "a.b_c:d-e", "x" * 64, "4bf92f3577b34da6a3ce929d0e0e4736", "...", "-"]
ODD = {
    "empty": "",
    "a blank": " ",
    "too long": "x" * 65,
    "very long": "x" * 8000,
    "a space within": "a b",
    "a tab": "a\tb",
    "a line feed": "a\nb",
    "a line feed at the end": "a\n",
    "a header of its own": "a\r\nSet-Cookie: x=1",
    "NUL": "a\0",
    "DEL": "a\x7f",
    "Latin-1": "é",
    "UTF-8": "é".encode().decode("latin-1"),
    "Arabic digits": "\u0661".encode().decode("latin-1"),
    "two of them": "a,b",
    "quotes": '"a"',
    "markup": "<script>",
    "a path": "../../etc",
    "braces": "${jndi:ldap}",
    "a percent": "%0a",
}


def sends(client, path, request_id, **more):
    """As a server hands a header over, so that even what no server should let pass can be tried."""
    return client.get(path, environ_overrides={"HTTP_X_REQUEST_ID": request_id}, **more)


@pytest.fixture(params=[*ANSWERS, *PAGES, "OPTIONS"], ids=str)
def answer(request, http, new_order):
    if request.param in ANSWERS:
        made = ANSWERS[request.param](http, new_order())
        assert made.status_code == request.param
    else:
        made = http.options("/orders") if request.param == "OPTIONS" else http.get(request.param)
    with made:
        yield made


def test_every_answer_forbids_sniffing_framing_and_scripts_of_strangers(answer):
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["Cache-Control"]
    assert MADE.match(answer.headers["X-Request-Id"])
    assert "Set-Cookie" not in answer.headers
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_responses_with_orders_are_never_cached(http, place):
    order_id = place(http)
    for address in (f"/orders/one/{order_id}", f"/orders/status/{order_id}", "/orders/user-7", "/orders/one/nothing"):
        assert http.get(address).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("request_id", SANE)
def test_a_valid_request_id_is_kept(http, refused, request_id):
    assert sends(http, "/healthz", request_id).headers["X-Request-Id"] == request_id
    assert refused(sends(http, "/nothing", request_id), 404, "not_found")["requestId"] == request_id


@pytest.mark.parametrize("request_id", ODD.values(), ids=ODD)
def test_an_invalid_request_id_is_replaced(http, refused, request_id):
    assert MADE.match(sends(http, "/healthz", request_id).headers["X-Request-Id"])
    assert MADE.match(refused(sends(http, "/nothing", request_id), 404, "not_found")["requestId"])


def test_a_request_without_an_id_gets_one_of_its_own(http):
    assert http.get("/healthz").headers["X-Request-Id"] != http.get("/healthz").headers["X-Request-Id"]


@pytest.mark.parametrize("code", [400, 404, 405, 413, 415, 422])
def test_every_problem_names_the_request(http, refused, new_order, code):
    answer = ANSWERS[code](http, new_order())
    assert refused(answer, code, answer.json["code"])["requestId"] == answer.headers["X-Request-Id"]


def test_the_request_id_goes_with_the_order(http, orders, new_order):
    http.post("/orders", json=new_order(), headers={"X-Request-Id": "from-the-shop:7"})
    assert orders.find_one({"requestId": "from-the-shop:7"})["outbox"][0]["request_id"] == "from-the-shop:7"
