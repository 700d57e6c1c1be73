"""Errors, checks, seeds, times and files for all other packages; knows nothing of pruning."""
