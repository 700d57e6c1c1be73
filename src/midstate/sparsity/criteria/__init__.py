"""Criteria: which unit matters less."""
