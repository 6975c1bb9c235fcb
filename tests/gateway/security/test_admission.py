"""Back-pressure: who is turned away while too much is waiting, and who is not."""

import pytest
from flask import Flask

from app import gateway
from app.config import Settings
from app.contracts.base import Backlog, NotFound
from app.contracts.orders import CheckOrderBacklog, CreateOrder, OrderAccepted, UpdateOrder
from app.contracts.payments import CheckPaymentBacklog
from app.messaging.signal_bus import SignalBus

EMPTY = Backlog(due=0, oldest_ms=0, overloaded=False)
CHECKS = (CheckOrderBacklog, CheckPaymentBacklog)


class Door:
    """A gateway on a bus that replies with these backlogs, and counts the requests for them."""

    def __init__(self, backlogs):
        self.looks, self.accepted, self.backlogs = 0, 0, backlogs
        bus = SignalBus()
        for check in CHECKS:
            bus.register_handler(check, lambda request, check=check: self._tell(check))
        bus.register_handler(CreateOrder, self._accept)
        bus.register_handler(UpdateOrder, self._unknown)
        app = Flask(__name__, static_folder=None)
        gateway.install(app, bus, lambda: None, Settings(), lambda *_: (), bytes)
        self.http = app.test_client()

    def _tell(self, check):
        self.looks += 1
        told = self.backlogs.get(check, EMPTY)
        if isinstance(told, Exception):
            raise told
        return told

    def _accept(self, request):
        self.accepted += 1
        return OrderAccepted(order_id=request.order_id, version=1, replayed=False)

    def _unknown(self, request):
        raise NotFound("there is no order with this id")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("oldest_ms", "seconds"), [(0, 1), (900, 1), (7500, 7), (60_000, 60), (86_400_000, 60)])
def test_a_new_order_is_turned_away_until_the_oldest_may_be_done(refused, new_order, check, oldest_ms, seconds):
    door = Door({check: Backlog(due=10_000, oldest_ms=oldest_ms, overloaded=True)})
    answer = door.http.post("/orders", json=new_order())
    refused(answer, 503, "overloaded")
    assert answer.headers["Retry-After"] == str(seconds)
    assert door.accepted == 0


def test_changes_are_accepted_with_any_backlog(refused):
    door = Door({check: Backlog(due=10_000, oldest_ms=1, overloaded=True) for check in CHECKS})
    refused(door.http.put("/orders", json={"orderId": "x", "orderStatus": "Cancelled"}), 404, "order_not_found")


def test_an_invalid_order_is_rejected_before_the_backlog_is_checked(pointers):
    door = Door({CheckOrderBacklog: Backlog(due=10_000, oldest_ms=1, overloaded=True)})
    pointers(door.http.post("/orders", json={}))


def test_a_hundred_orders_ask_for_the_backlog_at_most_a_few_times(new_order):
    door = Door({})
    for _ in range(100):
        assert door.http.post("/orders", json=new_order()).status_code == 201
    assert 2 <= door.looks < 100
    assert door.accepted == 100


def test_an_order_is_admitted_if_the_backlog_is_unknown(new_order):
    door = Door({check: RuntimeError("no") for check in CHECKS})
    assert door.http.post("/orders", json=new_order()).status_code == 201


def test_the_door_opens_again_when_the_backlog_has_gone(new_order, eventually):
    door = Door({CheckPaymentBacklog: Backlog(due=10_000, oldest_ms=1, overloaded=True)})
    assert door.http.post("/orders", json=new_order()).status_code == 503
    door.backlogs.clear()
    eventually(lambda: door.http.post("/orders", json=new_order()).status_code == 201)
