"""Figures as files."""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pcsr.errors import UserError
from pcsr.storage import files

SUFFIXES = (".svg", ".pdf", ".png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically as .png (150 dpi), .svg or .pdf; the same one gives the same bytes.

    PDFs hold text as text. A PNG in place that differs by at most one grey level stays: kinds of
    processors differ by that much in images that a network made.
    """
    metadata = {
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        ".png": {"Software": None},
    }
    drawn = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "pcsr", "pdf.fonttype": 42}):
        figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=metadata[path.suffix])
    if path.suffix == ".png" and _agrees(path, drawn.getvalue()):
        path.touch()
        return
    with files.atomic(path) as temporary:
        temporary.write_bytes(drawn.getvalue())


def _agrees(path: Path, drawn: bytes) -> bool:
    """Tell whether a file is an image that differs by at most one grey level from a drawn PNG."""
    if not path.exists():
        return False
    from pcsr.images.decoding import read_header  # noqa: PLC0415 - imports torch; most are new

    now = read_header(drawn, name="figure")
    try:
        before = read_header(path)
        if (before.size, before.bits) != (now.size, now.bits):
            return False
        values = before.decode().values, now.decode().values
    except UserError:  # it is damaged, or something else
        return False
    same_kind = values[0].shape == values[1].shape
    return same_kind and bool(abs(values[0].astype(np.int16) - values[1]).max() <= 1)
