"""A page of Markdown as an offline HTML file."""

import base64
import hashlib
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

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
    heading = next((token for token in tokens if token.type == "inline"), None)
    title = "".join(part.content for part in heading.children or ()) if heading else ""
    body = parser.renderer.render(tables.dressed(tokens), parser.options, {})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{_policy(tokens)}<title>{escape(title)}</title>\n<style>\n{_source('style.css')}</style>\n"
        f"</head>\n<body>\n{body}{_script(tokens)}</body>\n</html>\n"
    )


def written(path: Path) -> tuple[Path, Path]:
    """Return the files of a page, ``.md`` and ``.html``, whatever the suffix of ``path``."""
    return path.with_suffix(".md"), path.with_suffix(".html")


def write(markdown: str, path: Path) -> None:
    """Write a page atomically as Markdown and HTML."""
    page, rendered = written(path)
    files.write_text(page, markdown)
    files.write_text(rendered, html(markdown))


def _policy(tokens: list[Token]) -> str:
    """Forbid everything from outside the page, and every script but this folder's."""
    digest = hashlib.sha256(_source("tables.js").encode()).digest()
    script = f" script-src 'sha256-{base64.b64encode(digest).decode()}'" if _script(tokens) else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline';{script}"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'


def _script(tokens: list[Token]) -> str:
    """Return the script of tables, if there are any."""
    there = any(token.type == "table_open" for token in tokens)
    return f"<script>{_source('tables.js')}</script>\n" if there else ""


def _source(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
