"""Possible names, each with a special meaning to some program, and two parsers to find it."""

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser

from markdown_it import MarkdownIt

# As GitHub reads a page, and more: HTML, images and links are let through.
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
MARKUP_TOKENS = {"image", "link_open", "html_inline", "html_block", "s_open", "em_open"}

MISSING = ("null", "NA", "nan", "None", "N/A", "#N/A", "NULL", "<NA>", "n/a", "-nan", "", " ")
NUMBERS = ("1e5", "007", "0x1F", "1_000", "True", "false", "inf", "-0", "2024-01-01", "1,5")
CSV = ('a"b', '"', "a,b", "'a'", "a;b", "=1+1", "@x", "a\\", '""', "#a")
LINES = ("a\nb", "a\r\nb", "a\rb", "a\tb", "\n\n# head", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b")
TERMINAL = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\x07",
    "a\x08\x08b",
    "\x7f",
    "\x00",
)
MARKDOWN = (
    *(
        "a|b",
        "\\|",
        "a\\|b",
        "|",
        "*a*",
        "**a**",
        "_a_",
        "__a__",
        "a_b_c",
        "`a`",
        "``",
        "~~a~~",
        "# a #",
    ),
    *("![x](http://evil.example/x.png)", "[x](http://evil.example)", "<http://evil.example>", "a]"),
    *(
        "![x][y]",
        "[x]: http://evil.example",
        "http://evil.example/x.png",
        "www.evil.example",
        "](x)",
    ),
    *(
        "\\",
        "\\\\",
        "\\*a\\*",
        "1. a",
        "- a",
        "> a",
        "---",
        "$a$",
        "&amp;",
        "&#60;b&#62;",
        "a\\`b`",
    ),
)
HTML = (
    *("<script>alert(1)</script>", "<img src=http://evil.example/x.png onerror=x>", "</title><b>"),
    *(
        "</td></table><iframe src=//evil.example>",
        "<!-- a -->",
        "--><b>",
        "a&b<c>d",
        "<svg/onload=x>",
    ),
)
LATEX = (
    "100%",
    "a_b",
    "a$b$c",
    "$",
    "\\$",
    "a\\$b$",
    "$\\frac$",
    "\\input{/etc/passwd}",
    "#1",
    "a^b",
)
LATEX += ("{", "}", "~", "[1cm]", "*[1cm]", "a&b", "\\\\", "$\\nonsense{$", "_", "_a", "^", '<>|"')
PATHS = ("../x", "/etc/passwd", "-x", "--out", ".hidden", "a b", "$(touch proof)", "`touch proof`")
UNICODE = (
    "é",
    "Zürich",
    "a\u202eb",
    "a\u2066b",
    "\udcff",
    "a\udce9b",
    "\ud800",
    "x" * 250,
    "\ufeffa",
)
NAMES = tuple(
    dict.fromkeys(
        itertools.chain(
            *(MISSING, NUMBERS, CSV, LINES, TERMINAL, MARKDOWN, HTML, LATEX, PATHS, UNICODE)
        )
    )
)


class Tags(HTMLParser):
    """Collects the tags and attributes of a page, and its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self._script = True
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._script = self._script and tag != "script"


def scripts_are_own(html: str) -> bool:
    """Tell whether a page has at most one script, which its policy names and lets run alone."""
    tags = Tags()
    tags.feed(html)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()) for s in tags.scripts]
    allowed = re.findall(r"script-src ([^\";]*)", html)
    return len(hashes) < 2 and allowed == [f"'sha256-{one.decode()}'" for one in hashes]
