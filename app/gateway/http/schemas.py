"""Schemas of requests, which validate them, and of responses, for the OpenAPI document."""

from typing import Any

from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, ValidationError, fields, validate

from app.contracts.base import Money
from app.gateway.http.money import MoneyError, parse_money
from app.gateway.http.visible_text import CONTROL_CHARACTERS, has_invisible

ALL = "all"
MANUAL = "manual"
MAX_URL_LENGTH = 2048
ORDER_ID = {"example": "6920c1b05be0d3a1f2c4e687"}


def _printable(text: str) -> None:
    if CONTROL_CHARACTERS.search(text):
        raise ValidationError("Must not contain control characters.")
    if not text.strip():
        raise ValidationError("Must not be blank.")


class TextField(fields.String):
    """Text of 1 to `max_length` characters, not blank, without control characters and invisible characters.

    `joiners` allows the invisible characters that scripts and emoji need.
    """

    def __init__(self, max_length: int = 128, *, joiners: bool = False, **kwargs: Any) -> None:
        def visible(text: str) -> None:
            if has_invisible(text, joiners=joiners):
                raise ValidationError(
                    "Must not contain invisible characters or such that change the direction of writing."
                )

        super().__init__(validate=[validate.Length(1, max_length), _printable, visible], **kwargs)


class AmountField(fields.Field[Money]):
    """Money: text with its currency or `{value, currency}` in minor units."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Money:
        try:
            return parse_money(value)
        except MoneyError as exc:
            raise ValidationError(str(exc)) from None


class PartAmountField(AmountField):
    """Money to refund or to capture; the word `all`, which means all that there is, becomes None."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Money | None:  # type: ignore[override]
        return None if value == ALL else super()._deserialize(value, *args, **kwargs)


class OkField(fields.Boolean):
    """Whether the request succeeded, for clients that look at bodies only."""

    def __init__(self) -> None:
        super().__init__(required=True, metadata={"example": True})


class NewOrderSchema(Schema):
    """An order to place."""

    class Meta:
        unknown = EXCLUDE

    user_id = TextField(data_key="userId", required=True, metadata={"example": "user-7"})
    product_id = TextField(data_key="productId", required=True, metadata={"example": "1"})
    product_name = TextField(
        512, joiners=True, data_key="productName", required=True, metadata={"example": "Espresso machine"}
    )
    total = AmountField(data_key="totalOrderAmount", required=True, metadata={"example": "RM 99"})
    payment_method = TextField(
        255,
        data_key="paymentMethod",
        metadata={"description": "A token of the payment provider; never a card number.", "example": "pm_card_visa"},
    )
    return_url = fields.String(
        data_key="returnUrl",
        validate=validate.Length(1, MAX_URL_LENGTH),
        metadata={
            "description": "The page that the customer comes back to from the provider's page: https, or http on this machine, "
            "of an origin that the operator has listed (`RETURN_URL_ORIGINS`)."
        },
    )
    capture = fields.String(
        validate=validate.OneOf(["automatic", MANUAL]),
        metadata={
            "description": "`manual`: the amount is authorized, and taken by `POST /orders/one/{id}/capture`.",
            "example": "automatic",
        },
    )
    order_status = fields.Raw(
        data_key="orderStatus",
        allow_none=True,
        metadata={"description": "Ignored: a new order is Processing."},
    )
    created_at = fields.Raw(
        data_key="createdAt", allow_none=True, metadata={"description": "Ignored: the time is the server's."}
    )


class OrderUpdateSchema(Schema):
    """A status for an order to change to."""

    class Meta:
        unknown = EXCLUDE

    order_id = TextField(data_key="orderId", required=True, metadata={"example": "6920c1b05be0d3a1f2c4e687"})
    order_status = TextField(64, data_key="orderStatus", required=True, metadata={"example": "Cancelled"})


class RefundRequestSchema(Schema):
    """A refund to make: of all that is left if the amount is absent or `all`. Other members are rejected."""

    class Meta:
        # Ignored, a misspelt amount would refund everything.
        unknown = RAISE

    amount = PartAmountField(metadata={"example": "RM 10"})


class CaptureRequestSchema(Schema):
    """A capture to make: of all that is authorized if the amount is absent or `all`. Other members are rejected."""

    class Meta:
        # Ignored, a misspelt amount would take everything.
        unknown = RAISE

    amount = PartAmountField(metadata={"example": "RM 40"})


class MoneySchema(Schema):
    """An amount in minor units of its currency."""

    value = fields.Integer(required=True, metadata={"example": 9900})
    currency = fields.String(required=True, metadata={"example": "MYR"})


class RefundSchema(Schema):
    """A refund that was accepted."""

    id = fields.String(required=True, metadata={"example": "9f2c7a51c60be2d4a3f08b17"})
    amount = fields.Nested(MoneySchema, required=True)


class RefundAcceptedSchema(Schema):
    """The response to a refund."""

    ok = OkField()
    refund = fields.Nested(RefundSchema, required=True)


class CaptureSchema(Schema):
    """A capture that was accepted."""

    amount = fields.Nested(MoneySchema, required=True)


class CaptureAcceptedSchema(Schema):
    """The response to a capture."""

    ok = OkField()
    capture = fields.Nested(CaptureSchema, required=True)


class UserSchema(Schema):
    """The user in a path."""

    user_id = TextField(data_key="userId", required=True)


class NextActionSchema(Schema):
    """What the customer must do before the payment goes on."""

    type = fields.String(
        required=True,
        validate=validate.OneOf(["redirect", "confirm"]),
        metadata={
            "description": "`redirect`: open `url`. `confirm`: confirm with `clientSecret` in a page of the shop.",
            "example": "redirect",
        },
    )
    url = fields.String(metadata={"example": "https://provider.example/authenticate/3f2a"})
    clientSecret = fields.String()
    expiresAt = fields.DateTime(
        required=True,
        metadata={"description": "The payment is voided after this time.", "example": "2026-11-23T15:23:02.900Z"},
    )


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
    authorized = fields.Nested(
        MoneySchema, metadata={"description": "What is or was held for a capture, where an amount was authorized."}
    )
    captured = fields.Nested(MoneySchema, metadata={"description": "What was taken, where it is not the total."})
    nextAction = fields.Nested(
        NextActionSchema,
        metadata={
            "description": "Only while the customer must act, only for the order's own user, and never in a list or stream."
        },
    )


class CreatedIdSchema(Schema):
    """The id of a new order."""

    id = fields.String(required=True, metadata=ORDER_ID)


class OrderCreatedSchema(Schema):
    """The response to a new order; `order` if the request waited for it."""

    ok = OkField()
    created = fields.Nested(CreatedIdSchema, required=True)
    payment = fields.String(required=True, metadata={"example": "Create order success, payment processing"})
    order = fields.Nested(OrderSchema)


class OrderUpdatedSchema(Schema):
    """The response to a change of status."""

    ok = OkField()
    message = fields.String(required=True, metadata={"example": "Update order success"})


class OrderFoundSchema(Schema):
    """One order."""

    ok = OkField()
    order = fields.Nested(OrderSchema, required=True)


class OrderStatusSchema(Schema):
    """The status of one order."""

    ok = OkField()
    orderStatus = fields.String(required=True, metadata={"example": "Success"})


class OrderListSchema(Schema):
    """Orders, newest first."""

    ok = OkField()
    orders = fields.List(fields.Nested(OrderSchema), required=True)
    hasMore = fields.Boolean(required=True, metadata={"example": True})
    nextCursor = fields.String(
        metadata={
            "description": "The `cursor` of the next page, if there is one.",
            "example": "WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI2OTIwIl0.c2VhbA",
        }
    )


class TimelineEntrySchema(Schema):
    """A change of an order."""

    orderId = fields.String(required=True, metadata=ORDER_ID)
    sequence = fields.Integer(required=True, metadata={"example": 2})
    type = fields.String(required=True, metadata={"example": "PaymentCaptured"})
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.984Z"})
    actor = fields.String(required=True, metadata={"example": "payments"})
    # "from" is a keyword of Python.
    locals()["from"] = fields.String(required=True, metadata={"example": "Processing"})
    to = fields.String(required=True, metadata={"example": "Success"})
    paymentStatus = fields.String(required=True, metadata={"example": "Captured"})
    detail = fields.String(required=True, metadata={"example": "sim_5b0c2f6a"})


class TimelineSchema(Schema):
    """Changes of an order, oldest first."""

    ok = OkField()
    events = fields.List(fields.Nested(TimelineEntrySchema), required=True)
    version = fields.Integer(required=True, metadata={"example": 2})


class ExplanationSchema(Schema):
    """Why an order is in its state."""

    ok = OkField()
    sentence = fields.String(
        required=True,
        metadata={
            "example": "The order is Success and its payment Captured, since payments took the money at "
            "2026-11-22T15:23:02.984Z; nothing is left to do for its payment."
        },
    )
    orderStatus = fields.String(required=True, metadata={"example": "Success"})
    paymentStatus = fields.String(required=True, metadata={"example": "Captured"})
    because = fields.Nested(TimelineEntrySchema, required=True, metadata={"description": "The last change."})
    waitsFor = fields.String(
        required=True,
        metadata={"description": "The provider, the relay, an operator, or nothing.", "example": "nothing"},
    )
    attempts = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "How often the provider was called; null if payments do not answer.", "example": 1},
    )
    nextAttemptAt = fields.DateTime(required=True, allow_none=True, metadata={"example": None})
    allowed = fields.List(
        fields.String(metadata={"example": "Cancelled"}),
        required=True,
        metadata={"description": "The statuses that a client may set; `(custom)` means any other text."},
    )
    actions = fields.List(
        fields.String(metadata={"example": "refund"}),
        required=True,
        metadata={
            "description": "What a client may do with the money: `capture` what is authorized, `refund` what was taken."
        },
    )
    onCancel = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "What cancelling would mean for the money; null if the order cannot be cancelled.",
            "example": "a refund is started",
        },
    )


class StageLatencySchema(Schema):
    """A stage of the order, from the live feed."""

    stage = fields.String(required=True, metadata={"example": "payment processed"})
    module = fields.String(required=True, metadata={"example": "payments"})
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.981Z"})
    tookMs = fields.Float(required=True, metadata={"example": 5.16})
    event = fields.String(metadata={"description": "The event that was delivered.", "example": "PaymentCaptured"})


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


class LatencySchema(Schema):
    """How long the stages of an order took."""

    ok = OkField()
    attempts = fields.List(
        fields.Nested(AttemptSchema),
        required=True,
        metadata={"description": "The newest 50 calls to the provider, oldest first."},
    )
    stages = fields.List(
        fields.Nested(StageLatencySchema),
        required=True,
        metadata={
            "description": "The stages that the live feed still has: none if the order is old, or if the feed sampled other orders."
        },
    )


class TransitionSchema(Schema):
    """A transition between two states of an order."""

    locals()["from"] = fields.String(required=True, metadata={"example": "Processing"})
    by = fields.String(required=True, metadata={"example": "payment captured"})
    to = fields.String(required=True, metadata={"example": "Success"})
    money = fields.String(required=True, metadata={"example": "the total was taken, or the part that was captured"})


class PaymentStatusSchema(Schema):
    """A status of an order's payment."""

    status = fields.String(required=True, metadata={"example": "Captured"})
    meaning = fields.String(required=True, metadata={"example": "the amount was taken"})
    actions = fields.List(
        fields.String(metadata={"example": "refund"}),
        required=True,
        metadata={"description": "What a client may do with the money then."},
    )
    onCancel = fields.String(
        required=True,
        metadata={
            "description": "What cancelling the order means for the money; empty where its transition says it.",
            "example": "",
        },
    )


class StateMachineSchema(Schema):
    """Every transition that an order may make, and every status that its payment may have."""

    ok = OkField()
    transitions = fields.List(fields.Nested(TransitionSchema), required=True)
    paymentStatuses = fields.List(fields.Nested(PaymentStatusSchema), required=True)


class ProblemKindSchema(Schema):
    """The meaning of a kind of problem."""

    ok = OkField()
    type = fields.String(required=True, metadata={"example": "/problems/illegal_transition"})
    code = fields.String(required=True, metadata={"example": "illegal_transition"})
    title = fields.String(required=True, metadata={"example": "The order's state does not allow this"})
    status = fields.Integer(required=True, metadata={"example": 409})
    meaning = fields.String(required=True, metadata={"example": "The order's state does not allow this transition."})
    remedy = fields.String(required=True, metadata={"example": "See GET /state-machine."})


class NotificationsReceivedSchema(Schema):
    """How many notifications were new, and how many had come before."""

    ok = OkField()
    stored = fields.Integer(required=True, metadata={"example": 1})
    repeated = fields.Integer(required=True, metadata={"example": 0})


class HealthSchema(Schema):
    """Whether the process is alive, or ready to serve."""

    ok = OkField()


class ProblemErrorSchema(Schema):
    """An error in one member of a request."""

    pointer = fields.String(required=True, metadata={"description": "JSON pointer to the member."})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """A problem (RFC 9457); some kinds have further members."""

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
