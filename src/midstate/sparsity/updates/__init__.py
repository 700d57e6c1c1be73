"""Updates: when a mask may change, and whether a weight may come back."""
