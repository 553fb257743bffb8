"""What makes a comparison fair: overlap, FLOP conventions, protocol, equal PSNR and equal FLOPs."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcsr.config.options import MarkdownOut, Results
from pcsr.report import curves, pages
from pcsr.report.curves import Curve, Estimate, estimate
from pcsr.report.tables import markdown, rounded
from pcsr.report.tidy import (
    CONVENTIONS,
    PLACE,
    PROTOCOL,
    REFERENCE,
    common_images,
    comparable,
    exact_images,
    knob_text,
    labels,
    load,
    protocol_text,
    summarise,
)

LOSS_DB = 0.05  # that a selected point may have against the original
BUDGETS = (0.75, 0.5)  # shares of the original's FLOPs
CHOICES = {  # choice of the protocol -> (what it is called, value, value it is compared with)
    "lr": ("float LR instead of 8-bit LR", "float", "8bit"),
    "refine": ("refined instead of not", True, False),
    "crop": ("whole image instead of tiles", "none", "tiles"),
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


def fairness(results: Results, /, *, out: MarkdownOut) -> None:
    """Compare methods fairly: overlap, both FLOP conventions, protocol, equal PSNR, equal FLOPs."""
    pages.write(fairness_markdown(load(results)), out)


def fairness_markdown(results: pd.DataFrame) -> str:
    """Return the page: three sections for every test set, backbone and scale; how to read them.

    Args:
        results: of a suite, all protocols (``tidy.collect``).
    """
    sections = [_head(results), *(f"{note}\n" for note in exact_images(results))]
    results = comparable(results)
    for (test_set, backbone, scale), of_place in results.groupby(PLACE):
        sections.append(f"## {backbone} on {test_set}, x{scale:g}\n")
        sections += _place(of_place.assign(curve=labels(of_place)))
    return "\n".join([*sections, _how_to_read()])


def _place(measured: pd.DataFrame) -> Iterator[str]:
    if not (measured["method"] == REFERENCE).any():
        yield "The original was not measured, so there is nothing to compare with.\n"
        return
    rows = common_images(measured)
    left_out = measured["image"].nunique() - rows["image"].nunique()
    if left_out:
        yield f"Images left out because not every method was measured on them: {left_out}.\n"
    if rows.empty:
        return
    points = summarise(rows)
    chosen = selected(points.assign(curve=labels(points)))
    yield from (_flops(chosen), _protocol(rows, chosen), _equal(rows))


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

    ``Without overlap`` is the mean of each image's FLOPs over its overlap factor: what routing
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
        One row per choice that was measured both ways and point: PSNR difference per image,
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

    Returns:
        One row per curve, as text; ``-`` where the curve does not reach.
    """
    images = len(original.psnr)
    table = []
    for name, curve in curves_of.items():
        needed = (curves.percent_needed, curves.gflops_needed)
        percent, gflops = (partial(f, curve, original, LOSS_DB) for f in needed)
        row = {
            "Method": name,
            f"FLOPs for {LOSS_DB:g} dB less (%)": estimate(percent, images).text(1),
            "the same in GFLOPs": estimate(gflops, images).text(2),
        }
        for share in BUDGETS:
            psnr, change = (partial(f, curve, original, share) for f in (_psnr_at, _change_at))
            row[f"PSNR-RGB at {100 * share:g} % (dB)"] = estimate(psnr, images).text(2)
            row[f"vs original at {100 * share:g} % (dB)"] = estimate(change, images).text(3)
        table.append(row)
    return pd.DataFrame(table)


def deltas(curves_of: dict[str, Curve]) -> pd.DataFrame:
    """Compare curves pairwise by Bjontegaard's deltas over what they have in common."""
    table = []
    for (anchor_name, anchor), (name, test) in combinations(curves_of.items(), 2):
        images = len(anchor.psnr)
        flops, psnr = (partial(bd, anchor, test) for bd in (curves.bd_flops, curves.bd_psnr))
        table.append(
            {
                "Method": name,
                "Compared with": anchor_name,
                "Common PSNR (dB)": _range(*curves.common_psnr(anchor, test)),
                "BD-FLOPs (%)": estimate(flops, images).text(1),
                "Common GFLOPs": _range(*curves.common_gflops(anchor, test)),
                "BD-PSNR (dB)": estimate(psnr, images).text(3),
            }
        )
    return pd.DataFrame(table)


def _psnr_at(curve: Curve, original: Curve, share: float, some: NDArray[np.intp]) -> float:
    return curve.psnr_at(share * float(original.gflops[some].mean()), some)


def _change_at(curve: Curve, original: Curve, share: float, some: NDArray[np.intp]) -> float:
    return _psnr_at(curve, original, share, some) - float(original.psnr[some].mean())


def _range(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}" if low < high else "none"


def _reach(curves_of: dict[str, Curve], original: Curve) -> Iterator[str]:
    """Say how far every curve goes, against the original."""
    for name, curve in curves_of.items():
        rate, quality = curve.frontier(np.arange(len(original.psnr)))
        percent, above = 100 * rate / original.gflops.mean(), quality - original.psnr.mean()
        yield (
            f"- {name} runs from {percent[0]:.1f} to {percent[-1]:.1f} % of the original's FLOPs "
            f"and from {above[0]:+z.3f} to {above[-1]:+z.3f} dB."
        )


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
    one = original[original["curve"] == original["curve"].iloc[0]]
    routed = main[main["method"] != REFERENCE].groupby("curve")
    return {str(name): Curve.of(of, convention) for name, of in routed}, Curve.of(one, convention)


def _flops(chosen: pd.DataFrame) -> str:
    table = split_flops(chosen)
    text = ["### Where the FLOPs go\n", markdown(rounded(table, FLOP_DECIMALS), FLOP_DECIMALS)]
    far = chosen.loc[~chosen["near"], "curve"]
    if len(far):
        text.append(
            f"No point within {LOSS_DB:g} dB of the original, so that of highest PSNR is shown: "
            f"{', '.join(far)}.\n"
        )
    return "\n".join([*text, *_reversals(table)])


def _reversals(table: pd.DataFrame) -> Iterator[str]:
    """Say of every method that saves by one convention and costs more by the other that it does."""
    by_convention = table.pivot(index="Method", columns="Convention")
    gflops, saved = by_convention["GFLOPs"], by_convention["Saved in all (%)"]
    if not set(CONVENTIONS) <= set(gflops.columns):
        return
    whole = gflops.loc[table["Method"].iloc[0]]
    for name in saved.index[(saved["paper"] > 0) & (saved["algorithmic"] < 0)]:
        cost = gflops.loc[name]
        yield (
            f"**{name} saves {saved.loc[name, 'paper']:.1f} % of the original's FLOPs as the paper "
            f"counts ({cost['paper']:.2f} instead of {whole['paper']:.2f} GFLOPs), but executes "
            f"{cost['algorithmic'] / whole['algorithmic']:.2f} times the original's "
            f"({cost['algorithmic']:.2f} instead of {whole['algorithmic']:.2f} GFLOPs, "
            "algorithmic).**\n"
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
    overlap = rows["lr_pixels"] / (rows["lr_height"] * rows["lr_width"])
    rows = rows.assign(flops_once=rows["flops_paper"] / overlap)
    conventions = [(of, f"the {name} convention") for of, name in _conventions(rows, "flops")]
    if (overlap > 1).any():
        conventions.append(("once", "the paper convention, as if no pixel were processed twice"))
    for convention, name in conventions:
        curves_of, original = _curves(rows, convention)
        if not curves_of:
            return "\n".join([*parts, "No method beside the original was measured.\n"])
        points, pairs = equal_points(curves_of, original), deltas(curves_of)
        parts.append(f"FLOPs by {name}:\n")
        parts.append(markdown(points, list(points.columns[1:])))
        if (points == "-").any(axis=None):
            parts += [
                "A dash: the curve never has that PSNR, or all of it costs more than that budget.\n"
            ]
            parts += ["\n".join(_reach(curves_of, original)) + "\n"]
        if not pairs.empty:
            parts.append(markdown(pairs, list(pairs.columns[2:])))
    return "\n".join(parts)


def _head(results: pd.DataFrame) -> str:
    main = results[results["main"]]
    images = main.groupby("test_set")["image"].nunique()
    few = images[images < curves.LEAST_IMAGES]
    too_few = (
        f"- No intervals on {', '.join(few.index)}: fewer than {curves.LEAST_IMAGES} images.\n"
        if len(few)
        else ""
    )
    return f"""# Fair comparisons

- Protocol, where nothing else is said: {protocol_text(main)}.
- `value [low, high]` is a mean over images with its 95 % interval: percentiles of
  {curves.RESAMPLES} bootstrap resamples of the images.
{too_few}- What every column means stands at the end.
"""


def _how_to_read() -> str:
    return f"""## How to read this page

**Knob.** k of PCSR and ClassSR (more saves more), eta over the full network's cost for ARM (less
saves more); ADM is the adaptive decision, which has none.

**Where the FLOPs go.** One point per method: by the paper's convention the cheapest that loses at
most {LOSS_DB:g} dB to the original, else the one of highest PSNR.

| column | meaning |
| :-- | :-- |
| Convention | transposed convolutions count on the output (paper) or input grid (algorithmic) |
| GFLOPs | per image, mean over the images |
| Overlap factor | LR pixels processed over LR pixels of the image; above 1 where tiles overlap |
| Without overlap | GFLOPs if no pixel were processed twice: each image's over its factor |
| Overlap's extra | GFLOPs less those without overlap |
| Saved by routing (%) | of the original's GFLOPs, without overlap: by decision and networks |
| Saved in all (%) | of the original's GFLOPs, with overlap; below 0 it costs more than that |

**What the protocol is worth.** For the point above and for ADM: one choice made the other way, all
else as in the protocol. PSNR is the mean over images of the difference on each image, GFLOPs
(paper) the difference of the means. A method is missing where a choice was not measured: refinement
changes pixel-level routing alone, and methods by tiles are measured on whole tiles alone.

**At equal PSNR and at equal FLOPs.** A curve is the mean over the images at every knob value,
joined by straight lines, without points that another one beats in PSNR and FLOPs. ADM is no part of
it. Costs and budgets are against the original's mean GFLOPs in the same convention. Where tiles
overlap, the last tables divide each image's FLOPs by its overlap factor: how the comparison would
stand if a tile method did no work twice.

| column | meaning |
| :-- | :-- |
| FLOPs for {LOSS_DB:g} dB less (%) | cost of the original's PSNR less {LOSS_DB:g} dB |
| the same in GFLOPs | its mean per image |
| PSNR-RGB at 75 % (dB) | of the curve at a budget of 75 % of the original's GFLOPs |
| vs original at 75 % (dB) | that less the original's PSNR on the same images |
| Common PSNR (dB) | range that both curves cover; BD-FLOPs is a mean over it |
| BD-FLOPs (%) | FLOPs more (negative: fewer) at equal PSNR than the method compared with |
| Common GFLOPs | range that both curves cover; BD-PSNR is a mean over it |
| BD-PSNR (dB) | PSNR more at equal FLOPs than the method compared with |

BD are Bjontegaard's deltas, between monotone cubic curves over log FLOPs. Points of no FLOPs
(bicubic everywhere) have no logarithm and are left out of them. A dash stands where the curves have
too little in common (PSNR for BD-FLOPs, FLOPs for BD-PSNR): less than
{100 * curves.LEAST_COMMON:g} % of the shorter one's range, {curves.LEAST_RANGE:g} dB or
{100 * curves.LEAST_RANGE:g} % of FLOPs. Every resample takes the same images of both methods and
of the original. A value without an interval is one that some resample does not reach.
"""
