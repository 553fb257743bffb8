"""Broken and hostile inputs by the thousand, kills and full disks: ``make torture``.

A module per kind. The unit tests take a fast sample from the same generators.
"""
