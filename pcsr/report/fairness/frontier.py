"""The static frontier: the PSNR of networks without a decision at each cost, and who beats it."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcsr import escape
from pcsr.report import curves
from pcsr.report.columns import CALLED
from pcsr.report.curves import Curve, Estimate, Floats, estimates
from pcsr.report.figures import style
from pcsr.report.tables import markdown
from pcsr.report.tidy import REFERENCE, knob_text, labels

COUNTS = ("paper", "engine")  # of FLOPs
NETWORK = ["backbone", "curve"]
POINT = [*NETWORK, "knob", "adaptive"]
ABOVE, LEVEL, BELOW, CHEAPER = "above", "indistinguishable", "below", "cheaper than all static ones"
VERDICTS = (ABOVE, LEVEL, BELOW, CHEAPER)
COUNTED = ("Points", *VERDICTS)  # columns of numbers
LISTED = ("Knob", "GFLOPs", "PSNR-RGB (dB)", "Difference (dB)")
RULE = """\
The static networks are the originals of all backbones that were measured on the same images by the
same protocol. The frontier joins those that no other one beats in PSNR and FLOPs; between two
neighbours PSNR is interpolated linearly in log FLOPs, and beyond the most expensive one it is
constant. Left of the cheapest there is no frontier. An operating point is *above* (or *below*) it
where the 95 % interval of the difference in PSNR at its own FLOPs is. The frontier is computed
again for each bootstrap resample of the images. *executed* FLOPs are those of the engine.
"""


def names(networks: pd.DataFrame) -> pd.Series:
    """Name static networks by their backbone, with the experiment if a backbone has several."""
    several = networks.groupby("backbone")["curve"].transform("nunique") > 1
    backbone = networks["backbone"]
    return backbone.where(~several, backbone + " (" + networks["experiment"] + ")")


def undominated(networks: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Keep the networks that no other beats in PSNR and ``cost``, a column; cheapest first."""
    return networks.iloc[curves.undominated(*networks[[cost, "psnr_rgb"]].to_numpy().T)]


def psnr_at(static: Curve, gflops: Floats, images: NDArray[np.intp]) -> Floats:
    """Return the PSNR of the frontier at several costs; NaN left of the cheapest network.

    Args:
        static: a column for each static network.
        gflops: mean per image.
        images: numbers of the images to average over.
    """
    rate, quality = static.frontier(images)
    with np.errstate(divide="ignore"):  # bicubic everywhere costs nothing
        return np.interp(np.log(gflops), np.log(rate), quality, left=np.nan)


def without_lone(results: pd.DataFrame) -> pd.DataFrame:
    """Leave out backbones without an adaptive method, on test sets where others have one."""
    adaptive = results["method"] != REFERENCE
    here, there = (
        adaptive.groupby([results[name] for name in place]).transform("any")
        for place in (["test_set", "scale", "backbone"], ["test_set", "scale"])
    )
    return results[here | ~there]


def differences(rows: pd.DataFrame, count: str) -> pd.DataFrame:
    """Compare every adaptive operating point with the frontier of the static networks.

    Args:
        rows: main rows of one test set and scale, all of the same images, with their ``curve``.
        count: of FLOPs.

    Returns:
        A row per operating point: ``POINT``, ``gflops`` and ``psnr`` (means), ``difference``
        (``Estimate`` in dB) and ``verdict``.
    """
    is_static = rows["method"] == REFERENCE
    static = Curve.of(_numbered(rows[is_static], NETWORK), count)
    adaptive = Curve.of(_numbered(rows[~is_static], POINT), count)

    def above(some: NDArray[np.intp]) -> Floats:
        psnr, gflops = adaptive.psnr[some].mean(axis=0), adaptive.gflops[some].mean(axis=0)
        return psnr - psnr_at(static, gflops, some)

    points = rows.loc[~is_static, POINT].drop_duplicates().sort_values(POINT, ignore_index=True)
    found = estimates(above, len(static.psnr))
    return points.assign(
        gflops=adaptive.gflops.mean(axis=0),
        psnr=adaptive.psnr.mean(axis=0),
        difference=found,
        verdict=[_verdict(one) for one in found],
    )


def sections(results: pd.DataFrame) -> Iterator[str]:
    """Yield the section of every test set and scale on which several static networks were measured.

    Args:
        results: of a suite, without images that are restored exactly.
    """
    main = results[results["main"]]
    for (test_set, scale), rows in main.assign(curve=labels(main)).groupby(["test_set", "scale"]):
        common = _common(rows)
        static = common[common["method"] == REFERENCE]
        if static.groupby(NETWORK).ngroups < 2 or len(static) == len(common):
            continue
        place = escape.markdown(style.name(str(test_set)))
        yield f"## Which operating points lie above the static frontier on {place}, x{scale:g}?\n"
        yield RULE
        for count in COUNTS:
            yield from _counted(common, count)


def _counted(rows: pd.DataFrame, count: str) -> Iterator[str]:
    static = rows[rows["method"] == REFERENCE]
    measures = ["psnr_rgb", f"flops_{count}"]
    means = static.groupby([*NETWORK, "experiment"], as_index=False)[measures].mean()
    means["name"] = names(means).map(style.curve)
    edge = undominated(means, f"flops_{count}")
    joined = ", ".join(
        f"{point['name']} ({point['psnr_rgb']:.2f} dB, {point[f'flops_{count}'] / 1e9:.2f} G)"
        for _, point in edge.iterrows()
    )
    beaten = sorted(set(means["name"]) - set(edge["name"]))
    yield f"### By {CALLED[count]} FLOPs\n"
    yield f"Frontier: {escape.markdown(joined)}."
    if beaten:
        yield f"Beaten by another static network: {escape.markdown(', '.join(beaten))}."
    points = differences(rows, count)
    above = points[points["verdict"] == ABOVE]
    cheaper = (points["verdict"] == CHEAPER).sum()
    compared = f"{len(points) - cheaper} adaptive operating points that can be compared"
    if above.empty:
        found = f"**None of the {compared} lies above it.**"
    else:
        found = f"**{len(above)} of the {compared} lie above it**, listed last."
    are = "is" if cheaper == 1 else "are"
    rest = f" {cheaper} more {are} cheaper than every static network." if cheaper else ""
    yield f"\n{found}{rest}\n"
    yield markdown(_by_curve(points), COUNTED)
    if len(above):
        yield markdown(_listed(above), LISTED)


def _by_curve(points: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of each curve, and give its best point that has a difference."""
    table = []
    for (backbone, curve), of_curve in points.groupby(NETWORK):
        counts = of_curve["verdict"].value_counts()
        values = of_curve["difference"].map(lambda estimate: estimate.value)
        best = of_curve.loc[values.idxmax()] if values.notna().any() else None
        table.append(
            {
                "Backbone": style.name(str(backbone)),
                "Method": style.curve(str(curve)),
                "Points": str(len(of_curve)),
                **{verdict: str(counts.get(verdict, 0)) for verdict in VERDICTS},
                "Best difference (dB)": "-" if best is None else best["difference"].text(3),
                "at": "-" if best is None else f"{knob_text(best)}: {best['gflops']:.2f} G",
            }
        )
    return pd.DataFrame(table)


def _listed(points: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Backbone": points["backbone"].map(style.name),
            "Method": points["curve"].map(style.curve),
            "Knob": points.apply(knob_text, axis="columns"),
            "GFLOPs": points["gflops"].map("{:.2f}".format),
            "PSNR-RGB (dB)": points["psnr"].map("{:.3f}".format),
            "Difference (dB)": points["difference"].map(lambda estimate: estimate.text(3)),
        }
    )


def _common(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the images that every curve of a test set was measured on."""
    curve = rows.groupby(NETWORK).ngroup()
    return rows[curve.groupby(rows["image"]).transform("nunique") == curve.nunique()]


def _numbered(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Number the groups, in order, as if they were the knob values of one curve."""
    number = rows.groupby(by, dropna=False).ngroup()
    return rows.assign(knob=number.astype(float), adaptive=False)


def _verdict(difference: Estimate) -> str:
    if np.isnan(difference.value):
        return CHEAPER
    if difference.low > 0:
        return ABOVE
    return BELOW if difference.high < 0 else LEVEL
