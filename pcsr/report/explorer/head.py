"""The top of an explorer page: the curve of each method, and its verdict against the original.

FLOPs are those that the engine executes, because only they relate to time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
Swept = tuple[Sequence[float | None], Curve]  # knob values, and the curve through them


@dataclass(frozen=True)
class Head:
    """The curves of a page.

    Attributes:
        swept: label -> knob values and curve over the same images.
        reference: the label of the original that all are compared with; None without one.
        defaults: label -> knob value of the default point, for methods that have one.
        letters: label -> what the knob is called.
        source: what was measured, in a few words.
        training: who trained the weights, in a few words.
        static: points of static networks; those that another one beats are marked.
    """

    swept: Mapping[str, Swept]
    reference: str | None
    defaults: Mapping[str, float]
    letters: Mapping[str, str]
    source: str
    static: Sequence[Mapping[str, Any]] = ()
    training: str = ""

    def content(self) -> dict[str, Any]:
        """Return what the page's scripts read."""
        base = None if self.reference is None else self.swept[self.reference][1]
        static = {"label": STATIC, "default": None, "letter": None, "verdict": None}
        return {
            "source": self.source,
            "training": self.training,
            "base": None
            if base is None
            else {"psnr": float(base.psnr.mean()), "gflops": float(base.gflops.mean())},
            "curves": [
                {
                    "label": label,
                    "default": self.defaults.get(label),
                    "letter": self.letters.get(label),
                    "points": list(_points(*swept, base)),
                    "verdict": self._verdict(label, base),
                }
                for label, swept in self.swept.items()
            ]
            + ([static | {"points": list(self.static)}] if self.static else []),
        }

    def _verdict(self, label: str, base: Curve | None) -> dict[str, Any] | None:
        """Compare with the original: at the default point, and where its PSNR is reached.

        Returns:
            Name -> value and 95 % interval: ``gain`` in dB and ``share`` of FLOPs in percent at the
            default point; FLOPs in percent at ``equal`` PSNR, and at one ``close`` to it.
        """
        if base is None or label not in self.defaults:
            return None
        knobs, curve = self.swept[label]
        at = list(knobs).index(self.defaults[label])

        def values(some: NDArray[np.intp]) -> NDArray[np.float64]:
            psnr, gflops = (of[some, at].mean() for of in (curve.psnr, curve.gflops))
            base_psnr, whole = (of[some, 0].mean() for of in (base.psnr, base.gflops))
            needed = (curves.percent_needed(curve, base, loss, some) for loss in (0.0, CLOSE))
            return np.array([psnr - base_psnr, 100 * gflops / whole, *needed])

        found = curves.estimates(values, len(curve.psnr))
        names = ("gain", "share", "equal", "close")
        return {n: [of.value, of.low, of.high] for n, of in zip(names, found, strict=True)}


def _points(
    knobs: Sequence[float | None], curve: Curve, base: Curve | None
) -> Iterator[dict[str, Any]]:
    """Yield the points of a curve, with the interval of the gain over the original."""
    gains = None
    if base is not None:
        over = curve.psnr - base.psnr
        gains = curves.estimates(lambda some: over[some].mean(axis=0), len(over))
    psnr, gflops = curve.psnr.mean(axis=0), curve.gflops.mean(axis=0)
    for number, knob in enumerate(knobs):
        gain = gains[number] if gains else None
        yield {
            "knob": knob,
            "adaptive": False,
            "psnr": float(psnr[number]),
            "gflops": float(gflops[number]),
            "gain": None if gain is None else [gain.value, gain.low, gain.high],
        }


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
    swept: dict[str, Swept] = {}
    defaults: dict[str, float] = {}
    letters: dict[str, str] = {}
    for name, some in own.groupby(tidy.labels(own), sort=False):
        method = some["method"].iloc[0]
        known = registry.resolve("method", method)
        label = str(name).replace(method, known.__name__, 1)
        swept[label] = _swept(some)
        letters[label] = style.knob(method)
        if known.points[0].knob in swept[label][0] and known.points[0].knob is not None:
            defaults[label] = known.points[0].knob
    reference = registry.resolve("method", REFERENCE).__name__
    source = f"{style.name(test_set)}, {own['image'].nunique()} images"
    known = reference if reference in swept else None
    static = tuple(_static(rows, own))
    training = f"weights {tidy.training_text(own)}" if tidy.training_text(own) else ""
    return Head(swept, known, defaults, letters, source, static, training)


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


def _swept(rows: pd.DataFrame) -> Swept:
    knobs = sorted(set(rows.loc[~rows["adaptive"], "knob"].dropna()))
    return knobs or [None], Curve.of(rows, "engine")


def of_page(
    swept: Mapping[str, Swept],
    reference: str | None,
    defaults: Mapping[str, float],
    letters: Mapping[str, str],
) -> Head:
    """Return the head for a page's own images, without those restored exactly."""
    kept = np.logical_and.reduce([metrics.comparable(curve.psnr) for _, curve in swept.values()])
    some = {
        label: (knobs, Curve(curve.psnr[kept], curve.gflops[kept]))
        for label, (knobs, curve) in swept.items()
    }
    return Head(some, reference, defaults, letters, f"{int(kept.sum())} images of this page")
