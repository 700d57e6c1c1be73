"""From claims to runs: what has to be run, and running it; `scripts/reproduce.py` is its command line."""
