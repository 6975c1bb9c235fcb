"""Schemas of requests, which validate them, and of responses, for the OpenAPI document."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

from marshmallow import INCLUDE, RAISE, Schema, ValidationError, fields, validate

from app.contracts.base import Money, WaitsFor
from app.contracts.orders import (
    METADATA_KEY_LENGTH,
    METADATA_PAIRS,
    METADATA_VALUE_LENGTH,
    ORDER_CHANGE_TYPES,
    PSEUDONYM,
    OrderStatus,
)
from app.contracts.payments import PAYMENT_EVENT_TYPES, PENDING_CALLS, PaymentStatus
from app.gateway.http.money import MoneyError, parse_money
from app.gateway.http.problem_catalogue import PROBLEMS
from app.gateway.http.visible_text import CONTROL_CHARACTERS, has_invisible

ALL = "all"
MANUAL = "manual"
MAX_URL_LENGTH = 2048
# What /state-machine and timelines call the state before an order exists, and any custom status.
NEW = "(new)"
CUSTOM = "(custom)"
NOTHING = "nothing"
CHANGE_TYPES = (*ORDER_CHANGE_TYPES, *PAYMENT_EVENT_TYPES)
ORDER_ID = {"example": "6920c1b05be0d3a1f2c4e687"}
REQUEST_ID = {"description": "The HTTP request that caused it.", "example": "4f9a1d0e2b7c4a55"}


def _printable(text: str) -> None:
    if CONTROL_CHARACTERS.search(text):
        raise ValidationError("Must not contain control characters.")
    if text and not text.strip():
        raise ValidationError("Must not be blank.")


def _no_pseudonym(user_id: str) -> None:
    if PSEUDONYM.fullmatch(user_id):
        raise ValidationError("Is the pseudonym of a user whose personal data was erased.")


class TextField(fields.String):
    """Text of `min_length` to `max_length` characters, not blank, without control characters and invisible characters.

    `joiners` allows the invisible characters that scripts and emoji need; `also` are further validators.
    """

    def __init__(
        self,
        max_length: int = 128,
        *,
        min_length: int = 1,
        joiners: bool = False,
        also: Sequence[Callable[[str], None]] = (),
        **kwargs: Any,
    ) -> None:
        def visible(text: str) -> None:
            if has_invisible(text, joiners=joiners):
                raise ValidationError(
                    "Must not contain invisible characters or such that change the direction of writing."
                )

        super().__init__(validate=[validate.Length(min_length, max_length), _printable, visible, *also], **kwargs)


class AmountField(fields.Field[Money]):
    """Money: text with its currency or `{value, currency}` in minor units."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Money:
        try:
            money = parse_money(value)
        except MoneyError as exc:
            raise ValidationError(str(exc)) from None
        unknown = sorted(value.keys() - {"value", "currency"}) if isinstance(value, dict) else []
        if unknown and isinstance(self.parent, Schema) and self.parent.unknown == RAISE:
            raise ValidationError({name: ["Unknown field."] for name in unknown})
        return money


class PartAmountField(AmountField):
    """Money to refund or to capture; the word `all`, which means all that there is, becomes None."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Money | None:  # type: ignore[override]
        return None if value == ALL else super()._deserialize(value, *args, **kwargs)


class MetadataField(fields.Dict):
    """Pairs of texts that a client notes with an order. With `removable`, null in place of a value becomes empty text."""

    def __init__(self, description: str, *, removable: bool = False, **kwargs: Any) -> None:
        value = {"type": "string", "minLength": 1, "maxLength": METADATA_VALUE_LENGTH}
        either = {"anyOf": [value, {"enum": [None]}]}
        metadata = {
            "description": f"{description} At most {METADATA_PAIRS} pairs, with keys of at most {METADATA_KEY_LENGTH} characters "
            "and without square brackets. Never a card number, and nothing that must be kept secret.",
            "maxProperties": METADATA_PAIRS,
            "additionalProperties": either if removable else value,
            "example": {"cart": "A-1207"},
        }
        super().__init__(metadata=metadata, **kwargs)
        self._removable = removable
        self._key = TextField(METADATA_KEY_LENGTH, joiners=True)
        self._value = TextField(METADATA_VALUE_LENGTH, joiners=True)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object of texts by key.")
        if len(value) > METADATA_PAIRS:
            raise ValidationError(f"Must have at most {METADATA_PAIRS} pairs.")
        errors: dict[str, list[str]] = {}
        for key, text in value.items():
            try:
                self._check(key, text)
            except ValidationError as exc:
                errors[key] = [str(message) for message in exc.messages]
        if errors:
            raise ValidationError(errors)
        return {key: text or "" for key, text in value.items()}

    def _check(self, key: str, text: object) -> None:
        try:
            self._key.deserialize(key)
        except ValidationError as exc:
            raise ValidationError([f"Its key: {message}" for message in exc.messages]) from None
        if "[" in key or "]" in key:
            raise ValidationError("Its key: Must not contain square brackets.")
        if text is not None or not self._removable:
            self._value.deserialize(text)


class OrderStatusField(fields.String):
    """The status of an order in a response: one that has a meaning here, or a custom one."""

    def __init__(self, example: str, *, description: str = "", others: Sequence[str] = ()) -> None:
        known = {"type": "string", "enum": [*others, *(status.value for status in OrderStatus)]}
        custom = {"type": "string", "description": "A custom status, as a client wrote it."}
        metadata = {"example": example, "anyOf": [known, custom]}
        super().__init__(required=True, metadata={**metadata, **({"description": description} if description else {})})


class WordField(fields.String):
    """Text in a response that is one of `words`."""

    def __init__(self, words: Iterable[str], example: str, description: str = "") -> None:
        metadata = {"example": example, **({"description": description} if description else {})}
        super().__init__(required=True, validate=validate.OneOf([str(word) for word in words]), metadata=metadata)


class OkField(fields.Boolean):
    """Whether the request succeeded, for clients that look at bodies only."""

    def __init__(self) -> None:
        super().__init__(required=True, metadata={"example": True})


class PlacedOrderSchema(Schema):
    """What every order to place has, besides what is ordered."""

    user_id = TextField(data_key="userId", required=True, also=[_no_pseudonym], metadata={"example": "user-7"})
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
    metadata = MetadataField("What you note with the order, shown again wherever the order is.")
    order_status = fields.Raw(
        data_key="orderStatus",
        allow_none=True,
        metadata={"description": "Ignored: a new order is Processing."},
    )
    created_at = fields.Raw(
        data_key="createdAt", allow_none=True, metadata={"description": "Ignored: the time is the server's."}
    )


class NewOrderSchema(PlacedOrderSchema):
    """An order to place. Other members are rejected, or ignored by a schema made with `unknown=EXCLUDE`."""

    class Meta:
        unknown = RAISE

    product_id = TextField(data_key="productId", required=True, metadata={"example": "1"})
    product_name = TextField(
        512, joiners=True, data_key="productName", required=True, metadata={"example": "Espresso machine"}
    )
    total = AmountField(data_key="totalOrderAmount", required=True, metadata={"example": "RM 99"})


class OrderUpdateSchema(Schema):
    """A status for an order to change to. Other members are rejected, or ignored by a schema made with `unknown=EXCLUDE`."""

    class Meta:
        unknown = RAISE

    order_id = TextField(data_key="orderId", required=True, metadata={"example": "6920c1b05be0d3a1f2c4e687"})
    order_status = TextField(64, data_key="orderStatus", required=True, metadata={"example": "Cancelled"})


class MetadataUpdateSchema(Schema):
    """A change of an order's metadata. Other members are rejected."""

    class Meta:
        unknown = RAISE

    metadata = MetadataField(
        "Pairs to set. Null removes a pair; pairs that are not named stay.", removable=True, required=True
    )


class RefundRequestSchema(Schema):
    """A refund to make: of all that is left if the amount is absent or `all`. Other members are rejected."""

    class Meta:
        # Ignored, a misspelt amount would refund everything.
        unknown = RAISE

    amount = PartAmountField(metadata={"example": "RM 10"})
    reason = TextField(
        500,
        joiners=True,
        metadata={"description": "Why, shown with the refund and on the timeline.", "example": "Damaged on arrival"},
    )


class CaptureRequestSchema(Schema):
    """A capture to make: of all that is authorized if the amount is absent or `all`. Other members are rejected."""

    class Meta:
        # Ignored, a misspelt amount would take everything.
        unknown = RAISE

    amount = PartAmountField(metadata={"example": "RM 40"})


class OperatorCommandSchema(Schema):
    """A command of an operator; other members are rejected."""

    class Meta:
        # Ignored, a misspelt member would make it another command.
        unknown = RAISE

    reason = TextField(
        500,
        joiners=True,
        required=True,
        metadata={"description": "The order's timeline shows it.", "example": "the bank confirmed it by phone"},
    )
    operator = TextField(
        metadata={
            "description": "Who gives the command; the order's timeline shows it. Required where authentication is off; "
            "elsewhere it is the token's user.",
            "example": "Ada",
        }
    )


class RetryRequestSchema(OperatorCommandSchema):
    """A retry of a parked payment."""


class ResolutionRequestSchema(OperatorCommandSchema):
    """The outcome of a payment as an operator found it at the provider."""

    outcome = fields.String(
        required=True,
        validate=validate.OneOf(["captured", "declined", "voided", "refunded"]),
        metadata={"example": "captured"},
    )
    reference = TextField(
        metadata={"description": "The provider's id of the payment, or of the refund.", "example": "pi_3MtwBw"},
    )


class DropRefundRequestSchema(OperatorCommandSchema):
    """A refund to give up."""

    refund_id = TextField(
        data_key="refundId",
        required=True,
        metadata={"description": "As the list shows it.", "example": "9f2c7a51c60be2d4a3f08b17"},
    )


class ReplayRequestSchema(OperatorCommandSchema):
    """Dead letters to deliver again."""

    module = fields.String(
        validate=validate.OneOf(["orders", "payments"]),
        metadata={"description": "Only those of this module.", "example": "orders"},
    )


class PaymentReviewedSchema(Schema):
    """The response to an operator's command about a payment."""

    ok = OkField()
    paymentStatus = WordField(PaymentStatus, "Captured")


class ReplayedSchema(Schema):
    """The response to a replay."""

    ok = OkField()
    replayedIn = fields.List(fields.String(metadata={"example": "orders"}), required=True)


class MoneySchema(Schema):
    """An amount in minor units of its currency."""

    value = fields.Integer(required=True, metadata={"example": 9900})
    currency = fields.String(required=True, metadata={"example": "MYR"})


class RefundSchema(Schema):
    """A part of what was taken that goes back to the payer."""

    id = fields.String(required=True, metadata={"example": "9f2c7a51c60be2d4a3f08b17"})
    amount = fields.Nested(MoneySchema, required=True)
    status = fields.String(
        required=True,
        validate=validate.OneOf(["pending", "succeeded", "failed"]),
        metadata={"description": "A refund that has succeeded can still fail.", "example": "succeeded"},
    )
    at = fields.DateTime(
        required=True, metadata={"description": "When it was recorded.", "example": "2026-11-22T15:24:10.120Z"}
    )
    reason = fields.String(
        metadata={
            "description": "Why it was asked for, or that it was made at the provider or by a cancellation.",
            "example": "Damaged on arrival",
        }
    )
    failure = fields.String(metadata={"description": "Why it failed.", "example": "the card was closed"})


class AcceptedRefundSchema(Schema):
    """A refund that was accepted."""

    id = fields.String(required=True, metadata={"example": "9f2c7a51c60be2d4a3f08b17"})
    amount = fields.Nested(MoneySchema, required=True)


class RefundAcceptedSchema(Schema):
    """The response to a refund."""

    ok = OkField()
    refund = fields.Nested(AcceptedRefundSchema, required=True)


class RefundFoundSchema(Schema):
    """One refund."""

    ok = OkField()
    refund = fields.Nested(RefundSchema, required=True)


class RefundListSchema(Schema):
    """The refunds of an order, oldest first."""

    ok = OkField()
    refunds = fields.List(fields.Nested(RefundSchema), required=True)


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


class PersonSchema(Schema):
    """The user in a path, who is no pseudonym."""

    user_id = TextField(data_key="userId", required=True, also=[_no_pseudonym])


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
        metadata={
            "description": "The customer can act until then; afterwards the order is declined.",
            "example": "2026-11-23T15:23:02.900Z",
        },
    )


class StoredMetadataField(fields.Dict):
    """What a client has noted with an order."""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {
            "description": "What the client has noted with the order; absent for nothing.",
            "additionalProperties": {"type": "string"},
            "example": {"cart": "A-1207"},
        }
        super().__init__(metadata=metadata, **kwargs)


class ItemSchema(Schema):
    """A part of an order: `quantity` of a product."""

    productId = fields.String(required=True, metadata={"example": "1"})
    productName = fields.String(required=True, metadata={"example": "Espresso machine"})
    quantity = fields.Integer(required=True, metadata={"example": 2})
    unitAmount = fields.Nested(MoneySchema, required=True, metadata={"description": "Of one."})


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
    orderStatus = OrderStatusField("Success")
    paymentStatus = WordField(PaymentStatus, "Captured")
    version = fields.Integer(required=True, metadata={"example": 2})
    createdAt = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.900Z"})
    updatedAt = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.984Z"})
    authorized = fields.Nested(
        MoneySchema, metadata={"description": "What is or was held for a capture, where an amount was authorized."}
    )
    captured = fields.Nested(
        MoneySchema,
        required=True,
        metadata={"description": "What was taken so far. Zero, as any of these, for nothing."},
    )
    refunded = fields.Nested(MoneySchema, required=True, metadata={"description": "What went back of it."})
    pending = fields.Nested(
        MoneySchema, required=True, metadata={"description": "What is reserved for refunds that are under way."}
    )
    refundable = fields.Nested(MoneySchema, required=True, metadata={"description": "What a refund can ask for now."})
    blocked = fields.Nested(
        MoneySchema,
        metadata={
            "description": "What was taken and is none of these: a dispute is open or lost, or an operator has to find out what "
            "happened to the payment."
        },
    )
    uncertain = fields.Nested(
        MoneySchema,
        metadata={
            "description": "Of what it is not known whether it was taken: an operator has to find out. `captured` is zero then."
        },
    )
    items = fields.List(
        fields.Nested(ItemSchema),
        metadata={"description": "What was ordered, where the order was placed with items; not in a list of orders."},
    )
    metadata = StoredMetadataField()
    refunds = fields.List(
        fields.Nested(RefundSchema), metadata={"description": "All refunds, oldest first; not in a list of orders."}
    )
    nextAction = fields.Nested(
        NextActionSchema,
        metadata={
            "description": "Only while the customer must act, only for the order's own user, and never in a list or stream."
        },
    )


class ParkedPaymentSchema(Schema):
    """A payment that waits for an operator."""

    orderId = fields.String(required=True, metadata=ORDER_ID)
    userId = fields.String(required=True, metadata={"example": "user-7"})
    amount = fields.Nested(MoneySchema, required=True, metadata={"description": "What the pending call moves."})
    paymentStatus = WordField(PaymentStatus, "Unknown")
    since = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.981Z"})
    ageSeconds = fields.Integer(required=True, metadata={"example": 420})
    reason = fields.String(required=True, metadata={"example": "the provider did not answer in time"})
    pendingCall = WordField(("", *PENDING_CALLS), "charge", "The call whose outcome is not known; empty for none.")
    providerKey = fields.String(
        required=True,
        metadata={"description": "The key of that call at the provider.", "example": "6920c1b05be0d3a1f2c4e687:1"},
    )
    providerReference = fields.String(
        required=True,
        metadata={"description": "The provider's id of the payment; empty where it is not known.", "example": ""},
    )
    attempts = fields.Integer(required=True, metadata={"example": 12})
    lastAnswer = fields.String(required=True, metadata={"example": "unknown: the provider did not answer in time"})
    callEnds = fields.DateTime(
        metadata={
            "description": "Until then the last call may still reach the provider, and nothing can be resolved or dropped.",
            "example": "2026-11-22T15:24:02.981Z",
        }
    )
    refundId = fields.String(
        metadata={"description": "The refund that it waits for.", "example": "9f2c7a51c60be2d4a3f08b17"}
    )


class ParkedListSchema(Schema):
    """Payments that wait for an operator."""

    ok = OkField()
    parked = fields.List(fields.Nested(ParkedPaymentSchema), required=True)
    hasMore = fields.Boolean(required=True, metadata={"example": True})
    nextCursor = fields.String(
        metadata={
            "description": "The `cursor` of the next page, if there is one.",
            "example": "WyIiLCI2OTIwIl0.c2VhbA",
        }
    )


class DeadLetterSchema(Schema):
    """An event that could not be delivered."""

    module = fields.String(required=True, metadata={"description": "Which module sends it.", "example": "orders"})
    orderId = fields.String(required=True, metadata=ORDER_ID)
    userId = fields.String(required=True, metadata={"example": "user-7"})
    amount = fields.Nested(MoneySchema, required=True, metadata={"description": "The order's total."})
    event = fields.String(required=True, metadata={"example": "OrderCreated"})
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.981Z"})
    ageSeconds = fields.Integer(required=True, metadata={"example": 420})
    failures = fields.Integer(required=True, metadata={"example": 8})
    reason = fields.String(required=True, metadata={"example": "ValueError('…')"})


class DeadLetterListSchema(Schema):
    """Events that could not be delivered, oldest first."""

    ok = OkField()
    deadLetters = fields.List(fields.Nested(DeadLetterSchema), required=True)
    hasMore = fields.Boolean(required=True, metadata={"example": False})


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


class MetadataUpdatedSchema(Schema):
    """All metadata of an order after a change."""

    ok = OkField()
    metadata = StoredMetadataField(required=True)


class ErasureSchema(Schema):
    """The erasure of a user's personal data."""

    id = fields.String(required=True, metadata={"example": "0d6a2a1c9e115f1c7b1e3a524f0a9d37"})
    pseudonym = fields.String(
        required=True,
        metadata={
            "description": "What the orders have in place of the user. It is random and cannot be undone.",
            "example": "erased-9d370d6a2a1c9e115f1c7b1e3a524f0a",
        },
    )
    requestedBy = fields.String(
        required=True,
        metadata={
            "description": "`the user`, or who else; empty where authentication is off.",
            "example": "the user",
        },
    )
    requestedAt = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.981Z"})
    completedAt = fields.DateTime(
        metadata={"description": "Absent until it is complete.", "example": "2026-11-22T15:25:03.412Z"}
    )
    orders = fields.Integer(
        metadata={
            "description": "How many orders it changed; absent for none, and until it is complete.",
            "example": 12,
        }
    )


class ErasureAcceptedSchema(Schema):
    """An erasure that is recorded and goes on."""

    ok = OkField()
    erasure = fields.Nested(ErasureSchema, required=True)


class ErasureListSchema(Schema):
    """Erasures, the newest first."""

    ok = OkField()
    erasures = fields.List(fields.Nested(ErasureSchema), required=True)


class OrderStatusSchema(Schema):
    """The status of one order."""

    ok = OkField()
    orderStatus = OrderStatusField("Success")


class OrderListSchema(Schema):
    """Orders, newest first unless `sort` says otherwise."""

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
    type = WordField(CHANGE_TYPES, "PaymentCaptured")
    at = fields.DateTime(required=True, metadata={"example": "2026-11-22T15:23:02.984Z"})
    actor = fields.String(required=True, metadata={"example": "payments"})
    # "from" is a keyword of Python.
    locals()["from"] = OrderStatusField("Processing", others=[NEW])
    to = OrderStatusField("Success")
    paymentStatus = WordField(PaymentStatus, "Captured")
    detail = fields.String(required=True, metadata={"example": "sim_5b0c2f6a"})
    amount = fields.Nested(
        MoneySchema,
        metadata={
            "description": "The money that the change is about: authorized, captured, to capture, to refund, refunded, or disputed."
        },
    )
    requestId = fields.String(metadata=REQUEST_ID)
    caller = fields.String(
        metadata={"description": "The user whose token caused it, if a client did.", "example": "user-7"}
    )


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
    orderStatus = OrderStatusField("Success")
    paymentStatus = WordField(PaymentStatus, "Captured")
    because = fields.Nested(TimelineEntrySchema, required=True, metadata={"description": "The last change."})
    waitsFor = WordField(
        [word or NOTHING for word in get_args(WaitsFor)],
        NOTHING,
        "Who or what ends the wait. `the relay` delivers events between the modules; `an operator` must decide.",
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
    requestId = fields.String(required=True, metadata=REQUEST_ID)
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

    locals()["from"] = WordField([NEW, *OrderStatus, CUSTOM], "Processing")
    by = fields.String(required=True, metadata={"example": "payment captured"})
    to = WordField([*OrderStatus, CUSTOM], "Success")
    money = fields.String(required=True, metadata={"example": "the total was taken, or the part that was captured"})


class PaymentStatusSchema(Schema):
    """A status of an order's payment."""

    status = WordField(PaymentStatus, "Captured")
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


class ProblemMeaningSchema(Schema):
    """A kind of problem: what it means, and what to do about it."""

    type = fields.String(
        required=True, metadata={"description": "The address of its page.", "example": "/problems/illegal_transition"}
    )
    code = WordField(PROBLEMS, "illegal_transition")
    title = fields.String(required=True, metadata={"example": "The order's state does not allow this"})
    status = fields.Integer(required=True, metadata={"example": 409})
    meaning = fields.String(required=True, metadata={"example": "The order's state does not allow this transition."})
    remedy = fields.String(required=True, metadata={"example": "See GET /state-machine."})


class ProblemKindSchema(ProblemMeaningSchema):
    """The meaning of a kind of problem."""

    ok = OkField()


class ProblemListSchema(Schema):
    """All kinds of problems."""

    ok = OkField()
    problems = fields.List(fields.Nested(ProblemMeaningSchema), required=True)


class NotificationsReceivedSchema(Schema):
    """How many notifications were new, and how many had come before."""

    ok = OkField()
    stored = fields.Integer(required=True, metadata={"example": 1})
    repeated = fields.Integer(required=True, metadata={"example": 0})


class RequestChangeSchema(Schema):
    """A change of an order, by its place in the timeline."""

    sequence = fields.Integer(required=True, metadata={"example": 3})
    type = WordField(CHANGE_TYPES, "RefundRequested")


class RequestAttemptSchema(Schema):
    """A call to the payment provider."""

    at = fields.DateTime(
        required=True, metadata={"description": "When it ended.", "example": "2026-11-22T15:23:02.981Z"}
    )
    call = fields.String(required=True, metadata={"example": "refund"})
    answer = fields.String(required=True, metadata={"example": "refunded"})


class OrderRequestSchema(Schema):
    """A request that changed an order, and what it led to."""

    requestId = fields.String(required=True, metadata=REQUEST_ID)
    at = fields.DateTime(
        required=True,
        metadata={"description": "The first thing that it led to.", "example": "2026-11-22T15:23:02.977Z"},
    )
    caller = fields.String(
        required=True,
        metadata={"description": "The user whose token it had; empty without identity.", "example": "user-7"},
    )
    changes = fields.List(fields.Nested(RequestChangeSchema), required=True)
    attempts = fields.List(
        fields.Nested(RequestAttemptSchema),
        required=True,
        metadata={"description": "Those among the newest 50 calls to the provider, oldest first."},
    )


class RequestsSchema(Schema):
    """The requests that changed an order, oldest first."""

    ok = OkField()
    requests = fields.List(fields.Nested(OrderRequestSchema), required=True)


class HealthSchema(Schema):
    """Whether the process is alive, or ready to serve."""

    ok = OkField()


class ReadinessSchema(Schema):
    """Which part of the process is not ready, and why."""

    ok = OkField()
    part = fields.String(
        required=True,
        validate=validate.OneOf(("process", "collections", "broker", "database")),
        metadata={"example": "database"},
    )
    reason = fields.String(required=True, metadata={"example": "no primary answers within a second"})


class ProblemErrorSchema(Schema):
    """An error in one member of a request."""

    pointer = fields.String(required=True, metadata={"description": "JSON pointer to the member."})
    detail = fields.String(required=True)


def _further(description: str, example: str) -> fields.String:
    return fields.String(metadata={"description": description, "example": example})


class ProblemSchema(Schema):
    """A problem (RFC 9457); some kinds have further members."""

    class Meta:
        unknown = INCLUDE

    ok = fields.Boolean(required=True)
    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = WordField(PROBLEMS, "illegal_transition")
    requestId = fields.String(required=True)
    errors = fields.List(fields.Nested(ProblemErrorSchema))
    parameter = _further("The query parameter or header that cannot be used.", "limit")
    source = fields.String(
        data_key="from",
        metadata={"description": "The order's status, which does not allow it.", "example": "Cancelled"},
    )
    to = _further("The status that cannot be set.", "Confirm")
    allowed = fields.List(
        fields.String(),
        metadata={
            "description": "The statuses that can be set now; `(custom)` stands for any other text.",
            "example": ["Cancelled"],
        },
    )
    paymentStatus = fields.String(
        validate=validate.OneOf([status.value for status in PaymentStatus]),
        metadata={"description": "The payment's status, which does not allow it.", "example": "ActionRequired"},
    )
    version = fields.Integer(metadata={"description": "The version that the order has.", "example": 3})
    remaining = fields.Integer(
        metadata={"description": "What can be refunded, in minor units of the order's currency.", "example": 8900}
    )
    authorized = fields.Integer(
        metadata={"description": "What is authorized, in minor units of the order's currency.", "example": 9900}
    )
    scope = _further("The scope that the token lacks.", "orders:write")
