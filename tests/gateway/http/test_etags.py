"""Conditional requests: a version that the client has is not sent again, and an outdated version is not changed."""

import re

import pytest
from bson import ObjectId

from tests.gateway.routes.test_orders import step

# What may stand around the right tag in If-None-Match so that it still is the right one.
KNOWN = ["{tag}", "W/{tag}", ' {tag} , "x"', '"x",{tag}', '"x", W/{tag}', ',, "x" ,{tag},', "*", " * ", '"a,b", {tag}']
UNKNOWN = ['"x"', "W/{other}", '"x", "y"', "{other}", '""', '"a,b"']
MALFORMED = [
    "",
    " ",
    ",",
    "{bare}",
    "'{bare}'",
    '"x',
    'x"',
    "{tag} {tag}",
    "*, {tag}",
    "{tag}, *",
    "w/{tag}",
    "W/ {tag}",
    "**",
]

PATTERNED = [
    ("/orders", "put"),
    ("/orders/one/{orderId}", "get"),
    ("/orders/one/{orderId}/refunds", "post"),
    ("/orders/one/{orderId}/capture", "post"),
    ("/orders/status/{orderId}", "get"),
]


def tags(order_id, version=1):
    return {
        "tag": f'"{order_id}-{version}"',
        "bare": f"{order_id}-{version}",
        "other": f'"{order_id}-{version + 1}"',
    }


@pytest.mark.parametrize("header", KNOWN)
def test_what_the_client_has_is_not_sent_again(http, place, header):
    order_id = place(http)
    for address in (f"/orders/one/{order_id}", f"/orders/status/{order_id}"):
        answer = http.get(address, headers={"If-None-Match": header.format(**tags(order_id))})
        assert (answer.status_code, answer.data) == (304, b"")
        assert answer.headers["ETag"] == f'"{order_id}-1"'
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Content-Type" not in answer.headers


@pytest.mark.parametrize("header", UNKNOWN)
def test_what_the_client_does_not_have_is_sent(http, place, header):
    order_id = place(http)
    for address in (f"/orders/one/{order_id}", f"/orders/status/{order_id}"):
        answer = http.get(address, headers={"If-None-Match": header.format(**tags(order_id))})
        assert (answer.status_code, answer.json["ok"]) == (200, True)


def test_an_order_that_changed_is_sent_with_its_new_tag(http, place):
    order_id = place(http)
    step(http, order_id, "Cancelled")
    answer = http.get(f"/orders/one/{order_id}", headers={"If-None-Match": f'"{order_id}-1"'})
    assert (answer.status_code, answer.headers["ETag"]) == (200, f'"{order_id}-2"')


@pytest.mark.parametrize("header", MALFORMED)
def test_a_condition_that_cannot_be_read_is_refused(http, place, orders, refused, header):
    order_id = place(http)
    given = header.format(**tags(order_id))
    refused(http.get(f"/orders/one/{order_id}", headers={"If-None-Match": given}), 400, "malformed_condition")
    answer = http.put("/orders", json={"orderId": order_id, "orderStatus": "Cancelled"}, headers={"If-Match": given})
    refused(answer, 400, "malformed_condition")
    refunds = http.post(f"/orders/one/{order_id}/refunds", json={}, headers={"If-Match": given})
    refused(refunds, 400, "malformed_condition")
    assert orders.find_one({"_id": ObjectId(order_id)})["version"] == 1


@pytest.mark.parametrize("header", ["{tag}", "*", '"x", {tag}', "{other}, {tag}"])
def test_a_change_happens_at_the_expected_version(http, place, header):
    order_id = place(http)
    answer = step_if(http, order_id, header.format(**tags(order_id)))
    assert (answer.status_code, answer.headers["ETag"]) == (200, f'"{order_id}-2"')


@pytest.mark.parametrize("header", ["{other}", "W/{tag}", '"x"', '"692000000000000000000000-1"', '"{bare}0"', '"-1"'])
def test_no_change_happens_at_another_version(http, place, orders, refused, header):
    order_id = place(http)
    before = orders.find_one({"_id": ObjectId(order_id)})
    answer = step_if(http, order_id, header.format(**tags(order_id)))
    assert refused(answer, 412, "precondition_failed")["version"] == 1
    assert answer.headers["ETag"] == f'"{order_id}-1"'
    assert orders.find_one({"_id": ObjectId(order_id)}) == before


def test_the_version_is_checked_before_the_transition(http, place, refused):
    order_id = place(http)
    refused(step_if(http, order_id, '"x"', "Confirm"), 412, "precondition_failed")
    refused(step_if(http, order_id, "*", "Confirm"), 409, "illegal_transition")
    step(http, order_id, "Cancelled")
    refused(step_if(http, order_id, f'"{order_id}-1"'), 412, "precondition_failed")
    assert step_if(http, order_id, f'"{order_id}-2"').status_code == 200


def test_what_is_not_there_is_not_there_whatever_is_expected(http, refused):
    for header in ("*", '"x"'):
        refused(step_if(http, "692000000000000000000000", header), 404, "order_not_found")
        answer = http.get("/orders/one/692000000000000000000000", headers={"If-None-Match": header})
        refused(answer, 404, "order_not_found")


def test_a_refund_is_made_only_of_the_order_as_expected_and_repeated_all_the_same(http, captured, refused):
    address = f"/orders/one/{captured}/refunds"
    stale = http.post(address, json={"amount": "RM 1"}, headers={"If-Match": f'"{captured}-2"'})
    refused(stale, 412, "precondition_failed")
    headers = {"If-Match": f'"{captured}-1"', "Idempotency-Key": "k"}
    first = http.post(address, json={"amount": "RM 1"}, headers=headers)
    again = http.post(address, json={"amount": "RM 1"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert (first.json, again.headers["Idempotent-Replayed"]) == (again.json, "true")
    refused(
        http.post(address, json={"amount": "RM 1"}, headers={**headers, "Idempotency-Key": "k2"}),
        412,
        "precondition_failed",
    )


def test_of_two_changes_of_one_version_one_fails(http, captured):
    answers = [step_if(http, captured, f'"{captured}-1"', text).status_code for text in ("Confirm", "Cancelled")]
    assert answers == [200, 412]


def step_if(client, order_id, header, order_status="Cancelled"):
    body = {"orderId": order_id, "orderStatus": order_status}
    return client.put("/orders", json=body, headers={"If-Match": header})


@pytest.mark.parametrize(
    "header", [*UNKNOWN, '"x", "y",W/"z"', "*", "0", "x", *(each for each in MALFORMED if each.strip())]
)
def test_the_documented_pattern_takes_what_the_server_does(http, header):
    paths = http.get("/api-json").json["paths"]
    operations = [paths[path][method] for path, method in PATTERNED]
    [pattern] = {
        each["schema"]["pattern"] for one in operations for each in one["parameters"] if each["name"].startswith("If-")
    }
    given = header.format(**tags("692000000000000000000000"))
    wanted = {"orderId": "692000000000000000000000", "orderStatus": "Confirm"}
    answer = http.put("/orders", headers={"If-Match": given}, json=wanted)
    assert answer.json["code"] == ("order_not_found" if re.search(pattern, given) else "malformed_condition")
