"""Refusals and failures as problems: each with its own status, and nothing of the inside in any of them."""

import pytest
from flask import Flask, abort

from app import gateway
from app.config import Settings
from app.contracts.base import ApplicationError, NotFound, Unavailable, concrete_subclasses
from app.contracts.orders import CheckOrderStatus, CreateOrder, FindOrder, ListOrders, StaleVersion, UpdateOrder
from app.gateway.http import problems
from app.gateway.http.money import MoneyError
from app.gateway.http.problem_catalogue import PROBLEMS
from app.messaging.signal_bus import SignalBus

SECRET = "mongodb://admin:hunter2@db.internal/?authSource=admin"
ORDER_ID = "692000000000000000000000"
NEW = {"userId": "user-7", "productId": "1", "productName": "Espresso machine", "totalOrderAmount": "RM 99"}
STEP = {"orderId": ORDER_ID, "orderStatus": "Cancelled"}
ASKS = {
    CreateOrder: lambda client: client.post("/orders", json=NEW),
    UpdateOrder: lambda client: client.put("/orders", json=STEP),
    FindOrder: lambda client: client.get(f"/orders/one/{ORDER_ID}"),
    CheckOrderStatus: lambda client: client.get(f"/orders/status/{ORDER_ID}"),
    ListOrders: lambda client: client.get("/orders/user-7"),
}
every_ask = pytest.mark.parametrize("request_type", ASKS, ids=lambda request_type: request_type.__name__)


class Wicked(Exception):
    """Cannot even be shown."""

    def __str__(self):
        raise RuntimeError(SECRET)

    __repr__ = __str__


VERSION = {"order_id": "an-order", "version": 3}


def gateway_on(bus, *views):
    app = Flask(__name__, static_folder=None)
    gateway.install(app, bus, lambda: None, Settings(), lambda *_: (), bytes)
    for view in views:
        app.add_url_rule("/view", view_func=view)
    return app.test_client()


def raising(error):
    def handle(*_):
        raise error

    return handle


def with_handler(request_type, handler):
    bus = SignalBus()
    bus.register_handler(request_type, handler)
    return gateway_on(bus)


@every_ask
def test_a_request_without_a_handler_is_503(refused, request_type):
    answer = ASKS[request_type](gateway_on(SignalBus()))
    refused(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


@every_ask
@pytest.mark.parametrize(
    "error", [RuntimeError(SECRET), KeyError("outbox"), MoneyError(SECRET), RecursionError(SECRET)]
)
def test_a_handler_that_fails_is_503_and_says_nothing_of_why(refused, request_type, error):
    answer = ASKS[request_type](with_handler(request_type, raising(error)))
    refused(answer, 503, "unavailable")
    assert "hunter2" not in answer.text
    assert "outbox" not in answer.text
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("seconds", [1, 30])
def test_retry_after_is_in_the_header_only(refused, seconds):
    handler = raising(Unavailable("not now", retry_after=seconds))
    answer = ASKS[FindOrder](with_handler(FindOrder, handler))
    body = refused(answer, 503, "unavailable")
    assert answer.headers["Retry-After"] == str(seconds)
    assert body["detail"] == "not now"
    assert "retry_after" not in body


@pytest.mark.parametrize("kind", list(concrete_subclasses(ApplicationError)), ids=lambda kind: kind.__name__)
def test_every_refusal_of_the_contracts_has_a_problem_of_its_own(refused, kind):
    answer = ASKS[FindOrder](with_handler(FindOrder, raising(kind("no, sorry", remaining=7, to="x", **VERSION))))
    body = refused(answer, PROBLEMS[kind.code].status, kind.code)
    assert (body["detail"], body["remaining"], body["to"]) == ("no, sorry", 7, "x")
    assert 400 <= answer.status_code <= 503
    assert ("Retry-After" in answer.headers) == (answer.status_code in (429, 503))
    assert answer.headers.get("ETag") == ('"an-order-3"' if kind is StaleVersion else None)


def test_codes_and_titles_of_problems_are_all_different():
    assert len({kind.title for kind in PROBLEMS.values()}) == len(PROBLEMS)
    assert all(code.replace("_", "").isalpha() and code.islower() for code in PROBLEMS)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(SECRET),
        KeyError(SECRET),
        ZeroDivisionError(),
        RecursionError(),
        MemoryError(),
        Wicked(),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_view_that_fails_is_500_and_says_nothing_of_why(refused, error):
    answer = gateway_on(SignalBus(), raising(error)).get("/view")
    refused(answer, 500, "internal_error")
    assert "hunter2" not in answer.text


def test_a_view_that_fails_is_500_even_while_debugging(refused):
    client = gateway_on(SignalBus(), raising(RuntimeError(SECRET)))
    client.application.debug = client.application.testing = True
    answer = client.get("/view")
    refused(answer, 500, "internal_error")
    assert "hunter2" not in answer.text


def test_the_log_has_the_details_of_an_internal_error(monkeypatch):
    lines, error = [], RuntimeError(SECRET)
    monkeypatch.setattr(problems.log, "error", lambda event, **members: lines.append(members), raising=False)
    gateway_on(SignalBus(), raising(error)).get("/view", headers={"X-Request-Id": "find-me"})
    assert lines == [{"exc_info": error, "request_id": "find-me"}]


@pytest.mark.parametrize("status", [400, 401, 403, 406, 408, 409, 410, 416, 418, 429])
def test_what_flask_itself_refuses_is_a_problem_too(refused, status):
    answer = gateway_on(SignalBus(), lambda: abort(status)).get("/view")
    assert 400 <= answer.status_code < 500
    refused(answer, answer.status_code, answer.json["code"])


@pytest.mark.parametrize("status", [500, 501, 502, 504])
def test_what_flask_itself_fails_at_is_a_problem_too(refused, status):
    refused(gateway_on(SignalBus(), lambda: abort(status)).get("/view"), 500, "internal_error")


def test_one_failure_leaves_the_next_request_alone(refused):
    bus, failures = SignalBus(), [RuntimeError(SECRET), NotFound("there is no order with this id")]
    bus.register_handler(FindOrder, lambda _: raising(failures.pop(0))())
    client = gateway_on(bus)
    refused(ASKS[FindOrder](client), 503, "unavailable")
    refused(ASKS[FindOrder](client), 404, "order_not_found")
