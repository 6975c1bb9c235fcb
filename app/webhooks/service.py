"""Records the deliveries of orders' changes, and what users do with their endpoints."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import ParamSpec, TypeVar

import msgspec

from app.contracts.base import PersonalDataErased
from app.contracts.orders import FindOrders, IdempotencyKeyReused, OrderChanged, OrderView
from app.contracts.webhooks import (
    TEST_EVENT,
    ChangeEndpoint,
    CreateEndpoint,
    DeleteEndpoint,
    DeliveriesScheduled,
    DeliveryView,
    EndpointNotFound,
    EndpointView,
    EraseDeliveries,
    EraseEndpoints,
    InvalidEndpointMember,
    ReplayDeliveries,
    RetryDelivery,
    RotateSecret,
    SendTestEvent,
    SignatureScheme,
    TooManyEndpoints,
)
from app.messaging.bus import RequestClient
from app.messaging.handlers import handles
from app.observability.logging import log
from app.system import SYSTEM, System
from app.webhooks.delivery import Delivery, delivery_id
from app.webhooks.delivery_repository import DeliveryRepository
from app.webhooks.documents import delivery_view, endpoint_view
from app.webhooks.endpoint import (
    DISABLED_BY_USER,
    ENDPOINTS_PER_USER,
    Endpoint,
    InvalidEndpoint,
    UrlRules,
    checked_events,
    checked_url,
    rotated,
)
from app.webhooks.endpoint_cache import EndpointCache
from app.webhooks.endpoint_repository import EndpointRepository
from app.webhooks.event_types import body, event_type, has_one_body, order_body, without_personal_data
from app.webhooks.queries import visible_delivery
from app.webhooks.sender import Sender
from app.webhooks.signatures import SECRET_BYTES, Secret, secret_value

P = ParamSpec("P")
T = TypeVar("T")


class WebhookService:
    """Handles the events of orders, and every request that changes endpoints or deliveries."""

    def __init__(
        self,
        bus: RequestClient,
        endpoints: EndpointRepository,
        deliveries: DeliveryRepository,
        cache: EndpointCache,
        sender: Sender,
        urls: UrlRules,
        system: System = SYSTEM,
    ) -> None:
        self._bus = bus
        self._endpoints = endpoints
        self._deliveries = deliveries
        self._cache = cache
        self._sender = sender
        self._urls = urls
        self._system = system

    @handles(OrderChanged)
    def on_order_changed(self, events: Sequence[OrderChanged]) -> None:
        """Record a delivery of each event for each endpoint that wants it. The same event again records none."""
        wanted = [
            (event, receivers)
            for event in events
            if (receivers := self._cache.receivers(event_type(event), event.user_id))
        ]
        if not wanted:
            return
        orders = {event.event_id: event.order for event, _ in wanted if event.order}
        orders |= self._orders([event for event, _ in wanted if not event.order])
        for event, _ in wanted:
            if event.event_id not in orders:
                log.error("webhook without order", module="webhooks", order_id=event.order_id, event_id=event.event_id)
        bodies = {
            event.event_id: order_body(event, orders[event.event_id]) for event, _ in wanted if event.event_id in orders
        }
        self._store(
            [
                (_delivery(event, bodies[event.event_id], endpoint.endpoint_id), endpoint)
                for event, receivers in wanted
                if event.event_id in bodies
                for endpoint in receivers
            ],
            {event.event_id for event, _ in wanted if has_one_body(event)},
        )

    @handles(CreateEndpoint)
    def create(self, request: CreateEndpoint) -> EndpointView:
        """Store an endpoint; the answer has its secret. A repeated request gets the endpoint of the first one."""
        try:
            return self._repeated(request, self._endpoints.find(request.endpoint_id, request.user_id))
        except EndpointNotFound:
            return self._create(request)

    def _create(self, request: CreateEndpoint) -> EndpointView:
        endpoint = Endpoint(
            endpoint_id=request.endpoint_id,
            user_id=request.user_id,
            url=_checked(checked_url, request.url, self._urls),
            description=request.description,
            events=_checked(checked_events, request.events),
            secrets=(self._new_secret(SignatureScheme(request.signature)),),
            created_at=self._endpoints.now(),
            fingerprint=request.fingerprint,
        )
        if self._endpoints.count(request.user_id, ENDPOINTS_PER_USER) >= ENDPOINTS_PER_USER:
            raise TooManyEndpoints(f"a user may have {ENDPOINTS_PER_USER} endpoints")
        stored = self._endpoints.add(endpoint)
        self._cache.put(stored)
        return endpoint_view(stored, with_secret=True) if stored is endpoint else self._repeated(request, stored)

    def _repeated(self, request: CreateEndpoint, stored: Endpoint) -> EndpointView:
        if stored.fingerprint != request.fingerprint:
            raise IdempotencyKeyReused("this Idempotency-Key belongs to another endpoint")
        view = endpoint_view(stored, with_secret=stored.shows_secret(self._endpoints.now()))
        return msgspec.structs.replace(view, replayed=True)

    @handles(ChangeEndpoint)
    def change(self, request: ChangeEndpoint) -> EndpointView:
        """Change an endpoint; what was held is due as soon as it is enabled."""

        def decide(current: Endpoint) -> Endpoint:
            changed = current
            if "url" in request.members:
                changed = replace(changed, url=_checked(checked_url, request.url, self._urls))
            if "description" in request.members:
                changed = replace(changed, description=request.description)
            if "events" in request.members:
                changed = replace(changed, events=_checked(checked_events, request.events))
            if "enabled" in request.members and request.enabled:
                changed = replace(changed, disabled_reason="", failing_since=None)
            elif "enabled" in request.members:
                changed = replace(changed, disabled_reason=current.disabled_reason or DISABLED_BY_USER)
            return changed

        endpoint = self._endpoints.change(request.endpoint_id, request.on_behalf_of, decide)
        self._cache.put(endpoint)
        if endpoint.enabled:
            self._deliveries.send_held(endpoint.endpoint_id)
        else:
            self._deliveries.hold(endpoint.endpoint_id)
        self._sender.forget(endpoint.endpoint_id)
        return endpoint_view(endpoint)

    @handles(DeleteEndpoint)
    def delete(self, request: DeleteEndpoint) -> EndpointView:
        """Delete an endpoint, and what it has not taken."""
        endpoint = self._endpoints.delete(request.endpoint_id, request.on_behalf_of)
        self._cache.remove(endpoint.endpoint_id)
        self._sender.forget(endpoint.endpoint_id)
        self._deliveries.delete_undelivered(endpoint.endpoint_id)
        return endpoint_view(endpoint)

    @handles(EraseDeliveries)
    def erase_deliveries(self, request: EraseDeliveries) -> PersonalDataErased:
        """Erase a user's personal data in the deliveries about some orders."""
        changed = partial(without_personal_data, pseudonym=request.pseudonym)
        return PersonalDataErased(documents=self._deliveries.rewrite(request.order_ids, changed))

    @handles(EraseEndpoints)
    def erase_endpoints(self, request: EraseEndpoints) -> PersonalDataErased:
        """Delete a user's endpoints and all their deliveries."""
        erased = self._endpoints.erase(request.user_id, request.pseudonym)
        for endpoint_id in erased:
            self._cache.remove(endpoint_id)
            self._sender.forget(endpoint_id)
        # Also those of an earlier try that erased the endpoints and no more.
        self._deliveries.delete_all([*erased, *self._endpoints.ids_of(request.pseudonym)])
        return PersonalDataErased(documents=len(erased))

    @handles(RotateSecret)
    def rotate_secret(self, request: RotateSecret) -> EndpointView:
        """Give an endpoint a new secret, of the same kind; the answer has it."""

        def decide(current: Endpoint) -> Endpoint:
            new = self._new_secret(current.signature)
            return rotated(current, new, self._endpoints.now(), request.overlap_seconds)

        endpoint = self._endpoints.change(request.endpoint_id, request.on_behalf_of, decide)
        self._cache.put(endpoint)
        return endpoint_view(endpoint, with_secret=True)

    @handles(SendTestEvent)
    def test(self, request: SendTestEvent) -> DeliveryView:
        """Record a delivery of type `endpoint.test`, whatever events the endpoint wants."""
        endpoint = self._endpoints.find(request.endpoint_id, request.on_behalf_of)
        at = int(self._endpoints.now().timestamp() * 1000)
        tested = Delivery(
            delivery_id=delivery_id(request.event_id, endpoint.endpoint_id),
            endpoint_id=endpoint.endpoint_id,
            event_id=request.event_id,
            event_type=TEST_EVENT,
            order_id="",
            body=body(request.event_id, TEST_EVENT, at, {"endpointId": endpoint.endpoint_id}),
        )
        self._cache.put(endpoint)
        due, held = ([tested], []) if endpoint.enabled else ([], [tested])
        self._deliveries.add([], due, held)
        # A command line records it as well, and sends nothing.
        self._sender.forget(endpoint.endpoint_id)
        return delivery_view(self._deliveries.find(tested.delivery_id))

    @handles(RetryDelivery)
    def retry(self, request: RetryDelivery) -> DeliveryView:
        """Make a delivery due at once. Raises DeliveryNotFound."""
        found = visible_delivery(self._deliveries, self._endpoints, request.delivery_id, request.on_behalf_of)
        self._deliveries.retry(request.delivery_id)
        self._sender.forget(found["endpointId"])
        return delivery_view(self._deliveries.find(request.delivery_id))

    @handles(ReplayDeliveries)
    def replay(self, request: ReplayDeliveries) -> DeliveriesScheduled:
        """Make due what an endpoint has not taken of a time."""
        endpoint = self._endpoints.find(request.endpoint_id, request.on_behalf_of)
        count = self._deliveries.replay(endpoint.endpoint_id, _time(request.since), _time(request.until))
        self._sender.forget(endpoint.endpoint_id)
        return DeliveriesScheduled(count=count)

    def _store(self, wanted: Sequence[tuple[Delivery, Endpoint]], with_one_body: Collection[str]) -> None:
        enabled = [one for one, endpoint in wanted if endpoint.enabled]
        held = [one for one, endpoint in wanted if not endpoint.enabled]
        # If this process dies before it has stored a delivery, the next one makes its body anew.
        first = self._sender.attempt_first(one for one in enabled if one.event_id in with_one_body)
        attempted = self._sender.ended(first)
        ended = {one.delivery.delivery_id for one in attempted}
        unfinished = [one for one in enabled if one.delivery_id in first.unfinished]
        others = [one for one in enabled if one.delivery_id not in ended | first.unfinished]
        claimed = self._sender.accepted(others)
        accepted = {one.delivery_id for one in claimed}
        due = [one for one in others if one.delivery_id not in accepted]
        try:
            stored = self._deliveries.add([*claimed, *unfinished], due, held, attempted)
        finally:
            self._sender.end_first(first)
        self._sender.submit(one for one in stored if one.delivery_id in accepted)
        if due:
            self._sender.wake()

    def _orders(self, events: Sequence[OrderChanged]) -> dict[str, OrderView]:
        """The orders of these events as they are now, as far as they exist, by event."""
        if not events:
            return {}
        order_ids = tuple(dict.fromkeys(event.order_id for event in events))
        found = self._bus.request(FindOrders(request_id=events[0].request_id, order_ids=order_ids, with_items=True))
        orders = {order.id: order for order in found.orders}
        return {event.event_id: orders[event.order_id] for event in events if event.order_id in orders}

    def _new_secret(self, scheme: SignatureScheme) -> Secret:
        value = secret_value(scheme, self._system.random.randbytes(SECRET_BYTES))
        return Secret(value=value, created_at=self._endpoints.now())


def _delivery(event: OrderChanged, text: str, endpoint_id: str) -> Delivery:
    return Delivery(
        delivery_id=delivery_id(event.event_id, endpoint_id),
        endpoint_id=endpoint_id,
        event_id=event.event_id,
        event_type=event_type(event),
        order_id=event.order_id,
        body=text,
    )


def _checked(check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return check(*args, **kwargs)
    except InvalidEndpoint as exc:
        raise InvalidEndpointMember(str(exc), member=exc.member) from exc


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
