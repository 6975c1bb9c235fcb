"""What is done to an order later is logged by the same stages as placing it, under its request's own id."""

import itertools

import pytest

from app.gateway.routes import latency
from app.observability import stages
from app.observability.stages import Stage

REQUESTED = [Stage.GATEWAY_RECEIVED, Stage.ORDERS_RECEIVED]
PAID_FOR = [
    *(Stage.HANDED_TO_PAYMENTS, Stage.PAYMENTS_RECEIVED, Stage.PAYMENT_PROCESSED, Stage.HANDED_TO_ORDERS),
    *(Stage.RESULT_RECEIVED, Stage.ORDER_UPDATED),
]
UNKNOWN = "692000000000000000000000"


@pytest.fixture
def logged():
    """The lines of every stage, in their order, each with its stage."""
    lines = []
    listener = lambda stage, _, told: lines.extend({"stage": stage, **line} for line in told)  # noqa: E731
    stages.subscribe(listener)
    yield lines
    stages.unsubscribe(listener)


@pytest.fixture
def paid(live, place, eventually):
    order_id = place(live)
    eventually(lambda: live.get(f"/orders/one/{order_id}").json["order"]["paymentStatus"] == "Captured")
    return order_id


@pytest.fixture
def ask(live, logged):
    """Ask for something under an id of its own; the answer, and how to tell which stages the request has had."""
    numbers = itertools.count()

    def send(method, address, body, **headers):
        name = f"asked-{next(numbers)}"
        answer = live.open(address, method=method, json=body, headers={"X-Request-Id": name, **headers})
        # What is delivered twice is logged twice.
        return answer, lambda: [*dict.fromkeys(line["stage"] for line in logged if line["request_id"] == name)]

    return send


def update_status(ask, order_id, status):
    return ask("PUT", "/orders", {"orderId": order_id, "orderStatus": status})


def refund(ask, order_id, body, **headers):
    return ask("POST", f"/orders/one/{order_id}/refunds", body, **headers)


def test_an_update_without_money_ends_with_the_order_updated(ask, paid, logged):
    answer, stages = update_status(ask, paid, "Confirm")
    assert (answer.status_code, stages()) == (200, [*REQUESTED, Stage.ORDER_UPDATED])
    # The stage of the payment may still be logged after this one.
    [line] = [line for line in logged if line.get("order_status") == "Confirm"]
    assert (line["module"], line["order_id"], line["order_status"]) == ("orders", paid, "Confirm")
    assert line["took_ms"] >= 0


@pytest.mark.parametrize(
    "change", [lambda ask, order_id: refund(ask, order_id, {"amount": "RM 10"}), lambda ask, order_id: update_status(ask, order_id, "Cancelled")],
    ids=["a refund", "a cancellation"],
)  # fmt: skip
def test_what_moves_money_goes_through_all_stages(ask, paid, logged, eventually, change):
    """From the provider on it is logged under the request that placed the order, and all of it under the order."""
    eventually(lambda: [line for line in logged if line["order_id"] == paid and line["stage"] == Stage.ORDER_UPDATED])
    before = len(logged)
    answer, stages = change(ask, paid)
    assert answer.status_code in {200, 201}
    wanted = {*REQUESTED, Stage.ORDER_UPDATED, *PAID_FOR}
    eventually(lambda: {line["stage"] for line in logged[before:] if line["order_id"] == paid} == wanted)
    # The relay may be quicker than the log of the update.
    asked = [*REQUESTED, Stage.ORDER_UPDATED]
    assert [stage for stage in stages() if stage in asked] == asked


def test_what_changes_nothing_is_received_and_no_more(ask, paid):
    assert update_status(ask, paid, "Success")[1]() == REQUESTED
    answer, stages = update_status(ask, paid, "Processing")
    assert (answer.status_code, stages()) == (409, REQUESTED)
    answer, stages = refund(ask, paid, {"amount": "RM 999"})
    assert (answer.status_code, stages()) == (409, REQUESTED)
    refund(ask, paid, {"amount": "RM 1"}, **{"Idempotency-Key": "k"})
    answer, stages = refund(ask, paid, {"amount": "RM 1"}, **{"Idempotency-Key": "k"})
    assert (answer.headers["Idempotent-Replayed"], stages()) == ("true", REQUESTED)


def test_a_request_that_no_module_accepts_has_no_later_stage(ask, paid):
    assert update_status(ask, UNKNOWN, "Confirm")[1]() == [Stage.GATEWAY_RECEIVED]
    assert update_status(ask, "no id", "Confirm")[1]() == []
    assert refund(ask, "no-id", {})[1]() == []
    assert refund(ask, paid, {"amout": 1})[1]() == []


def test_an_order_is_not_shown_what_strangers_tried_with_it():
    own = [{"module": module, "request_id": "own", "stage": "x"} for module in ("gateway", "orders")]
    tried = {"module": "gateway", "request_id": "theirs", "stage": "x"}
    assert latency._of_accepted_requests([tried, *own, tried]) == own
