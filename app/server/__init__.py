"""gunicorn's workers as Orderflow runs them: refusals as problems, and a bound on what one client may cost.

`workers` holds the worker classes, `sockets` the deadlines of one connection, `connections` what the connections of a worker share,
`refusals` the answers that the server gives before the application sees a request. Nothing here knows orders or payments.
"""
