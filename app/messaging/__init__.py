"""Communication between modules: the bus, in one process or over RabbitMQ, the outbox with its relay, the live feed.

May be imported by the modules and what composes them; imports storage and the rooms below it. Only `signal_bus` uses
blinker, only `rabbitmq` uses AMQP.
"""
