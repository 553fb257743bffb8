"""Results from others, a CSV of ``pcsr collect``, checked before they appear beside a suite's.

A file comes by a pull request, so everything in it is checked: columns and numbers by
``tidy.load``; names, and that the images are the suite's, here.
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
    """Read results from others for models that the suite does not have.

    Args:
        path: CSV made by ``pcsr collect``.
        results: the suite's own.

    Returns:
        Its rows by the protocol of the suite's main rows, of experiments that the suite lacks.

    Raises:
        UserError: the file is damaged or a row has an impossible value; names row and column.
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
    """Tell which rows are of an image with the name, but not the size, of one of the suite's."""
    size = ["lr_height", "lr_width"]
    known = results.drop_duplicates(IMAGE).set_index(IMAGE)[size]
    found = rows[IMAGE].join(known, on=IMAGE)[size]
    return (found.notna() & (found != rows[size])).any(axis="columns")
