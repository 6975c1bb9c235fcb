"""Names and declarations of exchanges and queues, and the AMQP properties that both sides use."""

from collections.abc import Iterable

from kombu.entity import Exchange, Queue, binding
from kombu.transport.pyamqp import Channel

# RabbitMQ's pseudo-queue for replies to the connection that sent a request.
REPLY_TO = "amq.rabbitmq.reply-to"
REQUESTS_QUEUE, EVENTS_QUEUE, DEAD_QUEUE = "requests", "events", "dead"
# Message types of request batches. Long polls are handled apart, because they take as long as their clients wait.
REQUESTS, LONG_POLLS = "requests", "long polls"
# A header of a batch of events: the modules whose receipts the sender waits for.
REQUIRED_CONSUMERS = "required_consumers"
# A header that the broker adds: how often it has delivered the message before.
DELIVERY_COUNT = "x-delivery-count"
# After so many deliveries a message is not handled any more; usually the processes that handled it died.
DELIVERY_LIMIT = 6


class Topology:
    """The exchanges and queues of one deployment; `prefix` is the first part of all their names."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.events_exchange = f"{prefix}.events"

    def queue_name(self, module: str, kind: str) -> str:
        """The name of a module's queue of one kind."""
        return f"{self._prefix}.{module}.{kind}"

    def declare_requests(self, channel: Channel, module: str) -> None:
        """Declare the queue of a module's requests."""
        # Requests need not be kept, but a quorum queue survives the loss of the node that leads it.
        Queue(
            self.queue_name(module, REQUESTS_QUEUE),
            durable=True,
            queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT},
        ).declare(channel=channel)

    def declare_events(self, channel: Channel, module: str, event_types: Iterable[str]) -> None:
        """Declare the queue of events for a module, its bindings, and the queue of its dead letters."""
        dead = Exchange(f"{self._prefix}.dead", "direct", durable=True)
        Queue(
            self.queue_name(module, DEAD_QUEUE), dead, module, durable=True, queue_arguments={"x-queue-type": "quorum"}
        ).declare(channel=channel)
        exchange = Exchange(self.events_exchange, "topic", durable=True)
        Queue(
            self.queue_name(module, EVENTS_QUEUE),
            bindings=[binding(exchange, event_type) for event_type in event_types],
            durable=True,
            queue_arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": dead.name,
                "x-dead-letter-routing-key": module,
                # A dead letter leaves this queue only after the other has stored it.
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ).declare(channel=channel)
