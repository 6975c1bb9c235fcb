"""Webhooks: tells users' systems over HTTP what becomes of their orders.

May import messaging, storage, observability, contracts and config; never orders, payments or the gateway.
"""

from app.config import Settings
from app.messaging.bus import Bus
from app.messaging.handlers import register_handlers
from app.observability.supervision import Heartbeat
from app.storage.mongodb import Store
from app.system import SYSTEM, System
from app.webhooks.delivery import RetrySchedule
from app.webhooks.delivery_repository import RESULT_SECONDS, DeliveryRepository
from app.webhooks.endpoint import UrlRules
from app.webhooks.endpoint_cache import EndpointCache
from app.webhooks.endpoint_repository import EndpointRepository
from app.webhooks.http_client import TOTAL_SECONDS, WebhookClient
from app.webhooks.public_addresses import AddressRules
from app.webhooks.queries import WebhookQueries
from app.webhooks.sender import Sender
from app.webhooks.service import WebhookService

# A claim outlives the wait for a thread, the attempt, and the recording of its result.
CLAIM_SECONDS = 2 * TOTAL_SECONDS
MAX_WAIT_SECONDS = CLAIM_SECONDS - TOTAL_SECONDS - 2 * RESULT_SECONDS
RETRIES = RetrySchedule()


class Webhooks:
    """The module: its handlers on the bus, and its work in the background, which is the sender."""

    def __init__(
        self, bus: Bus, endpoints: Store, deliveries: Store, settings: Settings, system: System = SYSTEM
    ) -> None:
        self._endpoints = EndpointRepository(endpoints)
        self._deliveries = DeliveryRepository(deliveries, CLAIM_SECONDS, system)
        local = settings.webhook_http
        self._client = WebhookClient(AddressRules(loopback=local, networks=settings.webhook_private_networks))
        self._cache = cache = EndpointCache(self._endpoints, system)
        self.sender = Sender(
            self._endpoints,
            self._deliveries,
            cache,
            self._client.post,
            threads=settings.webhook_threads,
            per_endpoint=settings.webhook_threads_per_endpoint,
            max_wait=MAX_WAIT_SECONDS,
            interval=settings.sweep_interval,
            retries=RETRIES,
            system=system,
        )
        urls = UrlRules(plain_http=local, ports=settings.webhook_port_numbers)
        register_handlers(
            bus,
            "webhooks",
            WebhookService(bus, self._endpoints, self._deliveries, cache, self.sender, urls, system),
            WebhookQueries(self._endpoints, self._deliveries, cache, settings.backlog_limit),
        )

    @property
    def heartbeats(self) -> tuple[Heartbeat, ...]:
        """The background thread."""
        return (self.sender.thread,)

    def unready_reason(self) -> str:
        """Why deliveries are not sent; empty where they are."""
        try:
            self._cache.users()
        except Exception:
            return "the endpoints cannot be read, so nothing is recorded or sent"
        return ""

    def prepare(self) -> None:
        """Create the collections' validators and indexes."""
        self._endpoints.prepare()
        self._deliveries.prepare()

    def start(self) -> None:
        """Start to send."""
        self.sender.start()

    def drain(self) -> None:
        """Nothing to do: what is recorded is attempted until the module stops."""

    def stop(self, timeout: float) -> None:
        """Let running attempts end; others are attempted by another process, or after the next start."""
        self.sender.stop(timeout)
        self._client.close()
