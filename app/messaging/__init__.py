"""How modules talk: the bus, in one process or over RabbitMQ, the outbox with its relay, and the live feed.

May import storage and what is below it. Only `signal_bus` knows blinker, only `rabbitmq` AMQP.
"""
