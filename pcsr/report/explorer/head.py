"""The top of an explorer page: the curve of each method, and its verdict against the original.

FLOPs are those that the engine executes, because only they relate to time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pcsr import metrics, registry
from pcsr.errors import UserError
from pcsr.report import curves, tidy
from pcsr.report.curves import Curve
from pcsr.report.fairness import frontier
from pcsr.report.figures import style
from pcsr.report.tidy import REFERENCE

CLOSE = 0.1  # dB below the original
FAR = 1.5  # times what the curves cost at most: static networks beyond would squeeze the chart
STATIC = "Static frontier"
Head = dict[str, Any]  # as the page's scripts read it


class Swept(NamedTuple):
    """The curve of a method.

    Attributes:
        label: what the method is called.
        letter: what its knob is called.
        knobs: values of the knob along the curve; None for a method without one.
        default: that of the default point, if it is on the curve.
    """

    label: str
    letter: str
    knobs: Sequence[float | None]
    default: float | None
    curve: Curve


def of_results(results: pd.DataFrame, test_set: str, backbone: str) -> Head:
    """Return the head of a suite: a backbone's methods on a test set, and static networks.

    Args:
        results: of a suite (``tidy.load``).
        test_set: whose images are averaged.
        backbone: of the methods.

    Raises:
        UserError: the results have no row of them.
    """
    rows = tidy.common_images(tidy.comparable(results[results["main"]]))
    rows = rows[rows["test_set"] == test_set]
    own = rows[rows["backbone"] == backbone]
    if own.empty:
        raise UserError(
            f"--test-set {test_set}: the results have no {backbone} on it; name one that they have."
        )
    swept = [_swept(str(name), some) for name, some in own.groupby(tidy.labels(own), sort=False)]
    source = f"{style.name(test_set)}, {own['image'].nunique()} images"
    training = tidy.training_text(own)
    reference = registry.resolve("method", REFERENCE).__name__
    head = _head(swept, reference, source, f"weights {training}" if training else "")
    if static := list(_static(rows, own)):
        curve = {"label": STATIC, "default": None, "letter": None, "verdict": None}
        head["curves"].append(curve | {"points": static})
    return head


def of_page(swept: Sequence[Swept], reference: str | None) -> Head:
    """Return the head for a page's own images, without those restored exactly.

    Args:
        swept: the curves of a backbone's methods over the same images.
        reference: the label of the original that all are compared with; None without one.
    """
    kept = np.logical_and.reduce([metrics.comparable(one.curve.psnr) for one in swept])
    some = [
        one._replace(curve=Curve(one.curve.psnr[kept], one.curve.gflops[kept])) for one in swept
    ]
    return _head(some, reference, f"{int(kept.sum())} images of this page")


def _swept(name: str, rows: pd.DataFrame) -> Swept:
    method = rows["method"].iloc[0]
    known = registry.resolve("method", method)
    knobs = sorted(set(rows.loc[~rows["adaptive"], "knob"].dropna()))
    return Swept(
        label=name.replace(method, known.__name__, 1),
        letter=style.knob(method),
        knobs=knobs or [None],
        default=known.points[0].knob if known.points[0].knob in knobs else None,
        curve=Curve.of(rows, "engine"),
    )


def _head(swept: Sequence[Swept], reference: str | None, source: str, training: str = "") -> Head:
    """Compare curves with that of the reference.

    Args:
        swept: the curves.
        reference: a label; without a curve of it nothing is compared.
        source: what was measured, in a few words.
        training: who trained the weights, in a few words.
    """
    base = next((one.curve for one in swept if one.label == reference), None)
    return {
        "source": source,
        "training": training,
        "base": base and {"psnr": float(base.psnr.mean()), "gflops": float(base.gflops.mean())},
        "curves": [
            {
                "label": one.label,
                "default": one.default,
                "letter": one.letter,
                "points": list(_points(one, base)),
                "verdict": _verdict(one, base),
            }
            for one in swept
        ],
    }


def _points(swept: Swept, base: Curve | None) -> Iterator[dict[str, Any]]:
    """Yield the points of a curve, with the interval of the gain over the original."""
    curve = swept.curve
    gains: list[Any] = [None] * len(swept.knobs)
    if base is not None:
        over = curve.psnr - base.psnr
        gains = [*map(astuple, curves.estimates(lambda some: over[some].mean(axis=0), len(over)))]
    means = (of.mean(axis=0) for of in (curve.psnr, curve.gflops))
    for knob, psnr, gflops, gain in zip(swept.knobs, *means, gains, strict=True):
        point = {"knob": knob, "adaptive": False, "psnr": float(psnr), "gflops": float(gflops)}
        yield point | {"gain": gain}


def _verdict(swept: Swept, base: Curve | None) -> dict[str, Any] | None:
    """Compare with the original: at the default point, and where its PSNR is reached.

    Returns:
        Name -> value and 95 % interval: ``gain`` in dB and ``share`` of FLOPs in percent at the
        default point; FLOPs in percent at ``equal`` PSNR, and at one ``close`` to it.
    """
    if base is None or swept.default is None:
        return None
    curve, at = swept.curve, swept.knobs.index(swept.default)

    def values(some: NDArray[np.intp]) -> NDArray[np.float64]:
        psnr, gflops = (of[some, at].mean() for of in (curve.psnr, curve.gflops))
        base_psnr, whole = (of[some, 0].mean() for of in (base.psnr, base.gflops))
        needed = (curves.percent_needed(curve, base, loss, some) for loss in (0.0, CLOSE))
        return np.array([psnr - base_psnr, 100 * gflops / whole, *needed])

    found = map(astuple, curves.estimates(values, len(curve.psnr)))
    return dict(zip(("gain", "share", "equal", "close"), found, strict=True))


def _static(rows: pd.DataFrame, own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the static networks beside a backbone's curves, cheapest first, if there are any.

    They are the originals of all backbones on the same images, except those that cost far more than
    the curves reach.
    """
    same = rows["image"].isin(own["image"]) & (rows["scale"] == own["scale"].iloc[0])
    originals = rows[same & (rows["method"] == REFERENCE)]
    originals = originals.assign(curve=tidy.labels(originals))
    cost = "flops_engine"
    means = originals.groupby(["backbone", "curve", "experiment"], as_index=False).agg(
        images=("image", "nunique"), psnr_rgb=("psnr_rgb", "mean"), **{cost: (cost, "mean")}
    )
    most = FAR * own.groupby(["experiment", "knob", "adaptive"], dropna=False)[cost].mean().max()
    means = means[(means["images"] == own["image"].nunique()) & (means[cost] <= most)]
    if set(means["backbone"]) <= set(own["backbone"]):
        return
    means = means.assign(name=frontier.names(means).map(style.curve)).sort_values(cost)
    edge = frontier.undominated(means, cost)
    for number, network in means.iterrows():
        yield {
            "name": network["name"],
            "beaten": number not in edge.index,
            "knob": None,
            "adaptive": False,
            "psnr": network["psnr_rgb"],
            "gflops": network[cost] / 1e9,
            "gain": None,
        }
