"""Money that operators give back by other means than the provider."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.collection import Collection

from app.payments.payment import RefundStatus
from app.storage.mongodb import Document
from tools.auditor.history import REFUND, Movement


class PayOuts:
    """Which orders' money operators give back by other means, and what they have paid.

    An operator records the resolution first, and pays what was recorded, once. A resolution that was refused is not paid. After
    one that got no answer an operator looks later whether it was recorded. Nobody refunds such an order in the provider's
    dashboard at the same time. `payments` is the collection, `book` hears of each payment that was made.
    """

    def __init__(self, payments: Collection[Any], book: Callable[[Movement], object]) -> None:
        self._payments = payments
        self._book = book
        self._begun: dict[str, None] = {}
        self._elsewhere: set[str] = set()
        self._paid: set[str] = set()

    def begin(self, order_id: str) -> bool:
        """An operator is about to record that an order's money goes back; false while it is refunded in the dashboard."""
        if order_id in self._elsewhere:
            return False
        self._begun[order_id] = None
        return True

    @contextmanager
    def refunding_elsewhere(self, order_id: str) -> Iterator[bool]:
        """While somebody refunds an order in the dashboard; yields false where operators give its money back."""
        if order_id in self._begun:
            yield False
            return
        self._elsewhere.add(order_id)
        try:
            yield True
        finally:
            self._elsewhere.discard(order_id)

    def pay_recorded(self) -> None:
        """Pay what was recorded and is not paid yet."""
        for order_id in self._begun:
            payment = self._payments.find_one({"_id": order_id}) or {"refunds": ()}
            for refund in payment["refunds"]:
                if refund.get("by_other_means") and refund["status"] == RefundStatus.DONE:
                    self._pay(payment, refund)

    def _pay(self, payment: Document, refund: Document) -> None:
        key = f"{payment['_id']}:{payment['generation']}:refund:{refund['refund_id']}"
        if key not in self._paid:
            self._paid.add(key)
            self._book(Movement(order_id=payment["_id"], kind=REFUND, value=refund["value"], key=key))
