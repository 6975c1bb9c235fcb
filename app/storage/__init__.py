"""Access to MongoDB: connection, deadlines, bulk writes, group commit, rate limit counters, the embedded mongod.

May import observability and what is below it. Knows nothing of orders or payments.
"""
