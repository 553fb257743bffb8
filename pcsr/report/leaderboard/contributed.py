"""Results that others measured: ``pcsr collect``'s CSV, checked before it stands beside a suite's.

A file comes by a pull request, so that nothing in it is taken for granted: columns and types are
checked by ``tidy.load``, and here numbers, words, repeated rows, and that images are the suite's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from pcsr.config.models import KNOB_LIMIT, SCALE_LIMIT, Crop, LRBits
from pcsr.errors import UserError
from pcsr.report.tidy import COUNTS, PROTOCOL, SIZES, load

MOST = 1e18  # FLOPs of an image, and whatever else is counted
BOUNDS: Mapping[str, tuple[float, float]] = {
    "psnr_rgb": (0, np.inf),  # an image may be restored exactly
    "scale": (1, SCALE_LIMIT),
    "knob": (-KNOB_LIMIT, KNOB_LIMIT),
    **dict.fromkeys((*(f"flops_{count}" for count in COUNTS), *SIZES), (0, MOST)),
    **dict.fromkeys(("units", "lr_pixels", "lr_height", "lr_width"), (1, MOST)),
}
LONGEST = 64  # characters of a name; those of a suite have no more
WORDS = {"lr": get_args(LRBits), "crop": get_args(Crop)}
IMAGE = ["test_set", "scale", "image", "crop"]
ONCE = ["experiment", "knob", "adaptive", "test_set", "scale", "image", *PROTOCOL]


def read(path: Path, results: pd.DataFrame) -> pd.DataFrame:
    """Read results that others measured of models that the suite did not.

    Args:
        path: CSV made by ``pcsr collect``.
        results: the suite's own.

    Returns:
        Its rows by the protocol of the suite's main rows, of experiments that the suite has not.

    Raises:
        UserError: the file or a row of it cannot be right; names the row and the column.
    """
    rows = load(path)
    for column, (low, high) in BOUNDS.items():
        if column in rows:
            possible = rows[column].isna() | rows[column].between(low, high)
            _refuse(path, rows, ~possible, column, f"must be from {low:g} to {high:g}")
    for column in ("experiment", "backbone", "method"):
        long = ~rows[column].str.len().between(1, LONGEST)
        _refuse(path, rows, long, column, f"must have 1 to {LONGEST} characters")
    for column, words in WORDS.items():
        _refuse(path, rows, ~rows[column].isin(words), column, f"must be {' or '.join(words)}")
    _refuse(path, rows, rows.duplicated(ONCE), "image", "stands there twice at one knob value")
    _refuse(path, rows, _resized(rows, results), "image", "has another size in the suite's results")
    own = results.loc[results["main"], list(PROTOCOL)].iloc[0]
    same = (rows[list(PROTOCOL)] == own).all(axis="columns")
    unknown = ~rows["experiment"].isin(results["experiment"])
    return rows[same & unknown].assign(main=True)


def _refuse(path: Path, rows: pd.DataFrame, wrong: pd.Series, column: str, what: str) -> None:
    """Raise a UserError that names the first wrong row; the header is line 1."""
    if wrong.any():
        first = int(wrong.to_numpy().argmax())
        value = rows[column].iloc[first]
        raise UserError(
            f"{path}: line {first + 2}: {column}: {value!s:.60} {what}; measure again with "
            "`pcsr sweep` and `pcsr collect`."
        )


def _resized(rows: pd.DataFrame, results: pd.DataFrame) -> pd.Series:
    """Tell which rows are of an image that has the name, but not the size, of one of the suite."""
    size = ["lr_height", "lr_width"]
    known = results.drop_duplicates(IMAGE).set_index(IMAGE)[size]
    found = rows[IMAGE].join(known, on=IMAGE)[size]
    return (found.notna() & (found != rows[size])).any(axis="columns")
