"""The crash matrix: a process is killed at each point of a scenario, another takes over, and the outcome is judged.

`cells` has one run, `points` the points at which a process may die, `world` drives the application step by step, `clients`
and `scenarios` have the actions, `judge` compares stored documents with the provider's ledger, `processes` has the two
processes of a run, and `runner` runs many cells concurrently. `cluster` does the same to the processes of a cluster.
"""
