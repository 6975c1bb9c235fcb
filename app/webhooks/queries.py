"""Handlers of the requests that read endpoints and deliveries."""

from datetime import UTC, datetime

from app.contracts.base import Backlog, QueueCounts
from app.contracts.webhooks import (
    EVENT_TYPES,
    CheckWebhookBacklog,
    CheckWebhookQueue,
    DeliveryList,
    DeliveryNotFound,
    DeliveryView,
    EndpointList,
    EndpointNotFound,
    EndpointView,
    EventTypes,
    EventTypeView,
    FindDelivery,
    FindEndpoint,
    ListDeliveries,
    ListEndpoints,
    ListEventTypes,
    ListSubscribers,
    Subscribers,
)
from app.messaging.handlers import handles
from app.storage.mongodb import Document
from app.webhooks.delivery_repository import DeliveryRepository
from app.webhooks.documents import delivery_view, endpoint_view
from app.webhooks.endpoint_cache import EndpointCache
from app.webhooks.endpoint_repository import EndpointRepository
from app.webhooks.event_types import example

# With more users than this it is cheaper to publish the changes of all orders than to name them.
MAX_SUBSCRIBERS = 1000


class WebhookQueries:
    """Answers requests about endpoints and deliveries. Counts end at `limit`."""

    def __init__(
        self, endpoints: EndpointRepository, deliveries: DeliveryRepository, cache: EndpointCache, limit: int
    ) -> None:
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._cache = cache
        self._limit = limit

    @handles(ListSubscribers)
    def list_subscribers(self, _request: ListSubscribers) -> Subscribers:
        """Return who has endpoints."""
        users = self._cache.users()
        all_users = "" in users or len(users) > MAX_SUBSCRIBERS
        return Subscribers(all_users=all_users, user_ids=() if all_users else users)

    @handles(ListEventTypes)
    def list_event_types(self, _request: ListEventTypes) -> EventTypes:
        """Describe the types of events."""
        return EventTypes(
            types=tuple(
                EventTypeView(name=name, description=description, example=example(name))
                for name, description in EVENT_TYPES.items()
            )
        )

    @handles(ListEndpoints)
    def list_endpoints(self, request: ListEndpoints) -> EndpointList:
        """List the endpoints that the caller may see."""
        found = self._endpoints.oldest(
            request.on_behalf_of,
            request.limit + 1,
            told_of=request.told_of,
            after=(datetime.fromisoformat(request.after_at), request.after_id) if request.after_id else None,
        )
        page = found[: request.limit]
        return EndpointList(
            endpoints=tuple(map(endpoint_view, page)), last_id=page[-1].endpoint_id if len(found) > len(page) else ""
        )

    @handles(FindEndpoint)
    def find_endpoint(self, request: FindEndpoint) -> EndpointView:
        """Find an endpoint. Raises EndpointNotFound."""
        return endpoint_view(self._endpoints.find(request.endpoint_id, request.on_behalf_of))

    @handles(ListDeliveries)
    def list_deliveries(self, request: ListDeliveries) -> DeliveryList:
        """List the deliveries of an endpoint. Raises EndpointNotFound."""
        endpoint = self._endpoints.find(request.endpoint_id, request.on_behalf_of)
        found = self._deliveries.newest(
            endpoint.endpoint_id,
            request.limit + 1,
            status=request.status,
            order_id=request.order_id,
            since=_time(request.since),
            until=_time(request.until),
            before=(datetime.fromisoformat(request.before_at), request.before_id) if request.before_id else None,
        )
        page = found[: request.limit]
        return DeliveryList(
            deliveries=tuple(map(delivery_view, page)), last_id=page[-1]["_id"] if len(found) > len(page) else ""
        )

    @handles(FindDelivery)
    def find_delivery(self, request: FindDelivery) -> DeliveryView:
        """Find a delivery with its attempts. Raises DeliveryNotFound."""
        found = visible_delivery(self._deliveries, self._endpoints, request.delivery_id, request.on_behalf_of)
        return delivery_view(found, whole=True)

    @handles(CheckWebhookBacklog)
    def check_backlog(self, _request: CheckWebhookBacklog) -> Backlog:
        """How far sending is behind."""
        due, oldest_ms = self._deliveries.backlog(self._cache.failing(), self._limit)
        return Backlog(due=due, oldest_ms=oldest_ms, overloaded=False, unfinished=due)

    @handles(CheckWebhookQueue)
    def check_queue(self, _request: CheckWebhookQueue) -> QueueCounts:
        """Count the deliveries that wait."""
        waiting, due, retrying = self._deliveries.queue(self._limit)
        return QueueCounts(open=waiting, due=due, retrying=retrying, parked=0, dead=0)


def visible_delivery(
    deliveries: DeliveryRepository, endpoints: EndpointRepository, delivery_id: str, on_behalf_of: str
) -> Document:
    """A delivery, as it is stored, to an endpoint that the user may see. Raises DeliveryNotFound."""
    found = deliveries.find(delivery_id)
    try:
        endpoints.find(found["endpointId"], on_behalf_of)
    except EndpointNotFound as exc:
        raise DeliveryNotFound("there is no such delivery") from exc
    return found


def _time(milliseconds: int) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
