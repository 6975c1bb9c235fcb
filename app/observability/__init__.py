"""What shows how the process works: the log, the stages of orders, metrics, traces, and the health of threads.

May import contracts and config.
"""
