"""Allocations: how much goes from each layer."""
