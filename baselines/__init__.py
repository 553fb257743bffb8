"""Tile-level baselines on the suite's method contract (``pcsr.methods.base``)."""
