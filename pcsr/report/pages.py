"""A page of Markdown as an HTML file that needs nothing from a network."""

from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from pcsr.storage import files

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 99rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; }
td:first-child, td[style*="right"] { white-space: nowrap; }
th { border-bottom: 2px solid #888; text-align: left; }
th:first-child, td:first-child { background: #fff padding-box; left: 0; position: sticky; }
"""


def html(markdown: str) -> str:
    """Render Markdown, tables included, as one HTML page titled by its first heading.

    What could load something or lead somewhere (HTML, images, links) stays text.
    """
    # A page has names of other people's in it, which `escape.markdown` ought to have taken care of.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.disable(["image", "link", "autolink", "reference"]).parse(markdown)
    heading = next((token for token in tokens if token.type == "inline"), None)
    title = "".join(part.content for part in heading.children or ()) if heading else ""
    body = parser.renderer.render(tokens, parser.options, {})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def written(path: Path) -> tuple[Path, Path]:
    """Return the files of a page, ``.md`` and ``.html``, whatever the suffix of ``path``."""
    return path.with_suffix(".md"), path.with_suffix(".html")


def write(markdown: str, path: Path) -> None:
    """Write a page atomically as Markdown and HTML."""
    page, rendered = written(path)
    files.write_text(page, markdown)
    files.write_text(rendered, html(markdown))
