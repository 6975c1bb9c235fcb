"""Messages of webhooks: the requests it handles, and its errors; the types of events that it tells."""

from collections.abc import Mapping
from enum import StrEnum

from app.contracts.base import ApplicationError, Backlog, PersonalDataErased, QueueCounts, Reply, Request

EVENT_TYPES: Mapping[str, str] = {
    "order.created": "An order was stored and its payment begins.",
    "order.succeeded": "The money of an order was taken.",
    "order.declined": "The payment of an order was refused or given up; nothing was taken.",
    "order.cancelled": "An order was cancelled; what was taken for it goes back.",
    "order.updated": "An order changed in another way: its status, or what its payment waits for.",
    "order.refunded": "Money went back to the payer.",
    "order.refund_failed": "A refund failed, maybe after it had succeeded.",
    "order.action_required": "The customer must act before the payment goes on.",
    "order.disputed": "The payer objects to the charge.",
    "endpoint.test": "A user asked for it, to try an endpoint.",
}
TEST_EVENT = "endpoint.test"
# An order in the examples, by type: its status before and after the change, and its payment's.
EXAMPLE_STATUSES: Mapping[str, tuple[str, str, str]] = {
    "order.created": ("(new)", "Processing", "Processing"),
    "order.succeeded": ("Processing", "Success", "Captured"),
    "order.declined": ("Processing", "Declined", "Declined"),
    "order.cancelled": ("Success", "Cancelled", "Refunding"),
    "order.updated": ("Success", "Confirm", "Captured"),
    "order.refunded": ("Success", "Success", "Refunded"),
    "order.refund_failed": ("Success", "Success", "Captured"),
    "order.action_required": ("Processing", "Processing", "ActionRequired"),
    "order.disputed": ("Success", "Success", "Disputed"),
}


class SignatureScheme(StrEnum):
    """How an endpoint's webhooks are signed: HMAC-SHA256 with a shared secret, or Ed25519 with a key pair."""

    HMAC = "v1"
    ED25519 = "v1a"


class DeliveryStatus(StrEnum):
    """Pending: an attempt is due. Held: its endpoint is disabled. Failed: no further attempt is made by itself."""

    PENDING = "pending"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class EndpointView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An endpoint as its user sees it.

    `user_id` is empty for an endpoint that is told all users' orders. Times are RFC 3339 in UTC. `public_key` verifies
    Ed25519 signatures. `secret` is what the receiver verifies with; it is shown once, when it is made. `replayed`: an earlier
    request has stored it.
    """

    withheld = frozenset({"secret"})

    id: str
    url: str
    description: str
    events: tuple[str, ...]
    enabled: bool
    signature: str
    created_at: str
    version: int
    user_id: str = ""
    disabled_reason: str = ""
    failing_since: str = ""
    public_key: str = ""
    former_secret_until: str = ""
    secret: str = ""
    replayed: bool = False


class EndpointList(Reply, frozen=True, kw_only=True):
    """Endpoints, the oldest first; newer ones follow after `last_id`, unless it is empty."""

    endpoints: tuple[EndpointView, ...]
    last_id: str


class AttemptView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An attempt to deliver: the `status` of the answer, or the `error` where none came; how long it took, in milliseconds."""

    at: str
    took_ms: int
    status: int = 0
    error: str = ""
    response: str = ""


class DeliveryView(Reply, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A delivery as its endpoint's user sees it. `webhook_id` is the header of each of its attempts."""

    id: str
    endpoint_id: str
    webhook_id: str
    type: str
    status: str
    created_at: str
    tries: int
    order_id: str = ""
    next_attempt_at: str = ""
    attempts: tuple[AttemptView, ...] = ()
    body: str = ""


class DeliveryList(Reply, frozen=True, kw_only=True):
    """Deliveries, the newest first; older ones follow after `last_id`, unless it is empty."""

    deliveries: tuple[DeliveryView, ...]
    last_id: str


class DeliveriesScheduled(Reply, frozen=True, kw_only=True):
    """How many deliveries are due again."""

    count: int


class EventTypeView(Reply, frozen=True, kw_only=True):
    """A type of event: its name, when it is told, and a body as an example."""

    name: str
    description: str
    example: str


class EventTypes(Reply, frozen=True, kw_only=True):
    """All types of events."""

    types: tuple[EventTypeView, ...]


class Subscribers(Reply, frozen=True, kw_only=True):
    """Who wants webhooks: the users in `user_ids`, or with `all_users` everybody."""

    all_users: bool
    user_ids: tuple[str, ...]


class ListSubscribers(Request[Subscribers], frozen=True, kw_only=True):
    """Whose orders' changes are worth publishing."""


class ListEventTypes(Request[EventTypes], frozen=True, kw_only=True):
    """All types of events that webhooks tell."""


class CreateEndpoint(Request[EndpointView], frozen=True, kw_only=True):
    """Store an endpoint of a user, or with an empty `user_id` one for all users. The sender makes the `endpoint_id`.

    With the id of an endpoint that exists nothing is stored: the reply is that endpoint, for a day with its first secret.
    `fingerprint` is what two requests with one id must have in common. Raises InvalidEndpointMember, TooManyEndpoints,
    IdempotencyKeyReused, and EndpointNotFound where the endpoint of this id was deleted.
    """

    endpoint_id: str
    user_id: str
    url: str
    description: str
    events: tuple[str, ...]
    signature: str
    fingerprint: str = ""


class FindEndpoint(Request[EndpointView], frozen=True, kw_only=True):
    """One endpoint. Raises EndpointNotFound."""

    endpoint_id: str
    on_behalf_of: str


class ListEndpoints(Request[EndpointList], frozen=True, kw_only=True):
    """At most `limit` of the oldest endpoints of a user, or of all where `on_behalf_of` is empty.

    With `told_of`, only those that are told this user's orders: the user's own and those of all users. With `after_at` and `after_id`,
    only endpoints newer than the one with this creation time and id.
    """

    on_behalf_of: str
    limit: int
    told_of: str
    after_at: str
    after_id: str


class ChangeEndpoint(Request[EndpointView], frozen=True, kw_only=True):
    """Change the members of an endpoint that are named in `members`.

    Enabling it sends what was held. Raises EndpointNotFound, InvalidEndpointMember.
    """

    endpoint_id: str
    on_behalf_of: str
    members: tuple[str, ...]
    url: str = ""
    description: str = ""
    events: tuple[str, ...] = ()
    enabled: bool = True


class DeleteEndpoint(Request[EndpointView], frozen=True, kw_only=True):
    """Delete an endpoint, and what is not delivered to it. Raises EndpointNotFound."""

    endpoint_id: str
    on_behalf_of: str


class EraseDeliveries(Request[PersonalDataErased], frozen=True, kw_only=True):
    """Replace the user's id in the deliveries about these orders, and remove what is personal besides."""

    pseudonym: str
    order_ids: tuple[str, ...]


class EraseEndpoints(Request[PersonalDataErased], frozen=True, kw_only=True):
    """Delete a user's endpoints with all personal data in them, and all their deliveries."""

    withheld = frozenset({"user_id"})

    user_id: str
    pseudonym: str


class RotateSecret(Request[EndpointView], frozen=True, kw_only=True):
    """Give an endpoint a new secret; the former signs as well for `overlap_seconds` more. Raises EndpointNotFound.

    Not repeatable: each time makes another secret.
    """

    repeatable = False

    endpoint_id: str
    on_behalf_of: str
    overlap_seconds: int


class SendTestEvent(Request[DeliveryView], frozen=True, kw_only=True):
    """Send an event of type `endpoint.test`. The sender makes the `event_id`. Raises EndpointNotFound."""

    endpoint_id: str
    on_behalf_of: str
    event_id: str


class ListDeliveries(Request[DeliveryList], frozen=True, kw_only=True):
    """At most `limit` of an endpoint's newest deliveries. Raises EndpointNotFound.

    Empty text stands for any `status` and `order_id`; `since` and `until` are in milliseconds since 1970, 0 for no bound. With
    `before_at` and `before_id`, only deliveries older than the one with this creation time and id.
    """

    endpoint_id: str
    on_behalf_of: str
    limit: int
    status: str
    order_id: str
    since: int
    until: int
    before_at: str
    before_id: str


class FindDelivery(Request[DeliveryView], frozen=True, kw_only=True):
    """One delivery with its attempts and its body. Raises DeliveryNotFound."""

    delivery_id: str
    on_behalf_of: str


class RetryDelivery(Request[DeliveryView], frozen=True, kw_only=True):
    """Send a delivery again at once, whatever became of it. Raises DeliveryNotFound."""

    delivery_id: str
    on_behalf_of: str


class ReplayDeliveries(Request[DeliveriesScheduled], frozen=True, kw_only=True):
    """Send an endpoint's deliveries of a time that it has not taken. Raises EndpointNotFound.

    `since` and `until` are in milliseconds since 1970.
    """

    endpoint_id: str
    on_behalf_of: str
    since: int
    until: int


class CheckWebhookBacklog(Request[Backlog], frozen=True, kw_only=True):
    """How far sending is behind: deliveries that are due to endpoints that take them. Those of failing endpoints do not count."""


class CheckWebhookQueue(Request[QueueCounts], frozen=True, kw_only=True):
    """How many deliveries wait."""


class EndpointNotFound(ApplicationError):
    """The endpoint does not exist, or the caller may not see it."""

    code = "endpoint_not_found"


class DeliveryNotFound(ApplicationError):
    """The delivery does not exist, or the caller may not see it."""

    code = "delivery_not_found"


class TooManyEndpoints(ApplicationError):
    """The user has the most endpoints that a user may have."""

    code = "too_many_endpoints"


class InvalidEndpointMember(ApplicationError):
    """A member of the endpoint is not allowed; member `member` is its name."""

    code = "invalid_endpoint"
