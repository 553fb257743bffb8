"""Where along the knob each unit changes its branch, found through the method's own routing.

A *stop* is a knob value that an explorer page can show. Stops are numbered from the
most expensive operating point to the cheapest, so that as the number rises a unit only ever moves
to cheaper branches. Its *rank* for branch i is then the number of stops at which it takes branch i
or a more expensive one: at stop s it does if its rank is above s. Ranks are found by bisection over
``Method.route`` itself, so page and engine agree on every rounding.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint

Ranks = NDArray[np.uint16]
Labels = Callable[[Tensor, int], Tensor]  # numbers of units and a stop -> their branches

# Knob values are multiples of 0.001 up to 20, where most units change, and of 0.1 beyond: 59 601
# stops from -1000 to 1000, so that ranks fit 16 bits.
FINE, COARSE, FINE_UP_TO, WIDEST = 1000, 10, 20, 1000.0


class Stops:
    """The knob values of a page, most expensive first.

    Args:
        segments: (first, last, parts): the multiples first / parts, ..., last / parts, rising or
            falling. A knob value is the float nearest to this quotient, in Python and in a browser.
    """

    def __init__(self, segments: Sequence[tuple[int, int, int]]) -> None:
        self.segments = segments
        self._knobs = np.concatenate([_multiples(*segment) for segment in segments])

    def __len__(self) -> int:
        return len(self._knobs)

    def knob(self, stop: int) -> float:
        """Return the knob value of a stop."""
        return float(self._knobs[stop])

    def number(self, knob: float) -> int | None:
        """Return the stop of a knob value, or None if it lies between two or outside."""
        found = np.flatnonzero(self._knobs == knob)
        return int(found[0]) if len(found) else None


def _multiples(first: int, last: int, parts: int) -> NDArray[np.float64]:
    step = 1 if first <= last else -1
    return np.arange(first, last + step, step) / parts


def stops_of(method: Method, scores: Tensor, scale: float) -> Stops:
    """Return the stops of a method: all that it accepts, up to ``WIDEST`` on both sides.

    The scores (1, M, units...) of an image show at which end its knob saves.
    """
    ends: list[float] = []
    work = []
    for widest, own in ((-WIDEST, min(method.knobs)), (WIDEST, max(method.knobs))):
        try:
            labels, end = method.route(scores, OperatingPoint(knob=widest), scale), widest
        except UserError:  # some knobs have a least value
            labels, end = method.route(scores, OperatingPoint(knob=own), scale), own
        ends.append(end)
        work.append(int(labels.sum()))
    return between(ends[0], ends[1], rising=work[1] <= work[0])


def between(low: float, high: float, rising: bool) -> Stops:
    """Return the stops from one knob value to another; ``rising``: a larger knob is cheaper."""
    edge = FINE_UP_TO * COARSE  # the borders belong to the fine segment
    segments = [
        (round(low * COARSE), -edge - 1, COARSE),
        (round(max(low, -FINE_UP_TO) * FINE), round(min(high, FINE_UP_TO) * FINE), FINE),
        (edge + 1, round(high * COARSE), COARSE),
    ]
    segments = [segment for segment in segments if segment[0] <= segment[1]]
    if not rising:
        segments = [(last, first, parts) for first, last, parts in reversed(segments)]
    return Stops(segments)


def ranks(method: Method, scores: Tensor, scale: float, stops: Stops) -> list[Ranks]:
    """Return the ranks of all units of one image, with scores (1, M, units...).

    Returns:
        For branches 1 to M - 1, an array (units...) each, nowhere larger than the one before.

    Raises:
        UserError: at a cheaper knob value some units take more expensive branches.
    """
    flat = scores.flatten(2)

    def labels(units: Tensor, stop: int) -> Tensor:
        some = flat[:, :, units].view(1, flat.shape[1], 1, -1)
        return method.route(some, OperatingPoint(knob=stops.knob(stop)), scale).flatten()

    found = [
        _bisected(labels, branch, flat.shape[2], len(stops)) for branch in range(1, flat.shape[1])
    ]
    everything = torch.arange(flat.shape[2])
    for knob in {*method.knobs, *method.fine_knobs}:
        stop = stops.number(knob)
        if stop is None:
            continue
        branches = torch.stack(found).gt(stop).sum(dim=0)
        if not torch.equal(labels(everything, stop), branches):
            raise UserError(
                f"{method.config.method}: at knob {knob:g} units take more expensive branches than "
                "at a knob that spends more; an explorer page needs a knob that only saves."
            )
    return [rank.view(scores.shape[2:]).numpy().astype(np.uint16) for rank in found]


def _bisected(labels: Labels, branch: int, units: int, stops: int) -> Tensor:
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


def track(found: Sequence[Sequence[Ranks]], stops: Stops, steps: int) -> list[int]:
    """Return stops at about equal steps of work, from the first to the last that matter.

    ``found`` are the ranks of each image; at most ``steps`` stops are returned.
    """
    changes = np.zeros(len(stops) + 1)
    for of_image in found:
        for rank in of_image:
            changes += np.bincount(rank.ravel(), minlength=len(changes)) / rank.size
    done = changes.cumsum() / changes.sum()
    at = np.searchsorted(done, np.linspace(0, 1 - 1e-9, steps), side="left")
    first = max(0, int(np.flatnonzero(changes)[0]) - 1)  # where nothing has changed yet
    return sorted({first, *(min(stop, len(stops) - 1) for stop in at[1:].tolist())})
