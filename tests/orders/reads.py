"""The reads of orders, called with plain values."""

from app.contracts.orders import (
    AwaitTimeline,
    CheckOrderStatus,
    FindOrder,
    FindOrders,
    FindRefund,
    ListAllOrders,
    ListOrders,
    ListRefunds,
    OrderList,
    OrderPage,
    OrderStatusView,
    OrderView,
    RefundList,
    RefundView,
    Timeline,
    UpdateOrder,
)
from app.messaging.outbox import Outbox
from app.orders.documents import CHANGES, OrderDiagnostics
from app.orders.notifier import OrderChangeNotifier
from app.orders.queries import OrderQueries
from app.storage.mongodb import Store


class Reads:
    """Sends each read to OrderQueries as the request that it is."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self.notifier = OrderChangeNotifier(store)
        self.queries = OrderQueries(store, outbox, Outbox(store, 10.0, fields=CHANGES), self.notifier, 10.0, 100)

    def view(self, order_id: str, user_id: str, with_next_action: bool = False) -> OrderView:
        request = FindOrder(request_id="r", order_id=order_id, on_behalf_of=user_id, with_next_action=with_next_action)
        return self.queries.find_order(request)

    def refunds(self, order_id: str, user_id: str) -> RefundList:
        return self.queries.list_refunds(ListRefunds(request_id="r", order_id=order_id, on_behalf_of=user_id))

    def refund(self, order_id: str, user_id: str, refund_id: str) -> RefundView:
        request = FindRefund(request_id="r", order_id=order_id, on_behalf_of=user_id, refund_id=refund_id)
        return self.queries.find_refund(request)

    def status(self, order_id: str, user_id: str) -> OrderStatusView:
        return self.queries.check_status(CheckOrderStatus(request_id="r", order_id=order_id, on_behalf_of=user_id))

    def timeline(self, order_id: str, user_id: str, after: int) -> Timeline:
        request = AwaitTimeline(request_id="r", order_id=order_id, on_behalf_of=user_id, after=after, wait_ms=0)
        return self.queries.await_timeline(request)

    def list_by_user(self, user_id: str, limit: int, status="", before_at="", before_id="", **more) -> OrderList:
        position = {"before_at": before_at, "before_id": before_id}
        request = ListOrders(request_id="r", user_id=user_id, limit=limit, order_status=status, **position, **more)
        return self.queries.list_by_user(request)

    def list_all(self, limit: int, status="", before_id="", **more) -> OrderPage:
        request = ListAllOrders(request_id="r", limit=limit, order_status=status, before_id=before_id, **more)
        return self.queries.list_all(request)

    def find_many(self, order_ids) -> OrderList:
        return self.queries.find_many(FindOrders(request_id="r", order_ids=tuple(order_ids)))

    def diagnose(self, order_id: str, user_id: str) -> OrderDiagnostics:
        return self.queries.diagnose(order_id, user_id)


def an_update(order_id: str, on_behalf_of: str = "") -> UpdateOrder:
    """A request to change an order, whose status its test decides."""
    return UpdateOrder(
        request_id="request-1", order_id=order_id, on_behalf_of=on_behalf_of, expected_versions=(), order_status=""
    )
