"""Patterns: what goes together (unit), and among which the top-k is taken (group)."""
