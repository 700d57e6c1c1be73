"""Benchmarks: one module a sub-command of scripts/bench.py, each with `measure(repeats)` returning rows."""
