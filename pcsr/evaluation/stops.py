"""Where along the knob each unit changes its branch, found through the method's own routing.

A *stop* is a value of the knob at which an explorer page can stand. Stops are numbered from the most
expensive operating point to the cheapest, so that as the number rises a unit only ever moves to
cheaper branches. Its *rank* for branch i is then the number of stops at which it takes branch i or
a more expensive one: at stop s it does if its rank is above s. Ranks are found by bisection over
``Method.route`` itself, so that no rounding can part a page from the engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint

Ranks = NDArray[np.uint16]

# Knob values are multiples of 0.001 up to 20, where units change, and of 0.1 beyond. From -1000 to
# 1000, the widest sweep of a suite, that is 59 601 stops: ranks fit 16 bits.
FINE, COARSE, FINE_UP_TO = 1000, 10, 20


@dataclass(frozen=True)
class Stops:
    """The knob values of a page, most expensive first.

    Attributes:
        segments: (first, last, parts): the multiples first / parts, ..., last / parts, rising or
            falling. A knob value is the float nearest to this quotient, in Python and in a browser.
    """

    segments: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return sum(abs(last - first) + 1 for first, last, _ in self.segments)

    def knob(self, stop: int) -> float:
        """Return the knob value of a stop."""
        for first, last, parts in self.segments:
            count = abs(last - first) + 1
            if stop < count:
                return (first + (stop if last >= first else -stop)) / parts
            stop -= count
        raise IndexError(stop)

    def number(self, knob: float) -> int | None:
        """Return the stop of a knob value, or None if it lies between two or outside."""
        before = 0
        for first, last, parts in self.segments:
            at = round(knob * parts)
            if at / parts == knob and min(first, last) <= at <= max(first, last):
                return before + abs(at - first)
            before += abs(last - first) + 1
        return None


def stops_of(knobs: Sequence[float], rising: bool) -> Stops:
    """Return the stops between the least and the largest of some knob values.

    Args:
        knobs: of a sweep, at least one.
        rising: whether a larger knob is cheaper.
    """
    low, high = min(knobs), max(knobs)
    segments = []
    for start, end, parts in (
        (low, -FINE_UP_TO, COARSE),
        (max(low, -FINE_UP_TO), min(high, FINE_UP_TO), FINE),
        (FINE_UP_TO, high, COARSE),
    ):
        first, last = round(start * parts), round(end * parts)
        if parts == COARSE:  # the borders belong to the fine segment
            first, last = first + (start == FINE_UP_TO), last - (end == -FINE_UP_TO)
        if first <= last:
            segments.append((first, last, parts))
    if not rising:
        segments = [(last, first, parts) for first, last, parts in reversed(segments)]
    return Stops(tuple(segments))


def saves_when_rising(method: Method, scores: Tensor, scale: float, knobs: Sequence[float]) -> bool:
    """Tell whether a larger knob is the cheaper one, from the scores of an image."""
    low, high = (
        method.route(scores, OperatingPoint(knob=knob), scale).sum().item()
        for knob in (min(knobs), max(knobs))
    )
    return bool(high <= low)


def ranks(method: Method, scores: Tensor, scale: float, stops: Stops) -> list[Ranks]:
    """Return the ranks of all units of one image, for branches 1 to M - 1.

    Args:
        method: that routes.
        scores: (1, M, units...), as ``Method.explore`` gives them.
        scale: HR size / LR size.
        stops: where the page can stand.

    Returns:
        M - 1 arrays (units...), each nowhere larger than the one before.

    Raises:
        UserError: with a cheaper knob, units move to more expensive branches.
    """
    flat = scores.flatten(2)

    def labels(units: Tensor, stop: int) -> Tensor:
        some = flat[:, :, units].view(1, flat.shape[1], 1, -1)
        return method.route(some, OperatingPoint(knob=stops.knob(stop)), scale).flatten()

    found = [_bisected(labels, branch, flat.shape[2], len(stops)) for branch in range(1, flat.shape[1])]
    everything = torch.arange(flat.shape[2])
    for knob in {*method.knobs, *method.fine_knobs}:
        stop = stops.number(knob)
        if stop is not None and not torch.equal(
            labels(everything, stop), sum((rank > stop).long() for rank in found)
        ):
            raise UserError(
                f"{method.config.method}: at knob {knob:g} units take more expensive branches than "
                "at a knob that spends more; an explorer page needs a knob that only saves."
            )
    return [rank.view(scores.shape[2:]).numpy().astype(np.uint16) for rank in found]


def _bisected(labels: Callable[[Tensor, int], Tensor], branch: int, units: int, stops: int) -> Tensor:
    """Return the number of stops at which each unit takes ``branch`` or a more expensive one."""
    rank = torch.zeros(units, dtype=torch.long)
    waiting = [(torch.arange(units), 0, stops)]  # units whose rank lies from ... to ...
    while waiting:
        some, low, high = waiting.pop()
        if low == high:
            rank[some] = low
            continue
        middle = (low + high) // 2
        above = labels(some, middle) >= branch
        parts = ((some[above], middle + 1, high), (some[~above], low, middle))
        waiting.extend(part for part in parts if len(part[0]))
    return rank


def track(found: Sequence[Sequence[Ranks]], stops: Stops, swept: Sequence[float], steps: int) -> list[int]:
    """Return the stops of a slider: equal steps of work over all images, and all swept knobs.

    Args:
        found: the ranks of each image.
        stops: where the page can stand.
        swept: knob values to include.
        steps: about how many.
    """
    changes = np.zeros(len(stops) + 1)
    for images in found:
        for rank in images:
            changes += np.bincount(rank.ravel(), minlength=len(changes)) / rank.size
    done = changes.cumsum() / changes.sum()
    at = np.searchsorted(done, np.linspace(0, 1, steps), side="left").clip(0, len(stops) - 1)
    known = (stops.number(knob) for knob in swept)
    return sorted({0, len(stops) - 1, *at.tolist(), *(stop for stop in known if stop is not None)})
