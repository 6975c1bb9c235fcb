"""Runs each module as a process of its own on this machine: RabbitMQ, mongod, gateway, orders, payments, webhooks.

`python -m tools.cluster` (`make split`) shows it; `tools.chaos`, `tools.bench` and the tests use the same pieces. It
imports neither `tools.chaos` nor `tools.bench`.
"""
