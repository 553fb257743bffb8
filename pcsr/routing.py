"""From scores to decisions: which branch computes which unit.

Branches are ordered cheapest first everywhere. The rules here take probabilities (N, M, ...):
batch, branch, then the units of one image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from pcsr.errors import UserError

ROUNDS = 19
MOVED_AT_MOST = 1e-4
CACHED = 1 << 18  # numbers that are handled together, 1 MB
CERTAIN = -1e4  # stands for the logarithm of a probability that float32 rounds to 0


@dataclass(frozen=True)
class OperatingPoint:
    """Where on its PSNR-FLOP curve a method runs: by its knob, adaptively, or within a budget.

    Attributes:
        knob: value of the method's knob; None for a method without one, and for the other two ways.
        adaptive: the method decides without a knob (PCSR's ADM).
        budget: FLOPs per LR pixel, as the engine executes them, that an image may take in the mean;
            each image gets the smallest k that keeps to it.
        refine: smooth pixels of cheaper branches beside more expensive ones.
    """

    knob: float | None = None
    adaptive: bool = False
    budget: float | None = None
    refine: bool = False

    def __post_init__(self) -> None:
        """Refuse several ways at once."""
        if (self.knob is not None) + self.adaptive + (self.budget is not None) > 1:
            raise UserError(
                "give one of --k, --adaptive and --budget (in Python k, adaptive, budget), not "
                "several."
            )


def by_cost_ratio(log_probabilities: Tensor, costs: Sequence[float], k: float) -> Tensor:
    """Choose argmax_j p_j / c_j^k (PCSR section 3.3).

    Args:
        log_probabilities: (N, M, ...), because neither a certain classifier's probabilities nor
            c^25 survive in float32; constant offsets per unit do not matter.
        costs: M relative costs, cheapest first.
        k: 0 takes the likeliest branch; larger values save more, 25 takes the cheapest everywhere
            and -25 the most expensive.

    Returns:
        (N, ...) int64 branch numbers.
    """
    log_cost = torch.tensor(costs, dtype=torch.float64).log().to(log_probabilities)
    shape = (1, -1) + (1,) * (log_probabilities.ndim - 2)
    values = log_probabilities - k * log_cost.view(shape)
    return first_largest(values)


def first_largest(values: Tensor) -> Tensor:
    """Return the branch of the largest value, the cheapest of equals: (N, M, ...) -> (N, ...).

    For few branches it is ten times as fast on a CPU as ``argmax``, which reads across memory.
    """
    best = values[:, 0]
    labels = torch.zeros_like(best, dtype=torch.long)
    for branch in range(1, values.shape[1]):
        labels.masked_fill_(values[:, branch] > best, branch)
        best = torch.maximum(best, values[:, branch])
    return labels


def difficulty(probabilities: Tensor) -> Tensor:
    """Return the expected branch number over M - 1: (N, M, ...) -> (N, ...) in [0, 1].

    With two branches it is the probability of the expensive one.
    """
    branches = probabilities.shape[1]
    share = torch.linspace(0, 1, branches, device=probabilities.device)
    return (probabilities.movedim(1, -1) * share).sum(dim=-1)


def adaptive(probabilities: Tensor) -> Tensor:
    """Choose branches with no knob: ADM (PCSR section 3.4), see ``Adaptive``.

    Args:
        probabilities: (N, M, ...) in [0, 1]; pass a whole image, not a part of one.

    Returns:
        (N, ...) int64 branch numbers.
    """
    return decide(Adaptive(probabilities.shape[1]), probabilities.log())


def decide(rule: "Rule", log_probabilities: Tensor) -> Tensor:
    """Decide a whole image, or several, by a rule: (N, M, ...) -> (N, ...) int64."""
    measured = rule.measure(log_probabilities.clamp_min(CERTAIN))
    return rule.settle([measured]).decide(measured).long()


class Rule(ABC):
    """A way to decide that can be taken a part of an image at a time.

    ``measure`` says what counts about each pixel; ``settle`` looks at all that was measured on the
    image and gives the rule that ``decide`` is then asked of. Log-probabilities are (N, M, ...),
    measures (N, K, ...) of a K of the rule's own, labels (N, ...) uint8.
    """

    #: Whether ``settle`` has to be called, because decisions depend on the whole image.
    whole: ClassVar[bool]

    @abstractmethod
    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return what a decision reads of each pixel, no view of what is given.

        Constant offsets per pixel do not matter.
        """

    def settle(self, measured: Sequence[Tensor]) -> "Rule":
        """Return the rule for an image, given the measures of all its parts."""
        return self

    @abstractmethod
    def decide(self, measured: Tensor) -> Tensor:
        """Return the branch numbers."""


@dataclass(frozen=True)
class CostRatio(Rule):
    """``by_cost_ratio``, turned round: for each pixel the values of k at which its branch changes.

    As k falls, a pixel goes from the cheapest branch to more expensive ones. With c rising in j, it
    takes branch i or a more expensive one where k < b_i, and b_i = max_{j >= i} min_{h < i} k_hj,
    with k_hj = log(p_j / p_h) / log(c_j / c_h) the k at which the branches h and j are level.

    Attributes:
        costs: M relative costs, cheapest first.
        k: the knob; a tensor () where it was settled, which is then not waited for.
    """

    whole: ClassVar[bool] = False
    costs: tuple[float, ...]
    k: float | Tensor

    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return b_1 >= ... >= b_(M-1)."""
        logs = log_probabilities.unbind(dim=1)
        changes = [
            reduce(
                torch.maximum,
                (
                    reduce(torch.minimum, (self._level(logs, h, j) for h in range(i)))
                    for j in range(i, len(logs))
                ),
            )
            for i in range(1, len(logs))
        ]
        return changes[0][:, None] if len(changes) == 1 else torch.stack(changes, dim=1)

    def _level(self, logs: Sequence[Tensor], cheap: int, expensive: int) -> Tensor:
        return (logs[expensive] - logs[cheap]) / math.log(self.costs[expensive] / self.costs[cheap])

    def decide(self, measured: Tensor) -> Tensor:
        """See ``Rule.decide``."""
        costlier = (one > self.k for one in measured.unbind(dim=1))
        return reduce(torch.add, (over.view(torch.uint8) for over in costlier))


@dataclass(frozen=True)
class WithinBudget(CostRatio):
    """The smallest k, and with it the most work, that a number of FLOPs allows; exact.

    Attributes:
        flops: what a unit of each branch costs, cheapest first.
        allowed: FLOPs for all units together.
    """

    whole: ClassVar[bool] = True
    flops: tuple[float, ...]
    allowed: float

    def settle(self, measured: Sequence[Tensor]) -> CostRatio:
        """Return the rule with its k: bisected over all floats, so that nothing is sorted or moved.

        Raises:
            UserError: not even the cheapest branch everywhere fits.
        """
        left = self.allowed - self.flops[0] * sum(part[:, 0].numel() for part in measured)
        if left < 0:
            raise UserError(
                f"the budget is below the cheapest branch everywhere by {-left / 1e9:.2f} GFLOPs; "
                "give more."
            )
        steps = [expensive - cheap for cheap, expensive in pairwise(self.flops)]
        lowest, highest = measured[0].new_tensor([-math.inf, math.inf])
        low, high = _rank(lowest), _rank(highest)
        for _ in range(32):  # halves all floats to one
            middle = (low + high) >> 1
            k = _ranked(middle)
            spent = [
                step * torch.count_nonzero(part[:, branch] > k).double()
                for part in measured
                for branch, step in enumerate(steps)
            ]
            fits = torch.stack(spent).sum() <= left
            high = torch.where(fits, middle, high)
            low = torch.where(fits, low, middle + 1)
        return CostRatio(self.costs, _ranked(high))


def _rank(value: Tensor) -> Tensor:
    """Return where a float32 stands among all of them, int64; ``_ranked`` turns it round."""
    bits = value.view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def _ranked(rank: Tensor) -> Tensor:
    bits = rank.int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)


@dataclass(frozen=True)
class Adaptive(Rule):
    """ADM: 1-D k-means over the difficulty, with no knob (PCSR section 3.4).

    The difficulty is min-max normalised over the call. The M centres start evenly spaced from 0 to
    the mean ({0, mean} for two branches); the rounds end after the one in which the squared
    movement of all centres together is at most 1e-4, and the labels are those found before that
    last update. The cluster with the lowest centre takes the cheapest branch.

    Attributes:
        branches: M.
    """

    whole: ClassVar[bool] = True
    branches: int

    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return the difficulty (N, 1, ...)."""
        return difficulty(log_probabilities.softmax(dim=1))[:, None]

    def settle(self, measured: Sequence[Tensor]) -> "Nearest":
        """Find the clusters; without waiting for a GPU."""
        low = torch.stack([part.min() for part in measured]).min()
        high = torch.stack([part.max() for part in measured]).max()
        span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        count = sum(part.numel() for part in measured)
        total = _sum((part - low) / span for part in measured)
        start = torch.linspace(0, 1, self.branches, device=low.device, dtype=torch.float64)
        centres = (start * (total / count)).to(low)
        found = Nearest(low, span, _midpoints(centres))
        done = torch.zeros((), dtype=torch.bool, device=low.device)
        for _ in range(ROUNDS):
            found = found.unless(done, _midpoints(centres))
            counts, sums = found.clusters(measured, count, total)
            means = (sums / counts.clamp_min(1)).to(centres)
            updated = torch.where(counts > 0, means, centres)
            done = done | ((updated - centres).square().sum() <= MOVED_AT_MOST)
            centres = updated
            if low.device.type == "cpu" and done:
                break
        return found

    def decide(self, measured: Tensor) -> Tensor:
        """Not before it is settled."""
        raise ValueError("ADM decides a whole image: settle it first")


@dataclass(frozen=True)
class Nearest(Rule):
    """Decides by the nearest of several sorted centres.

    Attributes:
        low, span: the difficulty is normalised to (difficulty - low) / span.
        borders: (M - 1,) midpoints of neighbouring centres.
    """

    whole: ClassVar[bool] = False
    low: Tensor
    span: Tensor
    borders: Tensor

    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return the difficulty (N, 1, ...)."""
        return difficulty(log_probabilities.softmax(dim=1))[:, None]

    def decide(self, measured: Tensor) -> Tensor:
        """See ``Rule.decide``."""
        values = (measured - self.low) / self.span
        return sum(
            ((values > border).to(torch.uint8) for border in self.borders),
            start=torch.zeros_like(values, dtype=torch.uint8),
        )[:, 0]

    def unless(self, done: Tensor, borders: Tensor) -> "Nearest":
        """Return the rule with other borders, or this one where it is done."""
        return replace(self, borders=torch.where(done, self.borders, borders))

    def clusters(
        self, measured: Sequence[Tensor], count: int, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return how many values each cluster has, and their sums (float64), cheapest first."""
        above = [(torch.full_like(total, count), total)]
        for border in self.borders:
            over = [((part - self.low) / self.span, border) for part in measured]
            above.append(
                (
                    sum((values > b).sum() for values, b in over).double(),
                    _sum(values * (values > b) for values, b in over),
                )
            )
        counts, sums = (torch.stack(column) for column in zip(*above, strict=True))
        nothing = torch.zeros_like(total)[None]
        return counts - torch.cat([counts[1:], nothing]), sums - torch.cat([sums[1:], nothing])


def _midpoints(centres: Tensor) -> Tensor:
    return (centres[1:] + centres[:-1]) / 2


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.sum(dtype=torch.float64) for part in parts]).sum()


def refine(sr: Tensor, labels: Tensor) -> Tensor:
    """Smooth pixels of a cheaper branch that touch a more expensive one (PCSR section 3.5).

    Such a pixel takes the mean of its 3x3 neighbourhood; the outermost ring of pixels is left
    alone.

    Args:
        sr: (N, 3, H, W).
        labels: (N, H, W) branch numbers, cheapest 0.

    Returns:
        (N, 3, H, W).
    """
    return refine_(sr.clone(), labels)


def refine_(sr: Tensor, labels: Tensor) -> Tensor:
    """Do ``refine`` in place; returns ``sr``."""
    level = labels[:, None].to(torch.uint8)
    # A few rows at a time, because the sums are then taken in cache.
    rows = max(1, CACHED // (3 * len(sr) * sr.shape[-1]))
    ready: list[tuple[Tensor, Tensor, Tensor]] = []
    for top in range(1, sr.shape[-2] - 1, rows):
        bottom = min(top + rows, sr.shape[-2] - 1)
        around = level[..., top - 1 : bottom + 1, :]
        seam = _three_by_three(torch.maximum, around) > around[..., 1:-1, 1:-1]
        smooth = _three_by_three(torch.add, sr[..., top - 1 : bottom + 1, :]).div_(9)
        ready.append((sr[..., top:bottom, 1:-1], smooth, seam.to(sr.dtype)))
        if len(ready) > 1:  # the rows above are read no more
            _mix(*ready.pop(0))
    for last in ready:
        _mix(*last)
    return sr


def _mix(values: Tensor, smooth: Tensor, seam: Tensor) -> None:
    # With a weight of 0 or 1 it gives either number to the bit, four times as fast as where.
    values.lerp_(smooth, seam)


def _three_by_three(combine: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    """Combine the neighbourhoods of all inner pixels: (N, C, H, W) -> (N, C, H - 2, W - 2)."""
    rows = combine(combine(values[..., :-2, :], values[..., 1:-1, :]), values[..., 2:, :])
    return combine(combine(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
