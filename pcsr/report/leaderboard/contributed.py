"""Results that others measured: ``pcsr collect``'s CSV, checked before it stands beside a suite's.

A file comes by a pull request, so that nothing in it is taken for granted: columns and
numbers are checked by ``tidy.load``, and here words, and that images are the suite's.
"""

from pathlib import Path
from typing import get_args

import pandas as pd

from pcsr.config.models import Crop, LRBits
from pcsr.report.columns import LONGEST, PROTOCOL, refuse, require_once
from pcsr.report.tidy import load

WORDS = {"lr": get_args(LRBits), "crop": get_args(Crop)}
IMAGE = ["test_set", "scale", "image", "crop"]


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
    for column in ("experiment", "backbone", "method"):
        long = ~rows[column].str.len().between(1, LONGEST)
        refuse(path, rows, long, column, f"must have 1 to {LONGEST} characters")
    for column, words in WORDS.items():
        refuse(path, rows, ~rows[column].isin(words), column, f"must be {' or '.join(words)}")
    require_once(path, rows)  # a model of the leaderboard is an experiment, so it has one method
    refuse(path, rows, _resized(rows, results), "image", "has another size in the suite's results")
    own = results.loc[results["main"], list(PROTOCOL)].iloc[0]
    same = (rows[list(PROTOCOL)] == own).all(axis="columns")
    unknown = ~rows["experiment"].isin(results["experiment"])
    return rows[same & unknown].assign(main=True)


def _resized(rows: pd.DataFrame, results: pd.DataFrame) -> pd.Series:
    """Tell which rows are of an image that has the name, but not the size, of one of the suite."""
    size = ["lr_height", "lr_width"]
    known = results.drop_duplicates(IMAGE).set_index(IMAGE)[size]
    found = rows[IMAGE].join(known, on=IMAGE)[size]
    return (found.notna() & (found != rows[size])).any(axis="columns")
