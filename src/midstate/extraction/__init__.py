"""Physical extraction: what masks have pruned is removed for real, and a smaller network computes the same."""
