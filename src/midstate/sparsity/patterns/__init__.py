"""Patterns: what is pruned together (unit), and within what the top-k is taken (group)."""
