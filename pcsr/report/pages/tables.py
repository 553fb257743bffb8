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
    column = 0
    section = ""
    before = Token("", "", 0)
    for token in tokens:
        if token.type == "inline" and before.type == "heading_open":
            section = _text(token)
        elif token.type == "table_open":
            headings = []
            label = escape(section, quote=True)
            out.append(
                _block(f'<div class="table" role="region" tabindex="0" aria-label="{label}">')
            )
        elif token.type == "inline" and before.type == "th_open":
            headings.append(_text(token))
        elif token.type == "tr_open":
            column = 0
        elif token.type == "inline" and before.type == "td_open":
            text = _text(token)
            short = SHORT if len(text) <= LONGEST_SHORT else ""
            before.attrSet("class", f"{short} {kind_of(headings[column], text)}".strip())
            column += 1
        out.append(token)
        if token.type == "table_close":
            out.append(_block("</div>\n"))
        before = token
    return _with_heads(out)


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
    value, low, high = (float(number) if number else None for number in found.groups())
    ends = [sign * end for end in ((value,) if low is None else (low, high)) if end is not None]
    return GOOD if min(ends) > 0 else BAD if max(ends) < 0 else ""


def _text(token: Token) -> str:
    """Return the text of a cell or a heading, without marks."""
    return "".join(part.content for part in token.children or ())


def _block(html: str) -> Token:
    return Token("html_block", "", 0, content=html)


def _with_heads(tokens: list[Token]) -> list[Token]:
    """Replace what stands between the tags of each table's head."""
    out: list[Token] = []
    head: list[Token] | None = None
    for token in tokens:
        if token.type == "thead_close":
            out.append(_block(_head(head or [])))
            head = None
        if head is None:
            out.append(token)
        else:
            head.append(token)
        if token.type == "thead_open":
            head = []
    return out


def _head(tokens: list[Token]) -> str:
    """Return the rows of a head; neighbours that differ only in brackets share the rest above."""
    cells = [
        (_text(inline), "right" if "right" in str(opening.attrs.get("style")) else "left")
        for opening, inline in pairwise(tokens)
        if opening.type == "th_open"
    ]
    groups = list(_groups([text for text, _ in cells]))
    if all(len(leaves) == 1 for _, leaves in groups):
        row = "".join(_cell(text, side, 1) for text, side in cells)
        return f"<tr>{row}</tr>\n"
    above, below, at = "", "", 0
    for stem, leaves in groups:
        sides = [side for _, side in cells[at : at + len(leaves)]]
        if len(leaves) == 1:
            above += _cell(leaves[0], sides[0], 2)
        else:
            above += f'<th colspan="{len(leaves)}" scope="colgroup">{escapeHtml(stem)}</th>'
            below += "".join(_cell(*leaf, 1) for leaf in zip(leaves, sides, strict=True))
        at += len(leaves)
    return f"<tr>{above}</tr>\n<tr>{below}</tr>\n"


def _cell(text: str, side: str, rows: int) -> str:
    span = f' rowspan="{rows}"' if rows > 1 else ""
    return f'<th scope="col" class="leaf {side}"{span}>{escapeHtml(text)}</th>'


def _groups(headings: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield what neighbours share and what is each one's own; a single one yields its heading."""
    numbered = [(SPLIT.match(heading), heading) for heading in headings]
    for stem, some in groupby(numbered, key=lambda one: one[0][1] if one[0] else one[1]):
        same = list(some)
        if len(same) > 1 and all(found for found, _ in same):
            yield stem, [found[2] for found, _ in same if found]
        else:
            for _, heading in same:
                yield heading, [heading]
