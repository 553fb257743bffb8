"""Measuring, showing and using trained methods."""
