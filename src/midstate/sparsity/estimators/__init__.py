"""Estimators: what forward and backward see of a masked weight."""
