"""The documents of endpoints and deliveries in MongoDB."""

import pymongo

from app.contracts.base import rfc3339
from app.contracts.webhooks import AttemptView, DeliveryStatus, DeliveryView, EndpointView, SignatureScheme
from app.storage.mongodb import Document
from app.webhooks.delivery import AttemptResult, Delivery
from app.webhooks.endpoint import Endpoint
from app.webhooks.signatures import Secret

# Deliveries are kept as a record for so long, and the ids of deleted endpoints until no process can have them in memory.
KEPT_SECONDS = 30 * 86_400
TEXT: Document = {"bsonType": "string"}
DATE: Document = {"bsonType": "date"}
INTEGER: Document = {"bsonType": ["int", "long"]}
SECRET: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["value", "createdAt"],
    "properties": {"value": TEXT, "createdAt": DATE, "expiresAt": DATE},
}
ENDPOINT_SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["_id", "userId", "url", "events", "secrets", "createdAt", "changedAt", "version"],
    "properties": {
        **dict.fromkeys(("_id", "userId", "url", "description", "disabledReason", "fingerprint"), TEXT),
        **dict.fromkeys(("createdAt", "changedAt", "failingSince", "deletedAt"), DATE),
        "events": {"bsonType": "array", "items": TEXT},
        "secrets": {"bsonType": "array", "items": SECRET},
        "version": INTEGER,
    },
}
ENDPOINT_INDEXES = [
    # Endpoints that are not deleted are those without a time in `deletedAt`.
    pymongo.IndexModel([("userId", 1), ("deletedAt", 1), ("createdAt", 1), ("_id", 1)], name="oldest_of_user"),
    pymongo.IndexModel([("deletedAt", 1), ("createdAt", 1), ("_id", 1)], name="by_age"),
    pymongo.IndexModel([("changedAt", 1)], name="changed"),
    pymongo.IndexModel([("deletedAt", 1)], name="kept", expireAfterSeconds=KEPT_SECONDS),
]
ATTEMPT: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["at", "tookMs"],
    "properties": {"at": DATE, "tookMs": INTEGER, "status": INTEGER, "error": TEXT, "response": TEXT},
}
DELIVERY_SCHEMA: Document = {
    "bsonType": "object",
    "additionalProperties": False,
    "required": ["_id", "endpointId", "eventId", "type", "body", "status", "createdAt", "tries"],
    "properties": {
        **dict.fromkeys(("_id", "endpointId", "eventId", "type", "orderId", "body", "claim"), TEXT),
        **dict.fromkeys(("createdAt", "dueAt"), DATE),
        "status": {"enum": [status.value for status in DeliveryStatus]},
        "tries": INTEGER,
        "attempts": {"bsonType": "array", "items": ATTEMPT},
    },
}
# The name of the index that finds what is due by endpoint.
TURNS = "turns"
DELIVERY_INDEXES = [
    pymongo.IndexModel(
        [("dueAt", 1), ("endpointId", 1)], name="due", partialFilterExpression={"dueAt": {"$exists": True}}
    ),
    pymongo.IndexModel(
        [("endpointId", 1), ("dueAt", 1)], name=TURNS, partialFilterExpression={"dueAt": {"$exists": True}}
    ),
    pymongo.IndexModel([("endpointId", 1), ("createdAt", -1), ("_id", -1)], name="endpoint"),
    pymongo.IndexModel(
        [("status", 1), ("endpointId", 1)], name="held", partialFilterExpression={"status": DeliveryStatus.HELD.value}
    ),
    pymongo.IndexModel(
        [("orderId", 1), ("endpointId", 1), ("createdAt", -1), ("_id", -1)],
        name="order",
        partialFilterExpression={"orderId": {"$exists": True}},
    ),
    pymongo.IndexModel([("createdAt", 1)], name="kept", expireAfterSeconds=KEPT_SECONDS),
]
# So many attempts are kept of each delivery, the newest.
MAX_ATTEMPTS = 20


def endpoint_document(endpoint: Endpoint) -> Document:
    """The document of an endpoint, without the time of its last change."""
    doc: Document = {
        "_id": endpoint.endpoint_id,
        "userId": endpoint.user_id,
        "url": endpoint.url,
        "description": endpoint.description,
        "events": list(endpoint.events),
        "secrets": [_secret_document(secret) for secret in endpoint.secrets],
        "createdAt": endpoint.created_at,
        "version": endpoint.version,
    }
    if endpoint.disabled_reason:
        doc["disabledReason"] = endpoint.disabled_reason
    if endpoint.failing_since:
        doc["failingSince"] = endpoint.failing_since
    if endpoint.fingerprint:
        doc["fingerprint"] = endpoint.fingerprint
    return doc


def endpoint_of(doc: Document) -> Endpoint:
    """An endpoint from its document."""
    return Endpoint(
        endpoint_id=doc["_id"],
        user_id=doc["userId"],
        url=doc["url"],
        description=doc["description"],
        events=tuple(doc["events"]),
        secrets=tuple(
            Secret(value=secret["value"], created_at=secret["createdAt"], expires_at=secret.get("expiresAt"))
            for secret in doc["secrets"]
        ),
        created_at=doc["createdAt"],
        version=doc["version"],
        disabled_reason=doc.get("disabledReason", ""),
        failing_since=doc.get("failingSince"),
        fingerprint=doc.get("fingerprint", ""),
    )


def endpoint_view(endpoint: Endpoint, with_secret: bool = False) -> EndpointView:
    """An endpoint as its user sees it; `with_secret` where the secret was made just now."""
    newest, *former = endpoint.secrets
    is_hmac = newest.scheme == SignatureScheme.HMAC
    ends = max((secret.expires_at for secret in former if secret.expires_at), default=None)
    return EndpointView(
        id=endpoint.endpoint_id,
        user_id=endpoint.user_id,
        url=endpoint.url,
        description=endpoint.description,
        events=endpoint.events,
        enabled=endpoint.enabled,
        disabled_reason=endpoint.disabled_reason,
        failing_since=rfc3339(endpoint.failing_since) if endpoint.failing_since else "",
        signature=newest.scheme,
        public_key="" if is_hmac else newest.shared,
        former_secret_until=rfc3339(ends) if ends else "",
        secret=newest.value if with_secret and is_hmac else "",
        created_at=rfc3339(endpoint.created_at),
        version=endpoint.version,
    )


def delivery_document(delivery: Delivery) -> Document:
    """The document of a new delivery, without its times and status."""
    doc: Document = {
        "_id": delivery.delivery_id,
        "endpointId": delivery.endpoint_id,
        "eventId": delivery.event_id,
        "type": delivery.event_type,
        "body": delivery.body,
        "tries": 0,
    }
    return {**doc, "orderId": delivery.order_id} if delivery.order_id else doc


def delivery_of(doc: Document) -> Delivery:
    """A delivery from its document."""
    return Delivery(
        delivery_id=doc["_id"],
        endpoint_id=doc["endpointId"],
        event_id=doc["eventId"],
        event_type=doc["type"],
        order_id=doc.get("orderId", ""),
        body=doc["body"],
        tries=doc["tries"],
    )


def delivery_view(doc: Document, whole: bool = False) -> DeliveryView:
    """A delivery as its endpoint's user sees it; `whole` with its body and the answers to its attempts."""
    return DeliveryView(
        id=doc["_id"],
        endpoint_id=doc["endpointId"],
        webhook_id=doc["eventId"],
        type=doc["type"],
        order_id=doc.get("orderId", ""),
        status=doc["status"],
        created_at=rfc3339(doc["createdAt"]),
        tries=doc["tries"],
        next_attempt_at=rfc3339(doc["dueAt"]) if "dueAt" in doc else "",
        attempts=tuple(_attempt_view(attempt, whole) for attempt in doc.get("attempts", ())),
        body=doc["body"] if whole else "",
    )


def attempt_document(result: AttemptResult, at: object) -> Document:
    """An attempt as it is kept."""
    doc: Document = {"at": at, "tookMs": result.took_ms}
    members = {"status": result.status, "error": result.error, "response": result.response}
    return {**doc, **{name: value for name, value in members.items() if value}}


def _attempt_view(attempt: Document, whole: bool) -> AttemptView:
    return AttemptView(
        at=rfc3339(attempt["at"]),
        took_ms=attempt["tookMs"],
        status=attempt.get("status", 0),
        error=attempt.get("error", ""),
        response=attempt.get("response", "") if whole else "",
    )


def _secret_document(secret: Secret) -> Document:
    doc: Document = {"value": secret.value, "createdAt": secret.created_at}
    return {**doc, "expiresAt": secret.expires_at} if secret.expires_at else doc
