"""Results and times with anything changed in them, and the pages that are made of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hostile.names import NAMES
from workspace import ROOT

from pcsr.config.published import CLAIMS
from pcsr.report.claims.page import claims
from pcsr.report.fairness.page import fairness
from pcsr.report.figures.psnr_flops import figure
from pcsr.report.leaderboard.page import leaderboard
from pcsr.report.summary import summary
from pcsr.report.tables import table
from torture.harness import Attempt, Case, Kind

IMAGES = 3  # of the suite that is taken
SHOWN = 10  # a figure, which takes the longest, every so many cases
NUMBERS = ("nan", "inf", "-inf", "-1", "0", "2", "2.5", "1e308", "-1e308", "1e-308", "1e999")
WORDS = ("True", "false", "9" * 400, "image", "knob", "psnr_rgb", "embedded-photos", "original")
VALUES = (*NUMBERS, *WORDS, *NAMES)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    2**70,
    0.5,
    [],
    {},
    [[]],
    {"a": 1},
    float("nan"),
)


def changed(rows: list[list[str]], random: np.random.Generator) -> str:
    """Change cells, columns and lines of a table, its end, or how it is written."""
    rows = [list(row) for row in rows]
    for _ in range(random.integers(1, 4)):
        at, column = int(random.integers(len(rows))), int(random.integers(len(rows[0])))
        value, how = str(random.choice(VALUES)), int(random.integers(8))
        if how == 0:
            rows[at][column] = value
        elif how == 1:
            for row in rows[1:]:
                row[column] = value
        elif how == 2:
            rows = [row[:column] + row[column + 1 :] for row in rows]
        elif how == 3:
            rows = [[*row[:column], *row[column : column + 1], *row[column:]] for row in rows]
        elif how == 4:
            rows.insert(at, list(rows[at]))
        elif how == 5:
            rows = rows[: at + 1]
        elif how == 6:
            rows = [row for row in rows if row is rows[0] or random.random() < 0.5]
        else:
            rows[0][column] = value
    text = "".join(f"{','.join(row)}\n" for row in rows)
    written = (
        text,
        text.replace("\n", "\r\n"),
        f"\ufeff{text}",
        text[: random.integers(len(text))],
    )
    return written[random.choice(4, p=(0.85, 0.05, 0.05, 0.05))]


def altered(value: Any, random: np.random.Generator) -> Any:
    """Return what was read from JSON with something in it replaced or missing."""
    if isinstance(value, dict | list) and value and random.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[int(random.integers(len(keys)))]
        if random.random() < 0.1:
            return {k: v for k, v in value.items() if k != key} if isinstance(value, dict) else []
        part = altered(value[key], random)
        if isinstance(value, dict):
            return {**value, key: part}
        return [*value[:key], part, *value[key + 1 :]]
    choices = (*OTHERS, *VALUES)
    return choices[int(random.integers(len(choices)))]


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Make every page, and sometimes a figure, of changed results, or of sound ones and times."""
    whole = pd.read_csv(ROOT / "reports/quick/results.csv", dtype=str, keep_default_na=False)
    some = whole[whole["image"].isin(whole["image"].unique()[:IMAGES])]
    rows = [list(some.columns), *some.to_numpy().tolist()]
    measured = json.loads((ROOT / "reports/latency/cpu-1232.json").read_text())
    measured["cases"] = measured["cases"][:2]
    sound, theirs, times = (folder / name for name in ("sound.csv", "theirs.csv", "times.json"))
    sound.write_text("".join(f"{','.join(row)}\n" for row in rows))
    page, text = folder / "page.md", folder / "text.txt"

    def make(case: Case) -> None:
        which = case.number % 7
        if which == 0:
            times.write_text(json.dumps(altered(measured, case.random)))
            leaderboard(sound, out=page, times=(times,))
        elif which == 1:
            times.write_text(json.dumps(altered(measured, case.random)))
            summary(sound, out=text, times=times)
        else:
            content = changed(rows, case.random).encode(errors="surrogatepass")
            theirs.write_bytes(content)
        if which == 2:
            leaderboard(sound, out=page, added=(theirs,))
        elif which == 3:
            leaderboard(theirs, out=page, gate=(25.0,))
        elif which == 4:
            fairness(theirs, out=page)
        elif which == 5:
            claims(theirs, out=page, published=ROOT / CLAIMS)
            summary(theirs, out=text)
        elif which == 6:
            table(theirs, out=page)
        if which > 2 and case.number % SHOWN == 0:
            drawn = folder / "figure.png"
            figure(theirs, test_set="embedded-photos", backbone="fsrcnn", out=drawn)

    yield make


KIND = Kind(count=2000, attempts=attempts)
