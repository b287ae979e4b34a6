"""Sweeps: many runs of one config that differ in some fields, and which of them is best.

`space.py` says what is tried, and is what a config file imports for its `sweep()`. `checking.py` holds each point
against the config before anything starts; `record.py` keeps tune.json; `results.py` reads what the runs have written;
`halving.py` and `search.py` decide what is run next; `plan.py` puts these together and knows no process; `table.py`
prints. scripts/tune starts the runs (scripts/points.py).
"""
