"""The columns of sweeps and of results: their types, their possible values, and reading them.

A file may have been edited, truncated or made by somebody else, so everything in it is checked.
"""

from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pcsr.config.models import KNOB_LIMIT, SCALE_LIMIT
from pcsr.errors import UserError
from pcsr.storage import content

CONVENTIONS = ("paper", "algorithmic")  # of counting a method's FLOPs as it is defined
COUNTS = (*CONVENTIONS, "engine")  # and what is executed
CALLED = {count: count for count in COUNTS} | {"engine": "executed"}  # on pages and in figures
PROTOCOL = ("lr", "crop", "refine")

# All types are given, because pandas would not read an image called "0801" or "null" as text.
SWEEP_TYPES = {
    "image": "str",
    "method": "str",
    "backbone": "str",
    "scale": "float64",
    "knob": "float64",
    "adaptive": "bool",
    "lr": "str",
    "crop": "str",
    "refine": "bool",
    "psnr_rgb": "float64",
    "psnr_y": "float64",
    "ssim": "float64",
    "flops_paper": "float64",
    "flops_algorithmic": "float64",
    "flops_engine": "float64",
    "share_0": "float64",
    "units": "int64",
    "lr_pixels": "int64",
    "lr_height": "int64",
    "lr_width": "int64",
    "weights": "str",
}
PLACE_TYPES = {"suite": "str", "experiment": "str", "test_set": "str"}
FACT_TYPES = {
    "main": "bool",  # measured by the suite's own protocol
    "complete": "bool",
    "training": "Int64",  # iterations; blank where a release does not tell
    "released": "bool",  # weights that the authors of a paper published
}
UNUSED = ["seconds", "commit"]  # columns of sweeps, and of results that earlier versions made
RESULT_TYPES = {**PLACE_TYPES, **SWEEP_TYPES, **FACT_TYPES}
SIZES = ("activations", "parameters")  # numbers of a sweep that older ones lack

LARGEST = 2**28  # bytes of a file; a hundred times the largest of the suite
LONGEST = 64  # characters of a name; those of a suite have no more
MOST = 1e18  # FLOPs of an image, and whatever else is counted
LONGEST_SIDE = 2**31 - 1
BOUNDS: Mapping[str, tuple[float, float]] = {
    "scale": (1, SCALE_LIMIT),
    "knob": (-KNOB_LIMIT, KNOB_LIMIT),
    **dict.fromkeys(("psnr_rgb", "psnr_y"), (0, np.inf)),  # an image may be restored exactly
    "ssim": (-1, 1 + 1e-6),
    **dict.fromkeys((*(f"flops_{count}" for count in COUNTS), *SIZES, "training"), (0, MOST)),
    **dict.fromkeys(("units", "lr_pixels"), (1, MOST)),
    **dict.fromkeys(("lr_height", "lr_width"), (1, LONGEST_SIDE)),
}
SHARE = (0, 1 + 1e-6)
MODEL = ["backbone", "method"]  # a sweep may be of several
ONCE = ["experiment", "knob", "adaptive", "test_set", "scale", "image", *PROTOCOL]


def read_rows(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    """Read a CSV file that has at least the columns of ``types`` and one row.

    Blank means no value, in columns of numbers only: an image may be called ``null`` or ``NA``.

    Raises:
        UserError: the file is missing, empty or lacks a column, or a row has an impossible value;
            names the row and the column.
    """
    try:
        data = content.read_bytes(path, LARGEST)
        header = pd.read_csv(BytesIO(data), nrows=0).drop(columns=UNUSED, errors="ignore")
        missing = [name for name in types if name not in header.columns]
        if missing:
            raise UserError(f"{path}: lacks the column {_listed(missing)}; make the file again.")
        every = {name: RESULT_TYPES.get(name, "float64") for name in header.columns}
        blank = {name: ["", "nan"] for name, kind in every.items() if kind != "str"}
        options: dict[str, Any] = {"keep_default_na": False, "na_values": blank}
        with np.errstate(invalid="ignore"):  # numbers that are not whole: an error, not a warning
            frame = pd.read_csv(BytesIO(data), usecols=list(every), dtype=every, **options)
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); make the file again.") from None
    if frame.empty:
        raise UserError(f"{path}: holds no rows; make the file again.")
    # A method without a knob leaves it blank, and PSNR-Y and SSIM are of the sweep's own protocol.
    numbers = [name for name, kind in types.items() if kind == "float64" and name != "knob"]
    absent = frame[numbers].isna()
    partly = absent.columns.isin(["psnr_y", "ssim"])
    blank = absent.all() | (absent.any() & ~partly)
    if blank.any():
        names = _listed(blank.index[blank])
        raise UserError(f"{path}: lacks numbers in the column {names}; make the file again.")
    _require_possible(path, frame)
    return frame


def _require_possible(path: Path, rows: pd.DataFrame) -> None:
    for column in map(str, rows):
        bounds = SHARE if column.startswith("share_") else BOUNDS.get(column)
        if bounds:
            possible = rows[column].isna() | rows[column].between(*bounds)
            refuse(path, rows, ~possible, column, "must be from {:g} to {:g}".format(*bounds))
    require_once(path, rows, [*MODEL, *ONCE])


def require_once(path: Path, rows: pd.DataFrame, once: Iterable[str] = ONCE) -> None:
    """Refuse rows that agree in all of these columns, as far as the table has them."""
    twice = rows.duplicated([name for name in once if name in rows])
    refuse(path, rows, twice, "image", "appears twice at one knob value")


def refuse(path: Path, rows: pd.DataFrame, wrong: pd.Series, column: str, what: str) -> None:
    """Raise a UserError that names the first ``wrong`` row of a file, if there is one.

    ``what`` is said after the value of ``column``, which is what is wrong there.
    """
    if wrong.any():
        first = int(wrong.to_numpy().argmax())  # the header is line 1
        raise UserError(
            f"{path}: line {first + 2}: {column}: {rows[column].iloc[first]!s:.60} {what}; measure "
            "again with `pcsr sweep` and `pcsr collect`."
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
