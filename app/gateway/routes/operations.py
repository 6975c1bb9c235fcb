"""What operators see and do: parked payments and dead letters."""

from typing import Any

from flask import Blueprint, Response, g, request
from marshmallow import ValidationError

from app.contracts.base import NotPossible
from app.contracts.orders import CheckOrderStatus, ListOrderDeadLetters, ReplayOrderEvents
from app.contracts.payments import (
    DropRefund,
    ListParkedPayments,
    ListPaymentDeadLetters,
    ReplayPaymentEvents,
    ResolvePayment,
    RetryPayment,
    ReviewRequest,
)
from app.gateway.apidocs.operation import Operation
from app.gateway.http import schemas
from app.gateway.http.body import json_object
from app.gateway.http.cursors import CursorCodec
from app.gateway.http.pages import CURSOR, LIMIT, page_limit, page_position
from app.gateway.http.problem_catalogue import REVIEW
from app.gateway.http.responses import json_response
from app.gateway.security.caller import ADMIN, caller
from app.messaging.bus import RequestClient

# What makes a cursor one of this list and of no other.
PARKED_LIST = "parked payments"
REPLAYS = {"payments": ReplayPaymentEvents, "orders": ReplayOrderEvents}
LISTS = (ListPaymentDeadLetters, ListOrderDeadLetters)
RETRY = schemas.RetryRequestSchema()
RESOLUTION = schemas.ResolutionRequestSchema()
DROP_REFUND = schemas.DropRefundRequestSchema()
REPLAY = schemas.ReplayRequestSchema()


def blueprint(bus: RequestClient, cursors: CursorCodec) -> Blueprint:
    """The routes under /operations."""
    routes = Blueprint("operations", __name__, url_prefix="/operations")

    def review(message: type[ReviewRequest], schema: Any, order_id: str) -> Response:
        members = _command(schema)
        reviewed = bus.request(message(request_id=g.request_id, order_id=order_id, **members))
        return json_response({"ok": True, "paymentStatus": reviewed.payment_status})

    @routes.get("/parked")
    @Operation(
        "List payments that wait for an operator",
        description="In the order of their order ids, which begin with the time of the order.",
        scope=ADMIN,
        responses={200: schemas.ParkedListSchema},
        problems=("invalid_cursor", "unavailable"),
        parameters=(LIMIT, CURSOR),
    )
    def list_parked() -> Response:
        _, last_id = page_position(cursors, "", PARKED_LIST)
        found = bus.request(ListParkedPayments(request_id=g.request_id, limit=page_limit(), after_id=last_id))
        body: dict[str, Any] = {"ok": True, "parked": found.payments, "hasMore": found.more}
        if found.more:
            body["nextCursor"] = cursors.encode("", PARKED_LIST, "", found.payments[-1].order_id)
        return json_response(body)

    @routes.get("/dead-letters")
    @Operation(
        "List events that could not be delivered",
        description="Of each module the oldest ones first.",
        scope=ADMIN,
        responses={200: schemas.DeadLetterListSchema},
        problems=("unavailable",),
        parameters=(LIMIT,),
    )
    def list_dead_letters() -> Response:
        limit = page_limit()
        found = [bus.request(message(request_id=g.request_id, limit=limit)) for message in LISTS]
        letters = sorted((letter for part in found for letter in part.dead_letters), key=lambda one: one.at)
        more = len(letters) > limit or any(part.more for part in found)
        return json_response({"ok": True, "deadLetters": letters[:limit], "hasMore": more})

    @routes.post("/parked/<order_id>/retry")
    @Operation(
        "Call the provider again for a parked payment",
        description="With the same key, which cannot charge twice; a refund that has failed is followed by another one, with a key of "
        "its own. Once the provider may have forgotten the key, it is only "
        "asked for the outcome.",
        scope=ADMIN,
        body=schemas.RetryRequestSchema,
        responses={200: schemas.PaymentReviewedSchema},
        problems=REVIEW,
    )
    def retry_payment(order_id: str) -> Response:
        return review(RetryPayment, RETRY, order_id)

    @routes.post("/parked/<order_id>/resolve")
    @Operation(
        "Record the outcome of a parked payment, or correct one that was recorded before",
        description="As it was found at the provider. A refund whose `reference` there is left out was given back by other means: record it "
        "first, and pay only if it is accepted. The same command again changes nothing. An outcome that an operator has recorded by "
        "mistake is corrected by recording the right one, unless money has moved that says otherwise.",
        scope=ADMIN,
        body=schemas.ResolutionRequestSchema,
        responses={200: schemas.PaymentReviewedSchema},
        problems=REVIEW,
    )
    def resolve_payment(order_id: str) -> Response:
        return review(ResolvePayment, RESOLUTION, order_id)

    @routes.post("/parked/<order_id>/drop-refund")
    @Operation(
        "Give up the refund that a parked payment waits for",
        description="Its amount can be refunded again. Refused where the provider has made the refund, or may yet.",
        scope=ADMIN,
        body=schemas.DropRefundRequestSchema,
        responses={200: schemas.PaymentReviewedSchema},
        problems=REVIEW,
    )
    def drop_refund(order_id: str) -> Response:
        return review(DropRefund, DROP_REFUND, order_id)

    @routes.post("/dead-letters/<order_id>/replay")
    @Operation(
        "Deliver an order's dead letters again",
        description="Those of `module`, or of all modules. An event that is rejected again becomes a dead letter again.",
        scope=ADMIN,
        body=schemas.ReplayRequestSchema,
        responses={200: schemas.ReplayedSchema},
        problems=(*REVIEW, "conflict"),
    )
    def replay_dead_letters(order_id: str) -> Response:
        command = _command(REPLAY)
        module = command.pop("module", "")
        replayed = [
            name
            for name, message in REPLAYS.items()
            if module in ("", name)
            and bus.request(message(request_id=g.request_id, order_id=order_id, **command)).requeued
        ]
        if not replayed:
            # An unknown order is reported as such.
            bus.request(CheckOrderStatus(request_id=g.request_id, order_id=order_id, on_behalf_of=""))
            raise NotPossible(f"order {order_id} has no dead letter{f' of {module}' if module else ''}")
        return json_response({"ok": True, "replayedIn": replayed})

    return routes


def _command(schema: Any) -> dict[str, Any]:
    """The members of a command, with the operator's name: the token's user, where callers have one."""
    members: dict[str, Any] = schema.load(json_object(request))
    user_id = caller().user_id
    if user_id and members.setdefault("operator", user_id) != user_id:
        raise ValidationError({"operator": ["Must be absent or the user of the token."]})
    if not members.get("operator"):
        raise ValidationError({"operator": ["Missing data for required field: nobody is authenticated here."]})
    return members
