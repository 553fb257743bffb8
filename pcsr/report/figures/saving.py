"""Figures as files."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from pcsr.storage import files

SUFFIXES = (".svg", ".pdf", ".png")


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically as .png (150 dpi), .svg or .pdf; the same one gives the same bytes.

    PDFs hold text as text.
    """
    metadata = {
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        ".png": {"Software": None},
    }
    with (
        mpl.rc_context({"svg.hashsalt": "pcsr", "pdf.fonttype": 42}),
        files.atomic(path) as temporary,
    ):
        figure.savefig(temporary, dpi=150, metadata=metadata[path.suffix])
