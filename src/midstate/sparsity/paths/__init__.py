"""Paths: the intermediate states (中间态) a network passes through from dense to its target."""
