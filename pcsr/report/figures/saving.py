"""Figures as files."""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pcsr.errors import UserError
from pcsr.storage import files

SUFFIXES = (".svg", ".pdf", ".png")
# By how much PNGs may differ and still be the same: another kind of processor changes single values
# of an image by one grey level, which a map of gains draws as a dozen. A digit differs by more.
SINGLE, SHARE, ELSEWHERE = 12, 1e-4, 1  # levels; share of the values; levels


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically as .png (150 dpi), .svg or .pdf; the same one gives the same bytes.

    PDFs hold text as text. A PNG in place stays if it differs as little as from one kind of
    processor to another.
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
    """Tell whether a file is an image that differs from a drawn PNG in a few values, by little."""
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
    if values[0].shape != values[1].shape:
        return False
    apart = abs(values[0].astype(np.int16) - values[1])
    return bool(apart.max() <= SINGLE and (apart > ELSEWHERE).mean() <= SHARE)
