"""The bus between processes, over RabbitMQ. Only this package knows AMQP.

A request goes to its owner's queue and is answered over RabbitMQ's direct reply-to; requests that are made at the same
time travel in one message. A batch of events is one message too: it goes to a durable topic exchange, and from there to
one quorum queue for each subscribed module.

Events count as delivered only when a receipt says that the receiving module has handled them. Until then they stay in
the sender's outbox, and its relay repeats them. So no event is lost even if the broker loses all its data, and the
events of one order arrive in sequence, because the next is sent after the receipt of the one before. A receiver
recognises repeated events by their sequence and ignores them.
"""
