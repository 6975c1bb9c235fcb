"""Why an order is in its state, put together from what orders and payments each know."""

from typing import Any

from flask import Blueprint, Response, g

from app.contracts.base import Unavailable
from app.contracts.orders import ExplainOrder, OrderExplanation
from app.contracts.payments import ExplainPayment, PaymentExplanation
from app.gateway.apidocs.operation import documented
from app.gateway.http import schemas
from app.gateway.http.responses import json_answer
from app.gateway.security.caller import caller
from app.messaging.bus import RequestClient

SILENT = PaymentExplanation(
    known=False,
    attempts=0,
    next_attempt_at="",
    waits_for="",
    sentence="payments cannot say at the moment where the money is",
)


def add(routes: Blueprint, bus: RequestClient) -> None:
    """Add the explanation to the routes under /orders."""

    @routes.get("/one/<order_id>/explain")
    @documented(
        "Explain why an order is in its state",
        scope="orders:read",
        answers={200: schemas.ExplanationSchema},
        problems=("order_not_found", "unavailable"),
    )
    def explain_order(order_id: str) -> Response:
        asked = {"request_id": g.request_id, "order_id": order_id, "on_behalf_of": caller().owner}
        order = bus.request(ExplainOrder(**asked))
        return json_answer({"ok": True, **explanation(order, _payment(bus, ExplainPayment(**asked)))}, 200)


def _payment(bus: RequestClient, question: ExplainPayment) -> PaymentExplanation:
    try:
        return bus.request(question)
    except Unavailable:  # Half an explanation is better than none.
        return SILENT


def explanation(order: OrderExplanation, payment: PaymentExplanation) -> dict[str, Any]:
    """What both know, as clients see it."""
    return {
        "sentence": f"{order.sentence}; {payment.sentence}.",
        "orderStatus": order.order_status,
        "paymentStatus": order.payment_status,
        "because": order.because,
        "waitsFor": order.waits_for or payment.waits_for or "nothing",
        "attempts": payment.attempts if payment.known else None,
        "nextAttemptAt": payment.next_attempt_at or None,
        "allowed": list(order.allowed),
        "onCancel": order.on_cancel or None,
    }
