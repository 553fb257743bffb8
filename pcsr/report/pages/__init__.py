"""Pages of a report: Markdown, and the same as an HTML file that needs nothing from a network."""

from pcsr.report.pages.page import html, write, written

__all__ = ["html", "write", "written"]
