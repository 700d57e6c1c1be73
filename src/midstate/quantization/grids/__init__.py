"""Grids: which values the weights of a layer may have."""
