"""What everything may use: errors, checks, seeds, times, files. Knows nothing of pruning."""
