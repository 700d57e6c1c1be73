"""Estimators: what forward and backward see of a quantised tensor, and what is learned."""
