"""What makes a comparison fair: overlap, FLOP conventions, protocol, equal PSNR and equal FLOPs."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd

from pcsr.report import curves
from pcsr.report.curves import Curve, Estimate, estimate
from pcsr.report.tables import markdown, rounded
from pcsr.report.tidy import (
    CONVENTIONS,
    PROTOCOL,
    REFERENCE,
    knob_text,
    labels,
    protocol_text,
    summarise,
)

PLACE = ["test_set", "backbone", "scale"]
LOSS_DB = 0.05  # that a selected point may have against the original
BUDGETS = (0.75, 0.5)  # shares of the original's FLOPs
CHOICES = {  # choice of the protocol -> (what it is called, value, value it is compared with)
    "lr": ("float LR instead of 8-bit LR", "float", "8bit"),
    "refine": ("refined instead of not", True, False),
    "crop": ("whole picture instead of tiles", "none", "tiles"),
}
FLOP_DECIMALS = {
    "PSNR-RGB (dB)": 3,
    "vs original (dB)": 3,
    "GFLOPs": 2,
    "Without overlap": 2,
    "Overlap's extra": 2,
    "Overlap factor": 3,
    "Saved by routing (%)": 1,
    "Saved in all (%)": 1,
}


def fairness_markdown(results: pd.DataFrame) -> str:
    """Return the page: its rules, then three tables for every test set, backbone and scale.

    Args:
        results: of a suite, all protocols (``tidy.collect``).
    """
    summary = summarise(results)
    summary = summary.assign(curve=labels(summary))
    named = results.merge(summary[["experiment", "curve"]].drop_duplicates(), on="experiment")
    pages = [_head(summary)]
    for place, points in summary.groupby(PLACE):
        test_set, backbone, scale = place
        rows = named[(named[PLACE] == list(place)).all(axis="columns")]
        pages.append(f"## {backbone} on {test_set}, x{scale:g}\n")
        if not (points["method"] == REFERENCE).any():
            pages.append("The original was not measured, so there is nothing to compare with.\n")
            continue
        chosen = selected(points)
        pages += [_flops(chosen), _protocol(rows, chosen), _equal(rows)]
    return "\n".join(pages)


def selected(points: pd.DataFrame) -> pd.DataFrame:
    """Pick one operating point of every curve of one place, the original first.

    It is the cheapest (paper convention) that loses at most ``LOSS_DB`` to the original, else the
    one of highest PSNR. The column ``near`` tells which.
    """
    least = points.loc[points["method"] == REFERENCE, "psnr_rgb"].iloc[0] - LOSS_DB
    picked = []
    for curve, rows in points.groupby("curve"):
        near = rows[rows["psnr_rgb"] >= least - 1e-9]
        best = rows["psnr_rgb"].argmax() if near.empty else near["gflops_paper"].argmin()
        of = rows if near.empty else near
        picked.append(of.iloc[best].to_dict() | {"curve": curve, "near": not near.empty})
    table = pd.DataFrame(picked)
    return table.sort_values("method", key=lambda m: m != REFERENCE, kind="stable")


def split_flops(chosen: pd.DataFrame) -> pd.DataFrame:
    """Part the FLOPs of selected points into what routing leaves and what overlap adds.

    ``Without overlap`` is the mean of each picture's FLOPs over its overlap factor: what routing
    alone would cost. Savings are against the original's FLOPs in the same convention.
    """
    parts = []
    original = chosen[chosen["method"] == REFERENCE].iloc[0]
    for convention, name in _conventions(chosen, "gflops"):
        gflops, unlapped = chosen[f"gflops_{convention}"], chosen[f"unlapped_{convention}"]
        whole = original[f"gflops_{convention}"]
        table = pd.DataFrame(
            {
                "Convention": name,
                "Method": chosen["curve"],
                "Knob": chosen.apply(knob_text, axis="columns"),
                "PSNR-RGB (dB)": chosen["psnr_rgb"],
                "vs original (dB)": chosen["psnr_rgb"] - original["psnr_rgb"],
                "GFLOPs": gflops,
                "Without overlap": unlapped,
                "Overlap's extra": gflops - unlapped,
                "Overlap factor": chosen["overlap"],
                "Saved by routing (%)": 100 * (1 - unlapped / whole),
                "Saved in all (%)": 100 * (1 - gflops / whole),
            }
        )
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def protocol_effects(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Measure what each choice of the protocol is worth, all else being the suite's own.

    Args:
        rows: all results of one place, every protocol.
        chosen: its selected points; the adaptive decision of each method is added.

    Returns:
        One row per choice that was measured both ways and point: PSNR difference per picture,
        averaged, with its interval, and difference of the mean GFLOPs (paper).
    """
    adaptive = rows.loc[rows["adaptive"], ["curve", "knob", "adaptive"]].drop_duplicates()
    points = pd.concat([chosen[["curve", "knob", "adaptive"]], adaptive]).drop_duplicates()
    own = rows.loc[rows["main"], list(PROTOCOL)].iloc[0]
    effects = []
    for choice, (text, value, compared) in CHOICES.items():
        others = [name for name in PROTOCOL if name != choice]
        same = rows[(rows[others] == own[others]).all(axis="columns")]
        for _, point in points.iterrows():
            of_point = same[_is_at(same, point)].set_index("image")
            with_, without = (of_point[of_point[choice] == v] for v in (value, compared))
            if with_.empty or without.empty:
                continue
            gained = (with_["psnr_rgb"] - without["psnr_rgb"]).to_numpy()
            flops = with_["flops_paper"].mean() - without["flops_paper"].mean()
            effects.append(
                {
                    "Choice": text,
                    "Method": point["curve"],
                    "Knob": knob_text(point),
                    "PSNR-RGB (dB)": _mean(gained).text(3),
                    "GFLOPs": f"{flops / 1e9:+z.2f}",
                }
            )
    return pd.DataFrame(effects)


def equal_points(curves_of: dict[str, Curve], original: Curve) -> pd.DataFrame:
    """Interpolate every curve at the original's PSNR and at parts of the original's GFLOPs.

    Args:
        curves_of: name -> curve, of one place and convention.
        original: its single point.
    """
    pictures = len(original.psnr)
    table = []
    for name, curve in curves_of.items():

        def needed(some: np.ndarray, curve: Curve = curve) -> float:
            target = original.psnr[some].mean() - LOSS_DB
            return 100 * curve.gflops_at(target, some) / original.gflops[some].mean()

        row = {"Method": name}
        row[f"FLOPs for {LOSS_DB:g} dB less (%)"] = estimate(needed, pictures).text(1)
        for share in BUDGETS:

            def change(some: np.ndarray, curve: Curve = curve, share: float = share) -> float:
                budget = share * original.gflops[some].mean()
                return curve.psnr_at(budget, some) - float(original.psnr[some].mean())

            row[f"dB at {100 * share:g} % of the FLOPs"] = estimate(change, pictures).text(3)
        table.append(row)
    return pd.DataFrame(table)


def deltas(curves_of: dict[str, Curve]) -> pd.DataFrame:
    """Compare curves pairwise by Bjontegaard's deltas over what they have in common."""
    table = []
    for (anchor_name, anchor), (name, test) in combinations(curves_of.items(), 2):
        pictures = len(anchor.psnr)
        low, high = curves.common_psnr(anchor, test)

        def flops(some: np.ndarray, a: Curve = anchor, t: Curve = test) -> float:
            return curves.bd_flops(a, t, some)

        def psnr(some: np.ndarray, a: Curve = anchor, t: Curve = test) -> float:
            return curves.bd_psnr(a, t, some)

        table.append(
            {
                "Method": name,
                "Compared with": anchor_name,
                "Common PSNR (dB)": f"{low:.2f} to {high:.2f}" if low < high else "none",
                "BD-FLOPs (%)": estimate(flops, pictures).text(1),
                "BD-PSNR (dB)": estimate(psnr, pictures).text(3),
            }
        )
    return pd.DataFrame(table)


def _conventions(table: pd.DataFrame, measure: str) -> list[tuple[str, str]]:
    """Return the conventions and their names; one for both where they agree on every row."""
    columns = [table[f"{measure}_{convention}"] for convention in CONVENTIONS]
    if columns[0].equals(columns[1]):
        return [(CONVENTIONS[0], " and ".join(CONVENTIONS))]
    return [(convention, convention) for convention in CONVENTIONS]


def _mean(values: np.ndarray) -> Estimate:
    return estimate(lambda some: float(values[some].mean()), len(values))


def _is_at(rows: pd.DataFrame, point: pd.Series) -> pd.Series:
    """Tell which rows are of an operating point; one without a knob equals itself."""
    same_knob = (rows["knob"] == point["knob"]) | (rows["knob"].isna() & pd.isna(point["knob"]))
    same_kind = rows["adaptive"] == point["adaptive"]
    return (rows["curve"] == point["curve"]) & same_knob & same_kind


def _curves(rows: pd.DataFrame, convention: str) -> tuple[dict[str, Curve], Curve]:
    """Return the curves of one place's main rows, and the original's point."""
    main = rows[rows["main"]]
    original = main[main["method"] == REFERENCE]
    one = original[original["curve"] == original["curve"].iloc[0]].assign(knob=0.0)
    routed = main[main["method"] != REFERENCE].groupby("curve")
    return {str(name): Curve.of(of, convention) for name, of in routed}, Curve.of(one, convention)


def _flops(chosen: pd.DataFrame) -> str:
    table = split_flops(chosen)
    text = ["### Where the FLOPs go\n", markdown(rounded(table, FLOP_DECIMALS), FLOP_DECIMALS)]
    far = chosen.loc[~chosen["near"], "curve"]
    if len(far):
        text.append(f"No point within {LOSS_DB:g} dB, so the best is shown: {', '.join(far)}.\n")
    return "\n".join([*text, *_reversals(table)])


def _reversals(table: pd.DataFrame) -> Iterator[str]:
    """Say of every method whose saving depends on the convention that it does."""
    saved = table.pivot_table(index="Method", columns="Convention", values="Saved in all (%)")
    for name, row in saved.iterrows():
        if row.get("paper", 0) > 0 > row.get("algorithmic", 0):
            times = 1 - row["algorithmic"] / 100
            yield (
                f"**{name} saves {row['paper']:.1f} % of the original's FLOPs as the paper counts, "
                f"and executes {times:.2f} times the original's.**\n"
            )


def _protocol(rows: pd.DataFrame, chosen: pd.DataFrame) -> str:
    effects = protocol_effects(rows, chosen)
    head = "### What the protocol is worth\n"
    measured = set() if effects.empty else set(effects["Choice"])
    missing = [text for text, *_ in CHOICES.values() if text not in measured]
    note = f"Not measured both ways: {'; '.join(missing)}.\n" if missing else ""
    table = "" if effects.empty else markdown(effects, ["Knob", "PSNR-RGB (dB)", "GFLOPs"])
    return "\n".join(part for part in (head, table, note) if part)


def _equal(rows: pd.DataFrame) -> str:
    parts = ["### At equal PSNR and at equal FLOPs\n"]
    for convention, name in _conventions(rows, "flops"):
        curves_of, original = _curves(rows, convention)
        if not curves_of:
            return "\n".join([*parts, "No method beside the original was measured.\n"])
        points, pairs = equal_points(curves_of, original), deltas(curves_of)
        parts.append(f"FLOPs by the {name} convention:\n")
        parts.append(markdown(points, list(points.columns[1:])))
        if not pairs.empty:
            parts.append(markdown(pairs, list(pairs.columns[2:])))
    return "\n".join(parts)


def _head(summary: pd.DataFrame) -> str:
    pictures = summary.groupby("test_set")["images"].max()
    few = pictures[pictures < curves.LEAST_PICTURES]
    too_few = (
        f"- No intervals on {', '.join(few.index)}: fewer than {curves.LEAST_PICTURES} pictures.\n"
        if len(few)
        else ""
    )
    return f"""# Fair comparisons

- Protocol, where nothing else is said: {protocol_text(summary)}.
- Intervals in brackets hold 95 % of {curves.RESAMPLES} bootstrap resamples of the pictures; a
  comparison of two methods resamples both together.
{too_few}
**Where the FLOPs go.** One point per method: the cheapest within {LOSS_DB:g} dB of the original,
else the best. GFLOPs are per picture. Tiles overlap, so tile methods process some LR pixels more
than once: the overlap factor is LR pixels processed over those of the picture, *without overlap* is
what the same routing would cost if none were processed twice. *Saved by routing* is what the
decision saves, *saved in all* what the overlap leaves of it; negative means dearer than the
original.

**What the protocol is worth.** The mean difference per picture when one choice is made the other
way, all else equal.

**Equal PSNR, equal FLOPs.** Curves are means over the pictures, without points that another one
beats, interpolated linearly. *FLOPs for {LOSS_DB:g} dB less* is what a method needs to come within
{LOSS_DB:g} dB of the original, in percent of the original's FLOPs; *dB at 75 % of the FLOPs* is its
PSNR minus the original's at that budget. A dash: the curve does not reach there. BD-FLOPs is by how
many percent a method needs more FLOPs (negative: fewer) at equal PSNR than the one it is compared
with, BD-PSNR by how many dB it is better at equal FLOPs: Bjontegaard's deltas over the common range
(monotone cubic interpolation over log FLOPs; points of no FLOPs are left out).
"""
