"""One address a route: a slash too many at the end is 308 to the plain address, one at the beginning is nothing."""

from urllib.parse import unquote

import pytest

from tests.gateway.routes.test_orders import ADDRESSES

PLAIN = sorted(ADDRESSES.keys() - {"/api", "/api/"})
ORDER = "/orders/one/692000000000000000000000"


@pytest.mark.parametrize("address", PLAIN)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_slash_at_the_end_leads_to_the_plain_address(http, nothing_stored, address, method):
    answer = http.open(f"{address}/", method=method, json={} if method in {"POST", "PUT"} else None)
    assert (answer.status_code, answer.headers["Location"], answer.data) == (308, address, b"")


def test_it_leads_there_and_no_further(http, place):
    order_id = place(http)
    answer = http.get(f"/orders/status/{order_id}/?wait=0", follow_redirects=True)
    assert (answer.status_code, answer.json["orderStatus"], len(answer.history)) == (200, "Processing", 1)


def test_a_body_comes_along(http, new_order):
    answer = http.post("/orders/", json=new_order(), follow_redirects=True)
    assert (answer.status_code, answer.json["ok"]) == (201, True)


@pytest.mark.parametrize(
    "query",
    ["limit=1&status=Success", "cursor=Wy%2Bx%3D%3D&limit=2", "a=%0d%0aSet-Cookie:%20x=1", "x=//evil.example/", "?/#"],
)
def test_the_query_comes_along_as_it_was(http, query):
    answer = http.get(f"/orders/user-7/?{query}")
    assert (answer.status_code, answer.headers["Location"]) == (308, f"/orders/user-7?{query.partition('#')[0]}")


@pytest.mark.parametrize(
    ("address", "location"),
    [
        ("/orders/%0d%0aSet-Cookie: x=1/", "/orders/%0D%0ASet-Cookie%3A%20x%3D1"),
        ("/orders/%5c%5cevil.example/", "/orders/%5C%5Cevil.example"),
        ("/orders/a%3Fb=c/", "/orders/a%3Fb%3Dc"),
        ("/orders/\u00fc/", "/orders/%C3%BC"),
        ("/orders/https:evil.example/", "/orders/https%3Aevil.example"),
    ],
)
def test_it_leads_to_no_other_place(http, address, location):
    answer = http.get(address)
    assert (answer.status_code, answer.headers["Location"]) == (308, location)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    "address",
    [
        *(
            "//orders",
            "//orders/",
            "///orders",
            "//orders/user-7",
            f"/{ORDER}",
            "//healthz",
            "//metrics/",
            "/%2Forders",
        ),
        *("/orders//", "/orders/user-7//", f"{ORDER}//", "//evil.example/", "//evil.example/orders/", "/%2F%2Fevil/"),
        *(
            "/\\evil.example/",
            "/%5Cevil.example/",
            "/orders/user-7%2F",
            "/orders%2F",
            "/nowhere/",
            "/console/",
            "/static/",
        ),
    ],
)
def test_more_slashes_lead_nowhere(http, refused, address):
    refused(http.open(address, environ_overrides=_raw(address)), 404, "not_found")


def _raw(address):
    # The client takes the first part of //a/b for a host; the server does not.
    return {"PATH_INFO": unquote(address), "RAW_URI": address, "HTTP_HOST": "localhost"}


@pytest.mark.parametrize("address", ["/api", "/api/"])
def test_the_page_of_the_interface_answers_at_both_its_addresses(http, address):
    """A browser that cached a permanent redirect from /api to /api/ must not be redirected back."""
    answer = http.get(address)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert 'src="/api/assets/' in answer.text
