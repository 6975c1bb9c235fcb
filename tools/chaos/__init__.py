"""Injects faults while clients place orders, then checks that no order was lost, stuck or charged twice.

`python -m tools.chaos --help` lists the options. `server_run` has the run against one server, `cluster_run` the one against a
cluster. It may import `tools.cluster`, not `tools.bench`.
"""
