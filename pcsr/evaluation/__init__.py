"""Measure, show and use trained methods."""
