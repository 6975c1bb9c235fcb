"""What clients may send and what they get: marshmallow schemas, which the OpenAPI document is made from as well."""

import re
from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, validate

from app.gateway.money import Money, MoneyError, parse

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _printable(text: str) -> None:
    if UNPRINTABLE.search(text):
        raise ValidationError("Must not contain control characters.")
    if not text.strip():
        raise ValidationError("Must not be blank.")


class Text(fields.String):
    """Text of a bounded length, not blank, without control characters."""

    def __init__(self, longest: int = 128, **kwargs: Any) -> None:
        super().__init__(validate=[validate.Length(1, longest), _printable], **kwargs)


class Amount(fields.Field[Money]):
    """Money, as text with its currency or as `{value, currency}` in minor units."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Money:
        try:
            return parse(value)
        except MoneyError as exc:
            raise ValidationError(str(exc)) from None


class NewOrderSchema(Schema):
    """An order to place."""

    class Meta:
        unknown = EXCLUDE

    user_id = Text(data_key="userId", required=True, metadata={"example": "user-7"})
    product_id = Text(data_key="productId", required=True, metadata={"example": "1"})
    product_name = Text(512, data_key="productName", required=True, metadata={"example": "Espresso machine"})
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
    """A refund to make; all that is left where no amount is given."""

    class Meta:
        unknown = EXCLUDE

    amount = Amount(metadata={"example": "RM 10"})


class RefundSchema(Schema):
    """A refund that is under way."""

    id = fields.String(required=True)
    amount = fields.Nested(lambda: MoneySchema(), required=True)


class RefundAnswerSchema(Schema):
    """The answer to a refund."""

    ok = fields.Boolean(required=True)
    refund = fields.Nested(RefundSchema, required=True)


class UserSchema(Schema):
    """The user in a path."""

    user_id = Text(data_key="userId", required=True)


class MoneySchema(Schema):
    """An amount in minor units of its currency."""

    value = fields.Integer(required=True)
    currency = fields.String(required=True)


class OrderSchema(Schema):
    """An order."""

    id = fields.String(required=True)
    userId = fields.String(required=True)
    productId = fields.String(required=True)
    productName = fields.String(required=True)
    totalOrderAmount = fields.String(required=True, metadata={"description": "As the client wrote it."})
    total = fields.Nested(MoneySchema, required=True)
    orderStatus = fields.String(required=True)
    paymentStatus = fields.String(required=True)
    version = fields.Integer(required=True)
    createdAt = fields.DateTime(required=True)
    updatedAt = fields.DateTime(required=True)


class CreatedIdSchema(Schema):
    """The id of a new order."""

    id = fields.String(required=True)


class OrderCreatedSchema(Schema):
    """The answer to a new order."""

    ok = fields.Boolean(required=True)
    created = fields.Nested(CreatedIdSchema, required=True)
    payment = fields.String(required=True)


class OrderUpdatedSchema(Schema):
    """The answer to a step."""

    ok = fields.Boolean(required=True)
    message = fields.String(required=True)


class OrderAnswerSchema(Schema):
    """One order."""

    ok = fields.Boolean(required=True)
    order = fields.Nested(OrderSchema, required=True)


class OrderStatusSchema(Schema):
    """The status of one order."""

    ok = fields.Boolean(required=True)
    orderStatus = fields.String(required=True)


class OrderListSchema(Schema):
    """Orders of a user, newest first."""

    ok = fields.Boolean(required=True)
    orders = fields.List(fields.Nested(OrderSchema), required=True)


class HealthSchema(Schema):
    """Whether the process lives, or can serve."""

    ok = fields.Boolean(required=True)


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
