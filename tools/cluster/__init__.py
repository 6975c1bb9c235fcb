"""Runs each module as a process of its own on this machine: RabbitMQ, mongod, gateway, orders, payments.

`make split` shows it; the chaos run, the tests and the bench use the same pieces.
"""
