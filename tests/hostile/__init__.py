"""Hostile inputs, sound ones beside them, for the unit tests and for ``make torture``."""
