"""What makes a comparison fair: overlap, FLOP conventions, protocol, equal PSNR and equal FLOPs."""

from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcsr import escape
from pcsr.config.options import MarkdownOut, Results
from pcsr.report import curves, pages
from pcsr.report.columns import CONVENTIONS
from pcsr.report.curves import Curve, estimate
from pcsr.report.fairness import choices, frontier
from pcsr.report.figures import style
from pcsr.report.tables import best_cells, markdown, rounded
from pcsr.report.tidy import (
    PLACE,
    REFERENCE,
    common_images,
    comparable,
    exact_images,
    knob_text,
    labels,
    load,
    protocol_text,
    summarise,
    training_note,
)
from pcsr.storage import files

LOSS_DB = 0.05  # that a selected point may have against the original
BUDGETS = (0.75, 0.5)  # shares of the original's FLOPs
FLOP_DECIMALS = {
    "PSNR-RGB (dB)": 3,
    "vs original (dB)": 3,
    "GFLOPs": 2,
    "Without overlap": 2,
    "Added by overlap": 2,
    "Overlap factor": 3,
    "Saved by routing (%)": 1,
    "Saved in total (%)": 1,
}
FLOPS_BETTER = {
    **dict.fromkeys(("GFLOPs", "Without overlap"), -1),
    **dict.fromkeys(("PSNR-RGB (dB)", "Saved by routing (%)", "Saved in total (%)"), 1),
}


def fairness(results: Results, /, *, out: MarkdownOut) -> None:
    """Compare methods fairly: overlap, both FLOP conventions, protocol, equal PSNR, equal FLOPs.

    Example: `pcsr fairness reports/quick/results.csv --out fairness.md`.
    """
    files.check_outputs([results], pages.written(out))
    pages.write(fairness_markdown(load(results)), out)


def fairness_markdown(results: pd.DataFrame) -> str:
    """Return the page: three sections for every test set, backbone and scale; how to read them.

    Args:
        results: of a suite, all protocols (``tidy.collect``).
    """
    sections = [_head(results), *(f"{note}\n" for note in exact_images(results))]
    results = comparable(results)
    for (test_set, backbone, scale), of_place in frontier.without_lone(results).groupby(PLACE):
        place = escape.markdown(f"{style.name(backbone)} on {style.name(test_set)}")
        sections.append(f"## {place}, x{scale:g}\n")
        sections += _place(of_place.assign(curve=_names(of_place)))
    sections += frontier.sections(results)
    return "\n".join([*sections, _how_to_read()])


def _place(measured: pd.DataFrame) -> Iterator[str]:
    main = measured[measured["main"]]
    if not (main["method"] == REFERENCE).any():
        yield "The original was not measured, so there is nothing to compare against.\n"
        return
    rows = measured[measured["image"].isin(common_images(main)["image"])]
    left_out = measured["image"].nunique() - rows["image"].nunique()
    if left_out:
        yield f"Images left out because not every method was measured on them: {left_out}.\n"
    if rows.empty:
        return
    points = summarise(rows)
    chosen = selected(points.assign(curve=_names(points)))
    yield from _flops(chosen)
    yield from choices.section(rows, chosen)
    yield from _equal(rows)


def _names(rows: pd.DataFrame) -> pd.Series:
    return labels(rows).map(style.curve)


def selected(points: pd.DataFrame) -> pd.DataFrame:
    """Pick one operating point of every curve of one place, the original first.

    It is the cheapest (paper convention) that loses at most ``LOSS_DB`` to the original, otherwise
    the one with the highest PSNR. The column ``near`` tells which.
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
    """Split the FLOPs of selected points into what routing leaves and what overlap adds.

    ``Without overlap`` is the mean of each image's FLOPs over its overlap factor: what routing
    alone would cost. Savings are against the original's FLOPs in the same convention.
    """
    tables = []
    original = chosen[chosen["method"] == REFERENCE].iloc[0]
    for convention, name in _conventions(chosen, "gflops"):
        gflops, unlapped = chosen[f"gflops_{convention}"], chosen[f"unlapped_{convention}"]
        whole = original[f"gflops_{convention}"]
        columns = {
            "Method": chosen["curve"],
            "Knob": chosen.apply(knob_text, axis="columns"),
            "Convention": name,
            "PSNR-RGB (dB)": chosen["psnr_rgb"],
            "vs original (dB)": chosen["psnr_rgb"] - original["psnr_rgb"],
            "GFLOPs": gflops,
            "Without overlap": unlapped,
            "Added by overlap": gflops - unlapped,
            "Overlap factor": chosen["overlap"],
            "Saved by routing (%)": 100 * (1 - unlapped / whole),
            "Saved in total (%)": 100 * (1 - gflops / whole),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def equal_points(curves_of: dict[str, Curve], original: Curve) -> pd.DataFrame:
    """Interpolate every curve at the original's PSNR and at shares of the original's GFLOPs.

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
            f"FLOPs at -{LOSS_DB:g} dB (%)": estimate(percent, images).text(1),
            f"GFLOPs at -{LOSS_DB:g} dB": estimate(gflops, images).text(2),
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
    """Yield a line on the range that each curve covers, relative to the original."""
    for name, curve in curves_of.items():
        rate, quality = curve.frontier(np.arange(len(original.psnr)))
        if not len(rate):
            yield f"- {name} was measured on all images at no knob value."
            continue
        percent, above = 100 * rate / original.gflops.mean(), quality - original.psnr.mean()
        yield (
            f"- {name} covers {percent[0]:.1f} to {percent[-1]:.1f} % of the original's FLOPs and "
            f"{above[0]:+z.3f} to {above[-1]:+z.3f} dB relative to the original."
        )


def _conventions(table: pd.DataFrame, measure: str) -> list[tuple[str, str]]:
    """Return the conventions and their names; one for both if they agree on every row."""
    columns = [table[f"{measure}_{convention}"] for convention in CONVENTIONS]
    if columns[0].equals(columns[1]):
        return [(CONVENTIONS[0], " and ".join(CONVENTIONS))]
    return [(convention, convention) for convention in CONVENTIONS]


def _curves(rows: pd.DataFrame, convention: str) -> tuple[dict[str, Curve], Curve]:
    """Return the curves of one place's main rows, and the original's point."""
    main = rows[rows["main"]]
    original = main[main["method"] == REFERENCE]
    one = original[original["curve"] == original["curve"].iloc[0]]
    routed = main[main["method"] != REFERENCE].groupby("curve")
    return {str(name): Curve.of(of, convention) for name, of in routed}, Curve.of(one, convention)


def _flops(chosen: pd.DataFrame) -> Iterator[str]:
    table = split_flops(chosen)
    cells = rounded(table, FLOP_DECIMALS)
    marked = best_cells(cells, FLOPS_BETTER, by=["Convention"])
    yield "### Where the FLOPs go\n"
    yield markdown(cells, ["Knob", *FLOP_DECIMALS], marked)
    far = chosen.loc[~chosen["near"], "curve"]
    if len(far):
        yield (
            f"No point is within {LOSS_DB:g} dB of the original, so the one with the highest PSNR "
            f"is shown: {escape.markdown(', '.join(far))}.\n"
        )
    yield from _reversals(table)


def _reversals(table: pd.DataFrame) -> Iterator[str]:
    """Yield a line for every method that saves by one convention and costs more by the other."""
    by_convention = table.pivot(index="Method", columns="Convention")
    gflops, saved = by_convention["GFLOPs"], by_convention["Saved in total (%)"]
    if not set(CONVENTIONS) <= set(gflops.columns):
        return
    whole = gflops.loc[table["Method"].iloc[0]]
    for name in saved.index[(saved["paper"] > 0) & (saved["algorithmic"] < 0)]:
        cost = gflops.loc[name]
        yield (
            f"**{escape.markdown(name)} "
            f"saves {saved.loc[name, 'paper']:.1f} % of the original's FLOPs in the paper "
            f"convention ({cost['paper']:.2f} instead of {whole['paper']:.2f} GFLOPs), but costs "
            f"{cost['algorithmic'] / whole['algorithmic']:.2f} times the original's in the "
            f"algorithmic convention ({cost['algorithmic']:.2f} instead of "
            f"{whole['algorithmic']:.2f} GFLOPs).**\n"
        )


def _equal(rows: pd.DataFrame) -> Iterator[str]:
    yield "### At equal PSNR and at equal FLOPs\n"
    overlap = rows["lr_pixels"] / (rows["lr_height"] * rows["lr_width"])
    rows = rows.assign(flops_once=rows["flops_paper"] / overlap)
    conventions = _conventions(rows, "flops")
    if (overlap > 1).any():
        conventions.append(("once", "paper, as if no pixel were processed twice"))
    for convention, name in conventions:
        curves_of, original = _curves(rows, convention)
        if not curves_of:
            yield "No method other than the original was measured.\n"
            return
        points, pairs = equal_points(curves_of, original), deltas(curves_of)
        yield f"FLOPs ({name}):\n"
        better = {name: -1 if "FLOPs at" in name else 1 for name in points.columns[1:]}
        yield markdown(points, list(better), best_cells(points, better))
        if (points == "-").any(axis=None):
            yield "A dash: the curve never reaches that PSNR, or all of it exceeds that budget.\n"
            yield "\n".join(_reach(curves_of, original)) + "\n"
        if not pairs.empty:
            yield markdown(pairs, list(pairs.columns[2:]))


def _head(results: pd.DataFrame) -> str:
    main = results[results["main"]]
    images = main.groupby("test_set")["image"].nunique()
    few = images[images < curves.LEAST_IMAGES]
    sets = escape.markdown(", ".join(few.index))
    too_few = (
        f"- No intervals on {sets}: fewer than {curves.LEAST_IMAGES} images.\n" if len(few) else ""
    )
    trained = "".join(f"- {escape.markdown(note)}\n" for note in training_note(main))
    return f"""# Fair comparisons

- Protocol, unless stated otherwise: {escape.markdown(protocol_text(main))}.
{trained}- `value [low, high]` is a mean over images with its 95 % interval, from the percentiles of
  {curves.RESAMPLES} bootstrap resamples of the images.
{too_few}- Bold is the best of a column. The columns are explained at the end.
"""


def _how_to_read() -> str:
    return f"""## How to read this page

**Knob.** k for PCSR and ClassSR (larger saves more), eta over the full network's cost for ARM
(smaller saves more). ADM is the adaptive decision, which has no knob.

**Where the FLOPs go.** One point per method: the cheapest, in the paper convention, that loses at
most {LOSS_DB:g} dB to the original. If there is none, the one with the highest PSNR.

| column | meaning |
| :-- | :-- |
| Convention | transposed convolutions counted on the output (paper) or input (algorithmic) grid |
| GFLOPs | per image, averaged over the images |
| Overlap factor | LR pixels processed per LR pixel of the image; above 1 where tiles overlap |
| Without overlap | GFLOPs if no pixel were processed twice: each image's divided by its factor |
| Added by overlap | GFLOPs minus those without overlap |
| Saved by routing (%) | of the original's GFLOPs, without overlap: by routing and the branches |
| Saved in total (%) | of the original's GFLOPs, with overlap; negative if it costs more |

**What the protocol is worth.** For the point above and for ADM, one choice is changed and all else
stays as in the protocol. PSNR is the difference on each image, averaged over the images. GFLOPs
(paper) is the difference of the means. A method is missing where a choice was not measured:
refinement changes pixel-level routing only, and tile methods are measured on whole tiles only. A
curve of one or two knob values is compared at each of them.

**At equal PSNR and at equal FLOPs.** A curve joins the means over the images at each knob value by
straight lines. Points that another one beats in PSNR and FLOPs are dropped. ADM is not part of the
curve. Costs and budgets are relative to the original's mean GFLOPs in the same convention. Where
tiles overlap, the last tables divide each image's FLOPs by its overlap factor. They show how the
comparison would look if a tile method did no work twice.

| column | meaning |
| :-- | :-- |
| FLOPs at -{LOSS_DB:g} dB (%) | cost of the original's PSNR minus {LOSS_DB:g} dB |
| GFLOPs at -{LOSS_DB:g} dB | the same cost in GFLOPs, mean per image |
| PSNR-RGB at 75 % (dB) | of the curve, at a budget of 75 % of the original's GFLOPs |
| vs original at 75 % (dB) | the same, minus the original's PSNR on the same images |
| Common PSNR (dB) | range that both curves cover; BD-FLOPs is averaged over it |
| BD-FLOPs (%) | extra FLOPs at equal PSNR over the method compared with; negative: fewer |
| Common GFLOPs | range that both curves cover; BD-PSNR is averaged over it |
| BD-PSNR (dB) | PSNR gain at equal FLOPs over the method compared with |

BD values are Bjontegaard deltas between monotone cubic curves over log FLOPs. Points with zero
FLOPs (bicubic everywhere) have no logarithm and are excluded. A dash means that the curves have too
little in common (PSNR for BD-FLOPs, FLOPs for BD-PSNR): less than
{100 * curves.LEAST_COMMON:g} % of the shorter range, {curves.LEAST_RANGE:g} dB or
{100 * curves.LEAST_RANGE:g} % of FLOPs. Each resample takes the same images for both methods and
the original. A value has no interval if some resample does not reach it.
"""
