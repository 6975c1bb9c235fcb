"""gunicorn's workers with limits: malformed requests are answered with problems, and each client's cost is bounded.

`workers` has the worker classes, `sockets` the deadlines of one connection, `connections` what the connections of a worker share,
`refusals` the responses that the server sends before the application sees a request, `embedded_database` the child process that
supervises mongod. May import observability and what is below it; knows nothing of orders or payments.
"""
