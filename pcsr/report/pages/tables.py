"""Tables of an HTML page: headings that share units, coloured differences, scrolling boxes."""

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby, pairwise

from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

GOOD, BAD, OPEN = "good", "bad", "open"  # classes of cells
SHORT, LONGEST_SHORT = "short", 24  # class of cells up to this many characters, kept on one line
VERDICTS = {"reproduced": GOOD, "differs": BAD, "partial": OPEN, "not run": OPEN}
VERDICT = "Verdict"  # heading of a column of words
# Headings of differences begin with one of these; 1 means that more is better, -1 less.
SIGNS = {
    "vs original": 1,
    "Saved": 1,
    "BD-PSNR": 1,
    "BD-FLOPs": -1,
    "Best difference": 1,
    "above": 1,
    "below": -1,
}
NUMBER = r"[+-]?\d[\d.]*"
# A number; or a mean with its interval, which decides.
VALUE = re.compile(rf"({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])?$")
SPLIT = re.compile(r"(.+) \((.+)\)$")  # of a heading: what is said once, and what differs


def dressed(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens of a page with its tables dressed: box, head, classes of cells."""
    out: list[Token] = []
    headings: list[str] = []
    section = ""
    head = cell = 0
    for before, token in pairwise([Token("", "", 0), *tokens]):
        if before.type == "heading_open":
            section = text_of(token)
        elif before.type == "th_open":
            headings.append(text_of(token))
        elif before.type == "td_open":
            text = text_of(token)
            short = SHORT if len(text) <= LONGEST_SHORT else ""
            before.attrSet("class", f"{short} {kind_of(headings[cell], text)}".strip())
            cell += 1
        elif token.type == "table_open":
            headings = []
            label = escape(section)
            box = f'<div class="table" role="region" tabindex="0" aria-label="{label}">'
            out.append(_block(box))
        elif token.type == "thead_open":
            head = len(out) + 1
        elif token.type == "thead_close":
            out[head:] = [_block(_head(out[head:]))]
        elif token.type == "tr_open":
            cell = 0
        out.append(token)
        if token.type == "table_close":
            out.append(_block("</div>\n"))
    return out


def text_of(token: Token) -> str:
    """Return the text of a cell or of a heading, without marks."""
    return "".join(part.content for part in token.children or ())


def kind_of(heading: str, text: str) -> str:
    """Return the class of a cell that holds a difference: ``GOOD``, ``BAD``, ``OPEN``, or "".

    A difference is good or bad if it is not 0 and its interval, if it has one, excludes 0.
    """
    if heading == VERDICT:
        return next((kind for word, kind in VERDICTS.items() if text.startswith(word)), "")
    sign = next((sign for start, sign in SIGNS.items() if heading.startswith(start)), 0)
    found = VALUE.match(text)
    if not sign or not found:
        return ""
    value, *interval = (sign * float(number) for number in found.groups() if number)
    ends = interval or [value]
    return GOOD if min(ends) > 0 else BAD if max(ends) < 0 else ""


def _block(html: str) -> Token:
    return Token("html_block", "", 0, content=html)


def _head(tokens: Sequence[Token]) -> str:
    """Return the rows of a head; neighbours that differ only in brackets share the rest above."""
    cells = [
        (text_of(inline), "right" if "right" in str(opening.attrs.get("style")) else "left")
        for opening, inline in pairwise(tokens)
        if opening.type == "th_open"
    ]
    groups = list(_groups(cells))
    rows = 1 + any(stem for stem, _ in groups)
    above = below = ""
    for stem, leaves in groups:
        if stem:
            above += f'<th colspan="{len(leaves)}" scope="colgroup">{escapeHtml(stem)}</th>'
            below += "".join(_cell(*leaf, 1) for leaf in leaves)
        else:
            above += "".join(_cell(*leaf, rows) for leaf in leaves)
    return "".join(f"<tr>{row}</tr>\n" for row in (above, below) if row)


def _cell(text: str, side: str, rows: int) -> str:
    span = f' rowspan="{rows}"' if rows > 1 else ""
    return f'<th scope="col" class="leaf {side}"{span}>{escapeHtml(text)}</th>'


def _groups(cells: Sequence[tuple[str, str]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield what the texts of neighbours share, maybe nothing, and the cells without it."""
    split = [(SPLIT.match(cell[0]), cell) for cell in cells]
    for stem, group in groupby(split, key=lambda one: one[0][1] if one[0] else one[1][0]):
        same = list(group)
        if len(same) > 1 and all(found for found, _ in same):
            yield stem, [(found[2], side) for found, (_, side) in same if found]
        else:
            yield "", [cell for _, cell in same]
