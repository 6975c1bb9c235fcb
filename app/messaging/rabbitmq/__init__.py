"""The bus between processes, over RabbitMQ. The only code that knows AMQP."""
