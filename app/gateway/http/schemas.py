"""What clients may send and what they get: marshmallow schemas, which the OpenAPI document is made from as well."""

import re
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, ValidationError, fields, validate

from app.contracts.base import Money
from app.gateway.http.money import MoneyError, parse
from app.gateway.http.visible_text import hides

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _printable(text: str) -> None:
    if UNPRINTABLE.search(text):
        raise ValidationError("Must not contain control characters.")
    if not text.strip():
        raise ValidationError("Must not be blank.")


class Text(fields.String):
    """Text of a bounded length, not blank, without control characters and characters that are not seen.

    With `joiners`, those that are not seen and that scripts and emoji need are taken.
    """

    def __init__(self, longest: int = 128, *, joiners: bool = False, **kwargs: Any) -> None:
        def seen(text: str) -> None:
            if hides(text, joiners=joiners):
                raise ValidationError(
                    "Must not contain characters that are not seen or change the direction of writing."
                )

        super().__init__(validate=[validate.Length(1, longest), _printable, seen], **kwargs)


class Amount(fields.Field[Money]):
    """Money, as text with its currency or as `{value, currency}` in minor units."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Money:
        try:
            return parse(value)
        except MoneyError as exc:
            raise ValidationError(str(exc)) from None


class RefundAmount(Amount):
    """Money to give back, or the word `all` for what is left: None."""

    def _deserialize(self, value: Any, *args: Any, **more: Any) -> Money | None:  # type: ignore[override]
        return None if value == ALL else super()._deserialize(value, *args, **more)


class OK(fields.Boolean):
    """Whether it went well, for clients that look at bodies alone."""

    def __init__(self) -> None:
        super().__init__(required=True, metadata={"example": True})


ALL = "all"
ORDER_ID = {"example": "6920c1b05be0d3a1f2c4e687"}


class NewOrderSchema(Schema):
    """An order to place."""

    class Meta:
        unknown = EXCLUDE

    user_id = Text(data_key="userId", required=True, metadata={"example": "user-7"})
    product_id = Text(data_key="productId", required=True, metadata={"example": "1"})
    product_name = Text(
        512, joiners=True, data_key="productName", required=True, metadata={"example": "Espresso machine"}
    )
    total = Amount(data_key="totalOrderAmount", required=True, metadata={"example": "RM 99"})
    order_status = fields.Raw(
        data_key="orderStatus",
        allow_none=True,
        metadata={"description": "Ignored: a new order is Processing."},
    )
    created_at = fields.Raw(
        data_key="createdAt", allow_none=True, metadata={"description": "Ignored: the time is the server's."}
    )


class OrderUpdateSchema(Schema):
    """A step for an order to take."""

    class Meta:
        unknown = EXCLUDE

    order_id = Text(data_key="orderId", required=True, metadata={"example": "6920c1b05be0d3a1f2c4e687"})
    order_status = Text(64, data_key="orderStatus", required=True, metadata={"example": "Cancelled"})


class RefundRequestSchema(Schema):
    """A refund to make; all that is left where no amount is given or it is `all`. No other member is taken."""

    class Meta:
        # A misspelt amount must not be taken for none at all, which would give back everything.
        unknown = RAISE

    amount = RefundAmount(metadata={"example": "RM 10"})


class MoneySchema(Schema):
    """An amount in minor units of its currency."""

    value = fields.Integer(required=True, metadata={"example": 9900})
    currency = fields.String(required=True, metadata={"example": "MYR"})


class RefundSchema(Schema):
    """A refund that is under way."""

    id = fields.String(required=True, metadata={"example": "9f2c7a51c60be2d4a3f08b17"})
    amount = fields.Nested(MoneySchema, required=True)


class RefundAnswerSchema(Schema):
    """The answer to a refund."""

    ok = OK()
    refund = fields.Nested(RefundSchema, required=True)


class UserSchema(Schema):
    """The user in a path."""

    user_id = Text(data_key="userId", required=True)


class OrderSchema(Schema):
    """An order."""

    id = fields.String(required=True, metadata=ORDER_ID)
    userId = fields.String(required=True, metadata={"example": "user-7"})
    productId = fields.String(required=True, metadata={"example": "1"})
    productName = fields.String(required=True, metadata={"example": "Espresso machine"})
    totalOrderAmount = fields.String(
        required=True, metadata={"description": "As the client wrote it.", "example": "RM 99"}
    )
    total = fields.Nested(MoneySchema, required=True)
    orderStatus = fields.String(required=True, metadata={"example": "Success"})
    paymentStatus = fields.String(required=True, metadata={"example": "Captured"})
    version = fields.Integer(required=True, metadata={"example": 2})
    createdAt = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.900Z"})
    updatedAt = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.984Z"})


class CreatedIdSchema(Schema):
    """The id of a new order."""

    id = fields.String(required=True, metadata=ORDER_ID)


class OrderCreatedSchema(Schema):
    """The answer to a new order; `order` where it was waited for."""

    ok = OK()
    created = fields.Nested(CreatedIdSchema, required=True)
    payment = fields.String(required=True, metadata={"example": "Create order success, payment processing"})
    order = fields.Nested(OrderSchema)


class OrderUpdatedSchema(Schema):
    """The answer to a step."""

    ok = OK()
    message = fields.String(required=True, metadata={"example": "Update order success"})


class OrderAnswerSchema(Schema):
    """One order."""

    ok = OK()
    order = fields.Nested(OrderSchema, required=True)


class OrderStatusSchema(Schema):
    """The status of one order."""

    ok = OK()
    orderStatus = fields.String(required=True, metadata={"example": "Success"})


class OrderListSchema(Schema):
    """Orders, newest first."""

    ok = OK()
    orders = fields.List(fields.Nested(OrderSchema), required=True)
    hasMore = fields.Boolean(required=True, metadata={"example": True})
    nextCursor = fields.String(
        metadata={
            "description": "Where more follow: what to ask for as `cursor`.",
            "example": "WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI2OTIwIl0.c2VhbA",
        }
    )


class TimelineEntrySchema(Schema):
    """A step that an order has taken."""

    orderId = fields.String(required=True, metadata=ORDER_ID)
    sequence = fields.Integer(required=True, metadata={"example": 2})
    type = fields.String(required=True, metadata={"example": "PaymentCaptured"})
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.984Z"})
    actor = fields.String(required=True, metadata={"example": "payments"})
    # "from" is a word of Python's.
    locals()["from"] = fields.String(required=True, metadata={"example": "Processing"})
    to = fields.String(required=True, metadata={"example": "Success"})
    paymentStatus = fields.String(required=True, metadata={"example": "Captured"})
    detail = fields.String(required=True, metadata={"example": "sim_5b0c2f6a"})


class TimelineSchema(Schema):
    """Steps of an order, oldest first."""

    ok = OK()
    events = fields.List(fields.Nested(TimelineEntrySchema), required=True)
    version = fields.Integer(required=True, metadata={"example": 2})


class ExplanationSchema(Schema):
    """Why an order is in its state."""

    ok = OK()
    sentence = fields.String(
        required=True,
        metadata={
            "example": "The order is Success and its payment Captured, since payments took the total at "
            "2026-11-22T15:23:02.984Z; nothing is left to do for its payment."
        },
    )
    orderStatus = fields.String(required=True, metadata={"example": "Success"})
    paymentStatus = fields.String(required=True, metadata={"example": "Captured"})
    because = fields.Nested(TimelineEntrySchema, required=True, metadata={"description": "The last step."})
    waitsFor = fields.String(
        required=True,
        metadata={"description": "The provider, the relay, an operator, or nothing.", "example": "nothing"},
    )
    attempts = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How often the provider was asked; null where nobody can tell.", "example": 1},
    )
    nextAttemptAt = fields.DateTime(required=True, allow_none=True, metadata={"example": None})
    allowed = fields.List(
        fields.String(metadata={"example": "Cancelled"}),
        required=True,
        metadata={"description": "What a client may set it to; `(custom)` stands for a text of its own."},
    )
    onCancel = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "What cancelling would mean for the money; null where it cannot be cancelled.",
            "example": "a refund is started",
        },
    )


class WayStageSchema(Schema):
    """A stage of the order, from the live feed."""

    stage = fields.String(required=True, metadata={"example": "payment processed"})
    module = fields.String(required=True, metadata={"example": "payments"})
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.981Z"})
    tookMs = fields.Float(required=True, metadata={"example": 5.16})
    event = fields.String(metadata={"description": "The event that was handed on.", "example": "PaymentCaptured"})


class AttemptSchema(Schema):
    """A call to the payment provider."""

    attempt = fields.Integer(required=True, metadata={"example": 1})
    at = fields.DateTime(
        required=True, metadata={"description": "When it ended.", "example": "2026-11-22T15:23:02.981Z"}
    )
    call = fields.String(required=True, metadata={"example": "charge"})
    answer = fields.String(required=True, metadata={"example": "captured"})
    reason = fields.String(required=True, metadata={"example": ""})
    tookMs = fields.Float(required=True, metadata={"example": 5.16})


class WaySchema(Schema):
    """How long an order took, and where."""

    ok = OK()
    attempts = fields.List(
        fields.Nested(AttemptSchema),
        required=True,
        metadata={"description": "Every call to the provider, oldest first; of many the newest 50."},
    )
    stages = fields.List(
        fields.Nested(WayStageSchema),
        required=True,
        metadata={
            "description": "The stages that the live feed still has: none where the order is old or many were busy."
        },
    )


class TransitionSchema(Schema):
    """A step that orders may take."""

    locals()["from"] = fields.String(required=True, metadata={"example": "Processing"})
    by = fields.String(required=True, metadata={"example": "payment captured"})
    to = fields.String(required=True, metadata={"example": "Success"})
    money = fields.String(required=True, metadata={"example": "the total was taken"})


class StateMachineSchema(Schema):
    """Every step that an order may take."""

    ok = OK()
    transitions = fields.List(fields.Nested(TransitionSchema), required=True)


class ProblemKindSchema(Schema):
    """What a kind of problem means."""

    ok = OK()
    type = fields.String(required=True, metadata={"example": "/problems/illegal_transition"})
    code = fields.String(required=True, metadata={"example": "illegal_transition"})
    title = fields.String(required=True, metadata={"example": "The order's state does not allow this"})
    status = fields.Integer(required=True, metadata={"example": 409})
    means = fields.String(required=True, metadata={"example": "The order's state does not allow the step."})
    remedy = fields.String(required=True, metadata={"example": "GET /state-machine shows all steps."})


class HealthSchema(Schema):
    """Whether the process lives, or can serve."""

    ok = OK()


class ProblemErrorSchema(Schema):
    """One thing that is wrong with a request."""

    pointer = fields.String(required=True, metadata={"description": "JSON pointer to the member."})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """What went wrong, as RFC 9457 has it; some kinds tell further facts."""

    class Meta:
        unknown = INCLUDE

    ok = fields.Boolean(required=True)
    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True)
    requestId = fields.String(required=True)
    errors = fields.List(fields.Nested(ProblemErrorSchema))
