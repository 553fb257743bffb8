"""Weights files: our own, released ones, and which are available."""
