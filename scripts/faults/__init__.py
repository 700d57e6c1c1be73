"""Faults, caused for real: one module a sub-command of scripts/faults.py, each with `measure(times, seed)`."""
