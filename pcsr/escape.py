r"""Escape names and other foreign text: one function for each format they are written into.

A name is anything that a user, a file or another package can call something: an image, a suite, an
experiment, a data set, a method, a metric, the description inside a weights file. HTML needs no
function here: pages are Markdown first, and ``report.pages`` lets no HTML through.
"""

import re

# Control characters (ESC starts terminal commands), line ends, marks that reverse the direction of
# text, invisible characters (with which one name can look like another), and bytes outside UTF-8
# as Python decodes them. Joiners and variation selectors stay: words and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)
# Characters without a meaning in their place stay, so that img_001, f/8: 2 and [low, high] remain
# readable: `_` inside a word, `]` without a target, `#` before the end of a line, `:` and `.`
# outside an address.
_MARKDOWN = re.compile(
    r"[\\`*<|&~$]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|#(?=#*$)|:(?=//)|(?<=www)\."
)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def printable(text: str) -> str:
    r"""Write hidden characters as escapes such as ``\n`` and ``\x1b``: one line, for a terminal.

    The result can be encoded in UTF-8, so it is also what a name becomes in a CSV file.
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def markdown(text: str) -> str:
    """Escape what Markdown, with tables, would take for markup, inside a line of it."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(text))


def latex(text: str) -> str:
    """Escape LaTeX's special characters; the result may begin a cell of a table."""
    escaped = "".join(_LATEX.get(character, character) for character in printable(text))
    # After the \\ that ends a row, [ and * would be taken for its options.
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def mathtext(text: str) -> str:
    """Escape text for a figure: matplotlib reads text between two ``$`` as mathematics."""
    return printable(text).replace("$", r"\$")
