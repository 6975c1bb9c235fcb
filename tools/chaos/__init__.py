"""Kills everything that can be killed while clients place orders, then looks whether anything was lost.

Start with `python -m tools.chaos --help`; harness.py tells what a run of one server is, fleet_run.py that of a fleet.
"""
