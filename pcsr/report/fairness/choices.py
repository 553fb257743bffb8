"""What each choice of the protocol is worth: points measured both ways, all else unchanged."""

from collections.abc import Iterator
from typing import get_args

import pandas as pd

from pcsr.config.models import MATLAB, Bicubic
from pcsr.report.columns import PROTOCOL
from pcsr.report.curves import mean
from pcsr.report.tables import markdown
from pcsr.report.tidy import knob_text

CHOICES = {  # choice of the protocol -> (what it is called, value, value it is compared with)
    "lr": ("float LR instead of 8-bit LR", "float", "8bit"),
    "refine": ("refined instead of unrefined", True, False),
    "crop": ("whole image instead of tiles", "none", "tiles"),
}
DEGRADATIONS = [  # choices of the column lr, too, for suites that measure them
    ("lr", (f"LR of {name} instead of {MATLAB}", f"8bit {name}", "8bit"))
    for name in get_args(Bicubic)
    if name != MATLAB
]
FEW = 2  # knob values of a curve that is compared at each of them
EFFECTS = ("Choice", "Method", "Knob", "PSNR-RGB (dB)", "GFLOPs")


def section(rows: pd.DataFrame, chosen: pd.DataFrame) -> Iterator[str]:
    """Yield the section of one place; its arguments are those of ``protocol_effects``."""
    effects = protocol_effects(rows, chosen)
    yield "### What the protocol is worth\n"
    if len(effects):
        yield markdown(effects, ["Knob", "PSNR-RGB (dB)", "GFLOPs"])
    if missing := [text for text, *_ in CHOICES.values() if text not in set(effects["Choice"])]:
        yield f"Not compared: {'; '.join(missing)}.\n"


def protocol_effects(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Measure what each choice of the protocol is worth, with the suite's own for all else.

    Args:
        rows: all results of one place, every protocol.
        chosen: its selected points. The adaptive decision of each method is added, and all points
            of curves that have only a few.

    Returns:
        One row per choice that was measured both ways and point: PSNR difference per image,
        averaged, with its interval, and difference of the mean GFLOPs (paper).
    """
    measured = rows[["curve", "knob", "adaptive"]].drop_duplicates()
    knobs = measured.groupby("curve")["knob"].transform("nunique")
    added = measured[measured["adaptive"] | (knobs <= FEW)]
    points = pd.concat([chosen[["curve", "knob", "adaptive"]], added]).drop_duplicates()
    own = rows.loc[rows["main"], list(PROTOCOL)].iloc[0]
    effects = []
    for choice, (text, value, compared) in [*CHOICES.items(), *DEGRADATIONS]:
        others = [name for name in PROTOCOL if name != choice]
        same = rows[(rows[others] == own[others]).all(axis="columns")]
        for _, point in points.iterrows():
            of_point = same[_is_at(same, point)].set_index("image")
            with_, without = (of_point[of_point[choice] == v] for v in (value, compared))
            if with_.empty or without.empty:
                continue
            gained = (with_["psnr_rgb"] - without["psnr_rgb"]).to_numpy()
            flops = with_["flops_paper"].mean() - without["flops_paper"].mean()
            values = mean(gained).text(3), f"{flops / 1e9:+z.2f}"
            effects.append((text, point["curve"], knob_text(point), *values))
    return pd.DataFrame(effects, columns=EFFECTS)


def _is_at(rows: pd.DataFrame, point: pd.Series) -> pd.Series:
    """Tell which rows are of an operating point; one without a knob equals itself."""
    same_knob = (rows["knob"] == point["knob"]) | (rows["knob"].isna() & pd.isna(point["knob"]))
    same_kind = rows["adaptive"] == point["adaptive"]
    return (rows["curve"] == point["curve"]) & same_knob & same_kind
