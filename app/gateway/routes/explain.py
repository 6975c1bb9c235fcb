"""Explains why an order is in its state, from what orders and payments each know."""

from typing import Any

from flask import Blueprint, Response

from app.contracts.base import Unavailable
from app.contracts.orders import ExplainOrder, OrderExplanation
from app.contracts.payments import ExplainPayment, PaymentExplanation
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.problem_catalogue import READ_ONE
from app.gateway.http.responses import json_response
from app.gateway.security.caller import READ, request_origin
from app.messaging.bus import RequestClient

PAYMENTS_UNAVAILABLE = PaymentExplanation(
    known=False,
    attempts=0,
    next_attempt_at="",
    waits_for="",
    sentence="payments cannot say at the moment where the money is",
)


def add_routes(routes: Blueprint, bus: RequestClient) -> None:
    """Add the explanation to the routes under /orders."""

    @routes.get("/one/<order_id>/explain")
    @Operation(
        "Explain why an order is in its state",
        scope=READ,
        responses={200: schemas.ExplanationSchema},
        problems=READ_ONE,
    )
    def explain_order(order_id: str) -> Response:
        order = bus.request(ExplainOrder(order_id=order_id, **request_origin()))
        try:
            payment = bus.request(ExplainPayment(order_id=order_id, **request_origin()))
        except Unavailable:  # Half an explanation is better than none.
            payment = PAYMENTS_UNAVAILABLE
        return json_response({"ok": True, **explanation(order, payment)})


def explanation(order: OrderExplanation, payment: PaymentExplanation) -> dict[str, Any]:
    """Both explanations as one, with the members that clients see."""
    return {
        "sentence": f"{order.sentence}; {payment.sentence}.",
        "orderStatus": order.order_status,
        "paymentStatus": order.payment_status,
        "because": order.because,
        "waitsFor": order.waits_for or payment.waits_for or schemas.NOTHING,
        "attempts": payment.attempts if payment.known else None,
        "nextAttemptAt": payment.next_attempt_at or None,
        "allowed": list(order.allowed),
        "actions": list(order.actions),
        "onCancel": order.on_cancel or None,
    }
