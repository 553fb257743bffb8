"""Curves over images: interpolation, Bjontegaard deltas, and bootstrap intervals.

A statistic is a function of image indices, so that one resample of images applies to all knob
values and, in a comparison, to both methods.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import bjontegaard
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]

RESAMPLES = 1000
LEAST_IMAGES = 8  # with fewer, resamples say little about other images
SEED = 0
# What two curves must have in common in PSNR and in log FLOPs: a share of the shorter one's range,
# and 0.05 dB or 5 %; a smaller range is a point rather than a curve.
LEAST_COMMON = 0.1
LEAST_RANGE = 0.05


@dataclass(frozen=True)
class Estimate:
    """A value over all images, and its 95 % interval; NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan

    def text(self, decimals: int) -> str:
        """Return ``value [low, high]``, the value alone, or ``-``."""
        if np.isnan(self.value):
            return "-"
        value, low, high = (f"{x:z.{decimals}f}" for x in (self.value, self.low, self.high))
        return value if np.isnan(self.low + self.high) else f"{value} [{low}, {high}]"


def estimate(statistic: Statistic, images: int) -> Estimate:
    """Return a statistic of all images with its percentile bootstrap interval.

    There is no interval for fewer than ``LEAST_IMAGES`` images, or where the statistic does
    not exist in every resample.
    """
    (one,) = estimates(lambda some: np.array([statistic(some)]), images)
    return one


def estimates(statistics: Callable[[NDArray[np.intp]], Floats], images: int) -> list[Estimate]:
    """Return several statistics of the same resamples, as ``estimate`` does one."""
    everything = np.arange(images)
    values = statistics(everything)
    if images < LEAST_IMAGES or np.isnan(values).all():
        return [Estimate(float(value)) for value in values]

    def of_each(resamples: NDArray[np.intp], axis: int) -> Floats:
        return np.moveaxis(np.apply_along_axis(statistics, axis, resamples), -1, 0)

    with warnings.catch_warnings():
        # A statistic that some resample lacks has no interval; numpy's warning of it is hidden.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        low, high = stats.bootstrap(
            (everything,), of_each, n_resamples=RESAMPLES, method="percentile", rng=SEED
        ).confidence_interval
    low, high = np.where(np.isnan(values), np.nan, [low, high])
    return [Estimate(*map(float, one)) for one in zip(values, low, high, strict=True)]


def mean(values: Floats) -> Estimate:
    """Return the mean of a number of each image, with its interval."""
    return estimate(lambda some: float(values[some].mean()), len(values))


def undominated(cost: Floats, psnr: Floats) -> NDArray[np.intp]:
    """Return the indices of the points that no other point beats in both, cheapest first.

    Along them cost and PSNR rise strictly.
    """
    order = np.lexsort((-psnr, cost))
    before = np.concatenate([[-np.inf], np.maximum.accumulate(psnr[order])[:-1]])
    return order[psnr[order] > before]


@dataclass(frozen=True)
class Curve:
    """PSNR in dB and GFLOPs of every image at every knob value, (images, knob values)."""

    psnr: Floats
    gflops: Floats

    @classmethod
    def of(cls, rows: pd.DataFrame, convention: str) -> "Curve":
        """Lay out the rows of one method on one test set; the adaptive decision is left out.

        A method without a knob is a curve of one point.
        """
        swept = rows[~rows["adaptive"]].assign(knob=lambda table: table["knob"].fillna(0.0))
        psnr, flops = (
            swept.pivot_table(index="image", columns="knob", values=column).to_numpy()
            for column in ("psnr_rgb", f"flops_{convention}")
        )
        return cls(psnr, flops / 1e9)

    def frontier(self, images: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Return GFLOPs and PSNR of the mean curve, without points that another point beats.

        Both rise strictly. Points without a measurement of every image are left out; these may be
        all points.
        """
        gflops, psnr = self.gflops[images].mean(axis=0), self.psnr[images].mean(axis=0)
        best = undominated(gflops, psnr)
        return gflops[best], psnr[best]

    def gflops_at(self, psnr: float, images: NDArray[np.intp]) -> float:
        """Return the least GFLOPs at which the mean curve has a PSNR; NaN where it never has."""
        rate, quality = self.frontier(images)
        return float(np.interp(psnr, quality, rate, right=np.nan)) if len(rate) else np.nan

    def psnr_at(self, gflops: float, images: NDArray[np.intp]) -> float:
        """Return the PSNR of the mean curve within a budget; NaN where all of it costs more."""
        rate, quality = self.frontier(images)
        return float(np.interp(gflops, rate, quality, left=np.nan)) if len(rate) else np.nan


def gflops_needed(curve: Curve, original: Curve, loss: float, some: NDArray[np.intp]) -> float:
    """Return the least GFLOPs at which a curve loses ``loss`` dB to the original's one point."""
    return curve.gflops_at(float(original.psnr[some].mean()) - loss, some)


def percent_needed(curve: Curve, original: Curve, loss: float, some: NDArray[np.intp]) -> float:
    """Return ``gflops_needed`` in percent of the original's."""
    whole = float(original.gflops[some].mean())
    return 100 * gflops_needed(curve, original, loss, some) / whole


def common_psnr(one: Curve, other: Curve) -> tuple[float, float]:
    """Return the range of PSNR in dB that both mean curves cover; none where low > high."""
    return _common(one, other, axis=1)


def common_gflops(one: Curve, other: Curve) -> tuple[float, float]:
    """Return the range of GFLOPs above 0 that both mean curves cover; none where low > high."""
    return _common(one, other, axis=0)


def _common(one: Curve, other: Curve, axis: int) -> tuple[float, float]:
    everything = np.arange(len(one.psnr))
    reached = [_rates(curve, everything)[axis] for curve in (one, other)]
    low = max(values.min(initial=np.inf) for values in reached)
    return float(low), float(min(values.max(initial=-np.inf) for values in reached))


def bd_flops(anchor: Curve, test: Curve, images: NDArray[np.intp]) -> float:
    """Return how many percent more FLOPs ``test`` needs than ``anchor`` at equal PSNR.

    It is the Bjontegaard delta rate over the common range of PSNR; NaN where that is small.
    """
    return _delta(bjontegaard.bd_rate, "psnr", anchor, test, images)


def bd_psnr(anchor: Curve, test: Curve, images: NDArray[np.intp]) -> float:
    """Return by how many dB ``test`` beats ``anchor`` at equal FLOPs; see ``bd_flops``."""
    return _delta(bjontegaard.bd_psnr, "flops", anchor, test, images)


def _delta(
    measure: Callable[..., float], over: str, anchor: Curve, test: Curve, images: NDArray[np.intp]
) -> float:
    curves = [_rates(curve, images) for curve in (anchor, test)]
    if any(len(rate) < 2 for rate, _ in curves):
        return np.nan
    ranges = [np.log(rate) if over == "flops" else quality for rate, quality in curves]
    common = min(r.max() for r in ranges) - max(r.min() for r in ranges)
    if common < max(LEAST_COMMON * min(np.ptp(r) for r in ranges), LEAST_RANGE):
        return np.nan
    options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    return float(measure(*curves[0], *curves[1], **options))


def _rates(curve: Curve, images: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Return the frontier without points of 0 FLOPs, which have no logarithm."""
    rate, quality = curve.frontier(images)
    return rate[rate > 0], quality[rate > 0]
