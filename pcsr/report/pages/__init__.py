"""Pages of a report: Markdown, and the same as an offline HTML file."""

from pcsr.report.pages.page import html, write, written

__all__ = ["html", "write", "written"]
