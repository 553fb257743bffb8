"""A suite's result in sentences: what is as good as the original, and what it costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter
from pydantic import Field

from pcsr import escape
from pcsr.config.base import Facts
from pcsr.config.options import Results
from pcsr.report import tidy
from pcsr.report.columns import MOST
from pcsr.report.tidy import PLACE, REFERENCE
from pcsr.storage import files

GATE_DB = 0.05  # below the original, and still as good
NONE = np.nan, np.nan  # quartiles
ROUTED = "engine"  # what `pcsr bench` calls the path of a method that routes pixels


class Timed(Facts):
    """A case of ``pcsr bench``."""

    backbone: str
    method: str
    path: str
    precision: str = "float32"
    knob: str
    time_ratio: float = Field(gt=0, le=MOST)
    time_ratio_quartiles: tuple[float, float] | None = None  # of a file of version 0.1


class Times(Facts):
    """What a summary reads from the JSON of ``pcsr bench``."""

    cases: tuple[Timed, ...]


def summary(
    results: Results,
    /,
    *,
    out: Annotated[Path, Parameter(help="text to write")],
    times: Annotated[
        Path | None, Parameter(help="JSON of `pcsr bench`, with the same experiments")
    ] = None,
) -> None:
    """Write a sentence per test set and backbone: the cheapest point as good as the original.

    Example: `pcsr summary reports/quick/results.csv --out summary.txt`.
    """
    files.require_suffix(out, ".txt", "--out")
    files.check_outputs([results, *([times] if times else [])], [out])
    timed = tidy.read_facts(Times, times).cases if times else ()
    measured = tidy.load(results)
    lines = [*sentences(measured, timed), *tidy.training_note(measured)]
    files.write_text(out, "".join(f"{line}\n" for line in lines))


def sentences(results: pd.DataFrame, times: tuple[Timed, ...] = ()) -> Iterator[str]:
    """Yield a sentence for each test set, backbone and scale that has an original.

    It names the operating point that executes the fewest FLOPs of those within ``GATE_DB`` of the
    original. If a backbone was timed, only its timed points are considered. Times are ratios to the
    original of the backbone; those in float32 are taken, as results are.
    """
    points = tidy.summarise(results).assign(curve=tidy.labels)
    points["setting"] = points.apply(tidy.knob_text, axis="columns")
    ratios = [
        (one.backbone, one.method, one.knob, one.time_ratio, *(one.time_ratio_quartiles or NONE))
        for one in times
        if one.path == ROUTED and one.precision == "float32"
    ]
    case = ["backbone", "method", "setting"]
    timed = pd.DataFrame(ratios, columns=[*case, "time", "low", "high"])
    points = points.join(timed.groupby(case).mean(), on=case)
    for place, rows in points.groupby(PLACE):
        originals = rows[rows["method"] == REFERENCE].sort_values("experiment")
        if len(originals) < len(rows) and len(originals):
            yield _sentence(place, originals.iloc[0], rows[rows["method"] != REFERENCE])


def _sentence(place: tuple[str, str, float], original: pd.Series, points: pd.DataFrame) -> str:
    test_set, backbone, scale = place
    where = escape.printable(f"{backbone} on {test_set}, x{scale:g}")
    if points["time"].notna().any():
        points = points[points["time"].notna()]
    good = points[points["psnr_rgb"] >= original["psnr_rgb"] - GATE_DB]
    if good.empty:
        return f"{where}: no method is within {GATE_DB:g} dB of the original."
    best = good.loc[good["gflops_engine"].idxmin()]
    gained = best["psnr_rgb"] - original["psnr_rgb"]
    share = best["gflops_engine"] / original["gflops_engine"]
    time = f" and {best['time']:.0%} of its time" if pd.notna(best["time"]) else ""
    if pd.notna(best["low"]):
        time += f" (half of the rounds between {best['low']:.0%} and {best['high']:.0%})"
    name = escape.printable(best["curve"])
    return (
        f"{where}: {name} at knob {best['setting']} gives {best['psnr_rgb']:.2f} dB "
        f"({gained:+.2f} dB against the original) with {share:.0%} of the original's executed "
        f"FLOPs{time}."
    )
