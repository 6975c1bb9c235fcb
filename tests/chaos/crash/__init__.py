"""The crash matrix: a process is killed at every step of a scenario, another takes over, and the outcome is judged.

`cells` says what one run is, `points` where a process may end, `world` drives the application step by step, `clients`
and `scenarios` say what happens, `judge` compares stored documents with the provider's ledger, `processes` plays one
side each, and `laboratory` runs many cells at the same time. `fleet` does the same to the processes of a split system.
"""
