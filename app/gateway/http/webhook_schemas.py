"""Schemas of webhooks: of the requests and responses about endpoints and deliveries, and of what is told."""

from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from app.contracts.webhooks import EVENT_TYPES, DeliveryStatus, SignatureScheme
from app.gateway.http.schemas import MAX_URL_LENGTH, ORDER_ID, OkField, OrderSchema, TextField, WordField

ENDPOINT_ID = {"example": "we_6920c1b05be0d3a1f2c4e687"}
EVENT_ID = "5f0c1c6f7f0b4f6c9f8f2a1d3c4b5a69"
DELIVERY_ID = f"{EVENT_ID}.{ENDPOINT_ID['example']}"
URL = {"description": "An https address.", "example": "https://shop.example/webhooks"}
DESCRIPTION = {"example": "The warehouse"}
EVENTS = {
    "description": "Event types, or wildcards such as `order.*`.",
    "example": ["order.succeeded", "order.refund_failed"],
}
USER_ID = {"description": "Absent where the orders of all users are told.", "example": "user-7"}
AT = "2026-11-22T15:23:02.984Z"
LATER = "2026-11-22T15:28:09.120Z"
SIGNATURE = "`v1`: HMAC-SHA256 with a shared secret. `v1a`: Ed25519, verified by a public key."
HAS_MORE = fields.Boolean(required=True, metadata={"example": True})
NEXT_CURSOR = fields.String(
    metadata={
        "description": "Only if there are more.",
        "example": "WyIyMDI2LTExLTIyVDE1OjIzOjAyLjkwMFoiLCI1ZjBjIl0.c2VhbA",
    }
)
MAX_DESCRIPTION = 200
MAX_HOURS = 168


def _url(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, MAX_URL_LENGTH), metadata=URL, **kwargs)


def _description(**kwargs: Any) -> TextField:
    return TextField(MAX_DESCRIPTION, min_length=0, joiners=True, metadata=DESCRIPTION, **kwargs)


def _events(**kwargs: Any) -> fields.List[str]:
    return fields.List(TextField(64), validate=validate.Length(1, 32), metadata=EVENTS, **kwargs)


def _time(example: str, description: str = "", required: bool = True) -> fields.DateTime:
    metadata = {"example": example, **({"description": description} if description else {})}
    return fields.DateTime(required=required, metadata=metadata)


class FlagField(fields.Boolean):
    """true or false; numbers and texts that stand for them elsewhere are refused."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class NewEndpointSchema(Schema):
    """An endpoint to add. Other members are rejected."""

    class Meta:
        unknown = RAISE

    url = _url(required=True)
    description = _description(load_default="")
    events = _events(load_default=("*",))
    signature = fields.String(
        load_default=SignatureScheme.HMAC.value,
        validate=validate.OneOf([scheme.value for scheme in SignatureScheme]),
        metadata={"description": SIGNATURE, "example": "v1"},
    )
    user_id = TextField(
        data_key="userId",
        metadata={
            "description": "For an administrator: whose orders are told; absent for those of all users.",
            "example": "user-7",
        },
    )


class EndpointChangeSchema(Schema):
    """Members of an endpoint to change. Other members are rejected."""

    class Meta:
        unknown = RAISE

    url = _url()
    description = _description()
    events = _events()
    enabled = FlagField(metadata={"example": True})


class RotationSchema(Schema):
    """For how long the former secret signs as well: at most a week, and 0 where it has leaked."""

    class Meta:
        # Ignored, a misspelt member would keep a secret that has leaked.
        unknown = RAISE

    overlap_hours = fields.Integer(
        strict=True,
        data_key="overlapHours",
        load_default=24,
        validate=validate.Range(0, MAX_HOURS),
        metadata={"example": 24},
    )


class ReplayRangeSchema(Schema):
    """The times between which deliveries were recorded."""

    class Meta:
        unknown = RAISE

    since = fields.AwareDateTime(required=True, metadata={"example": "2026-11-22T15:00:00Z"})
    until = fields.AwareDateTime(
        required=True, metadata={"description": "Later than `since`.", "example": "2026-11-22T16:00:00Z"}
    )

    @validates_schema
    def check_order(self, times: dict[str, Any], **_: Any) -> None:
        """Raise ValidationError where the times are in the wrong order."""
        if times["until"] <= times["since"]:
            raise ValidationError({"until": ["Must be later than since."]})


class EndpointSchema(Schema):
    """An endpoint that is told what becomes of orders."""

    id = fields.String(required=True, metadata=ENDPOINT_ID)
    url = fields.String(required=True, metadata=URL)
    description = fields.String(required=True, metadata=DESCRIPTION)
    events = fields.List(fields.String(), required=True, metadata=EVENTS)
    enabled = fields.Boolean(required=True, metadata={"example": True})
    signature = WordField(SignatureScheme, "v1", SIGNATURE)
    createdAt = _time(AT)
    version = fields.Integer(required=True, metadata={"description": "Counts its changes.", "example": 1})
    userId = fields.String(metadata=USER_ID)
    disabledReason = fields.String(
        metadata={"description": "Why it is disabled.", "example": "it has only failed for five days"}
    )
    failingSince = _time(AT, "Since when every attempt has failed.", required=False)
    publicKey = fields.String(
        metadata={
            "description": "Verifies `v1a` signatures.",
            "example": "whpk_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        }
    )
    formerSecretUntil = _time(LATER, "Until when the former secret signs as well.", required=False)
    secret = fields.String(
        metadata={
            "description": "Verifies `v1` signatures; only in the response to the request that made it.",
            "example": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        }
    )


class EndpointFoundSchema(Schema):
    """One endpoint."""

    ok = OkField()
    endpoint = fields.Nested(EndpointSchema, required=True)


class EndpointListSchema(Schema):
    """Endpoints, the oldest first."""

    ok = OkField()
    endpoints = fields.List(fields.Nested(EndpointSchema), required=True)
    hasMore = HAS_MORE
    nextCursor = NEXT_CURSOR


class WebhookAttemptSchema(Schema):
    """An attempt to deliver."""

    at = _time(AT)
    tookMs = fields.Integer(required=True, metadata={"example": 41})
    status = fields.Integer(
        metadata={"description": "Of the receiver's answer; absent where none came.", "example": 500}
    )
    error = fields.String(metadata={"description": "Why no answer came.", "example": "no answer in time"})
    response = fields.String(
        metadata={"description": "The beginning of the answer's body; not in a list.", "example": "try later"}
    )


class DeliverySchema(Schema):
    """An event for one endpoint."""

    id = fields.String(required=True, metadata={"example": DELIVERY_ID})
    endpointId = fields.String(required=True, metadata=ENDPOINT_ID)
    webhookId = fields.String(
        required=True, metadata={"description": "The header `webhook-id` of every attempt.", "example": EVENT_ID}
    )
    type = WordField(EVENT_TYPES, "order.succeeded")
    status = WordField(
        DeliveryStatus,
        "pending",
        "`pending`: an attempt is due. `held`: its endpoint is disabled. `failed`: only a retry or a replay sends it again.",
    )
    createdAt = _time(AT)
    tries = fields.Integer(required=True, metadata={"example": 1})
    orderId = fields.String(metadata=ORDER_ID)
    nextAttemptAt = _time(LATER, required=False)
    attempts = fields.List(
        fields.Nested(WebhookAttemptSchema), metadata={"description": "The newest 20, oldest first; absent for none."}
    )
    body = fields.String(
        metadata={"description": "What is sent, and signed; not in a list.", "example": '{"type":"order.succeeded"}'}
    )


class DeliveryFoundSchema(Schema):
    """One delivery."""

    ok = OkField()
    delivery = fields.Nested(DeliverySchema, required=True)


class DeliveryListSchema(Schema):
    """Deliveries, the newest first."""

    ok = OkField()
    deliveries = fields.List(fields.Nested(DeliverySchema), required=True)
    hasMore = HAS_MORE
    nextCursor = NEXT_CURSOR


class ReplayAcceptedSchema(Schema):
    """How many deliveries are sent again."""

    ok = OkField()
    count = fields.Integer(required=True, metadata={"example": 12})


class EventTypeSchema(Schema):
    """A type of event."""

    name = WordField(EVENT_TYPES, "order.succeeded")
    description = fields.String(required=True, metadata={"example": EVENT_TYPES["order.succeeded"]})
    example = fields.String(
        required=True, metadata={"description": "A body, as JSON.", "example": '{"type":"order.succeeded"}'}
    )


class EventTypeListSchema(Schema):
    """All types of events."""

    ok = OkField()
    eventTypes = fields.List(fields.Nested(EventTypeSchema), required=True)


class ToldOrderSchema(OrderSchema):
    """An order as it was after a change, without its refunds and without what the customer must do."""

    class Meta:
        exclude = ("nextAction", "refunds")


class OrderEventDataSchema(Schema):
    """What a webhook tells of an order."""

    order = fields.Nested(ToldOrderSchema, required=True)
    sequence = fields.Integer(
        required=True,
        metadata={"description": "Counts the changes of one order without a gap.", "example": 2},
    )
    previousStatus = fields.String(
        required=True,
        metadata={
            "description": "The orderStatus before; `(new)` where the order was created.",
            "example": "Processing",
        },
    )


class OrderEventSchema(Schema):
    """The body of a webhook about an order."""

    id = fields.String(required=True, metadata={"description": "The header `webhook-id`.", "example": EVENT_ID})
    type = WordField([name for name in EVENT_TYPES if name.startswith("order.")], "order.succeeded")
    timestamp = _time(AT, "When it happened.")
    data = fields.Nested(OrderEventDataSchema, required=True)


class EndpointEventDataSchema(Schema):
    """What a webhook tells of an endpoint."""

    endpointId = fields.String(required=True, metadata=ENDPOINT_ID)


class EndpointEventSchema(Schema):
    """The body of a webhook about its endpoint."""

    id = fields.String(required=True, metadata={"description": "The header `webhook-id`.", "example": EVENT_ID})
    type = WordField([name for name in EVENT_TYPES if name.startswith("endpoint.")], "endpoint.test")
    timestamp = _time(AT, "When it happened.")
    data = fields.Nested(EndpointEventDataSchema, required=True)
