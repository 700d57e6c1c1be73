"""Estimators: forward value and gradient of a quantised tensor, and its learned parameters."""
