"""Measures how fast Orderflow is beside plain applications with the same database settings.

`python -m tools.bench --help` lists the commands. `runner` has the rounds of a run, `contestants` the servers, `targets` the
figures to reach. It may import `tools.cluster`, not `tools.chaos`.
"""
