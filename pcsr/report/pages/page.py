"""A page of Markdown as an offline HTML file."""

import base64
import hashlib
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from pcsr.report.pages import tables
from pcsr.storage import files


def html(markdown: str) -> str:
    """Render Markdown, tables included, as one HTML page titled by its first heading.

    HTML, images and links in it stay text, so that the page loads nothing and leads nowhere. Tables
    wider than the page scroll on their own, and a click on a heading sorts them.
    """
    # A second defence: a page contains foreign names, which `escape.markdown` should have escaped.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.disable(["image", "link", "autolink", "reference"]).parse(markdown)
    title = next((tables.text_of(token) for token in tokens if token.type == "inline"), "")
    body = parser.renderer.render(tables.dressed(tokens), parser.options, {})
    script = _source("tables.js") if any(token.type == "table_open" for token in tokens) else ""
    element = f"<script>{script}</script>\n" if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{_policy(script)}<title>{escape(title)}</title>\n<style>\n{_source('style.css')}</style>\n"
        f"</head>\n<body>\n{body}{element}</body>\n</html>\n"
    )


def written(path: Path) -> tuple[Path, Path]:
    """Return the files of a page, ``.md`` and ``.html``, whatever the suffix of ``path``."""
    return path.with_suffix(".md"), path.with_suffix(".html")


def write(markdown: str, path: Path) -> None:
    """Write a page atomically as Markdown and HTML."""
    page, rendered = written(path)
    files.write_text(page, markdown)
    files.write_text(rendered, html(markdown))


def _policy(script: str) -> str:
    """Forbid everything from outside the page, and every script but its own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f" script-src 'sha256-{digest}'" if script else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline';{scripts}"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'


def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
