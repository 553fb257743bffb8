"""Data of an explorer page: its ``content``, each method (``subject``), the knob's ``stops``."""
