"""Observability: the log, the stages of orders, metrics, traces, and the supervision of background threads.

May import contracts and config.
"""
