"""How fast Orderflow is, beside plain peers on the same database settings; `python -m tools.bench --help` starts it.

race.py tells what a run is, contestants.py who takes part, targets.py what is wanted.
"""
