"""Physical extraction: what masks have pruned is removed for real, and a smaller network computes the same."""

from midstate.extraction.extracting import extract

__all__ = ["extract"]
