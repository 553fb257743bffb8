"""Turn scores into decisions: choose the branch that computes each unit.

Branches are ordered from cheapest to most expensive throughout. Probabilities and their logarithms
have the shape (N, M, ...): batch, branch, then the units of one image.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from pcsr.errors import UserError

ROUNDS = 19  # most iterations of k-means in ADM
MOVED_AT_MOST = 1e-4  # squared movement, summed over all centres, at which k-means ends
CACHED = 1 << 18  # values that refinement processes at a time: 1 MB of float32, to stay in cache
CERTAIN = -1e4  # replaces log 0, the logarithm of a probability that underflows in float32


@dataclass(frozen=True)
class OperatingPoint:
    """Where on its PSNR-FLOP curve a method runs: by its knob, adaptively, or within a budget.

    Attributes:
        knob: value of the method's knob. None if the method has none, or if ``adaptive`` or
            ``budget`` decides instead.
        adaptive: let the method decide without a knob (PCSR's ADM).
        budget: FLOPs that an image may cost per LR pixel on average, counted as the engine executes
            them; the smallest k within it is taken. A batch shares its budget.
        refine: smooth pixels of cheaper branches that touch a more expensive one.

    Raises:
        UserError: more than one of ``knob``, ``adaptive`` and ``budget`` is given.
    """

    knob: float | None = None
    adaptive: bool = False
    budget: float | None = None
    refine: bool = False

    def __post_init__(self) -> None:
        """Reject more than one way to decide."""
        if (self.knob is not None) + self.adaptive + (self.budget is not None) > 1:
            raise UserError("give one of --k, --adaptive and --budget, not several.")


def by_cost_ratio(log_probabilities: Tensor, costs: Sequence[float], k: float) -> Tensor:
    """Choose argmax_j p_j / c_j^k (PCSR section 3.3).

    Args:
        log_probabilities: (N, M, ...). Logarithms, because a confident classifier's probabilities
            and c^25 underflow in float32. A constant offset per unit does not matter.
        costs: M relative costs, cheapest first.
        k: 0 takes the most likely branch. Larger values save more FLOPs: 25 takes the cheapest
            branch everywhere, -25 the most expensive.

    Returns:
        (N, ...) int64 branch numbers; on ties the cheapest.
    """
    log_cost = torch.tensor(costs, dtype=torch.float64).log().to(log_probabilities)
    shape = (1, -1) + (1,) * (log_probabilities.ndim - 2)
    values = log_probabilities - k * log_cost.view(shape)
    # With few branches this is ten times as fast on a CPU as argmax, which reads with strides.
    best = values[:, 0]
    labels = torch.zeros_like(best, dtype=torch.long)
    for branch in range(1, values.shape[1]):
        labels.masked_fill_(values[:, branch] > best, branch)
        best = torch.maximum(best, values[:, branch])
    return labels


def difficulty(probabilities: Tensor) -> Tensor:
    """Return the expected branch number divided by M - 1: (N, M, ...) -> (N, ...) in [0, 1].

    With two branches it is the probability of the expensive one.
    """
    branches = probabilities.shape[1]
    share = torch.linspace(0, 1, branches, device=probabilities.device)
    return (probabilities.movedim(1, -1) * share).sum(dim=-1)


def decide(rule: "Rule", log_probabilities: Tensor) -> Tensor:
    """Apply a rule to one or more whole images: (N, M, ...) -> (N, ...) int64."""
    measured = rule.measure(log_probabilities.clamp_min(CERTAIN))
    return rule.settle([measured]).decide(measured).long()


class Rule(ABC):
    """A decision rule that can be applied to an image in tiles or strips: measure, settle, decide.

    Log-probabilities are (N, M, ...), measured values (N, K, ...), where K depends on the rule.
    """

    #: Whether decisions depend on the whole image, so that ``settle`` must precede ``decide``.
    whole: ClassVar[bool]

    @abstractmethod
    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return the values that decisions depend on, (N, K, ...), never a view of the input.

        A constant offset per pixel does not matter.
        """

    def settle(self, measured: Sequence[Tensor]) -> "Rule":
        """Return the rule to decide an image with, given the measured values of all of it."""
        return self

    @abstractmethod
    def decide(self, measured: Tensor) -> Tensor:
        """Return the branch numbers (N, ...) uint8, given measured values (N, K, ...)."""


@dataclass(frozen=True)
class CostRatio(Rule):
    """``by_cost_ratio`` solved for k: the values of k at which each pixel changes its branch.

    As k falls, a pixel moves from the cheapest branch to more expensive ones. With c increasing in
    j, it takes branch i or a more expensive one if k < b_i, where b_i = max_{j >= i} min_{h < i}
    k_hj, and k_hj = log(p_j / p_h) / log(c_j / c_h) is the k at which branches h and j tie.

    Attributes:
        costs: M relative costs, cheapest first.
        k: the knob. After ``WithinBudget.settle`` it is a tensor of shape (), so that the host does
            not wait for a GPU.
    """

    whole: ClassVar[bool] = False
    costs: tuple[float, ...]
    k: float | Tensor

    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return the thresholds b_1 >= ... >= b_(M-1), (N, M - 1, ...)."""
        logs = log_probabilities.unbind(dim=1)
        thresholds = []
        for i in range(1, len(logs)):
            least = (
                reduce(torch.minimum, (self._tie(logs, h, j) for h in range(i)))
                for j in range(i, len(logs))
            )
            thresholds.append(reduce(torch.maximum, least))
        return thresholds[0][:, None] if len(thresholds) == 1 else torch.stack(thresholds, dim=1)

    def _tie(self, logs: Sequence[Tensor], cheap: int, expensive: int) -> Tensor:
        return (logs[expensive] - logs[cheap]) / math.log(self.costs[expensive] / self.costs[cheap])

    def decide(self, measured: Tensor) -> Tensor:
        """See ``Rule.decide``: the branch number is the number of thresholds above k."""
        above = (threshold > self.k for threshold in measured.unbind(dim=1))
        return reduce(torch.add, (mask.view(torch.uint8) for mask in above))


@dataclass(frozen=True)
class WithinBudget(CostRatio):
    """The smallest k, and so the most work, that a number of FLOPs allows; found exactly.

    Attributes:
        flops: FLOPs of one unit in each branch, cheapest first.
        allowed: FLOPs that all units may take in total.
    """

    whole: ClassVar[bool] = True
    flops: tuple[float, ...]
    allowed: float

    def settle(self, measured: Sequence[Tensor]) -> CostRatio:
        """Return the rule for the k found.

        The bisection runs over all float32 values, so thresholds are neither sorted nor copied.

        Raises:
            UserError: the cheapest branch everywhere already exceeds the budget.
        """
        remaining = self.allowed - self.flops[0] * sum(part[:, 0].numel() for part in measured)
        if remaining < 0:
            raise UserError(
                f"the budget is below the cheapest branch everywhere by {-remaining / 1e9:.2f} "
                "GFLOPs; increase it."
            )
        steps = [expensive - cheap for cheap, expensive in pairwise(self.flops)]
        # Ranks of -inf and inf. 2^32 bit patterns: 32 halvings leave one.
        low, high = torch.tensor([-0x7F800001, 0x7F800000], device=measured[0].device)
        for _ in range(32):
            middle = (low + high) >> 1
            k = _ranked(middle)
            spent = [
                step * torch.count_nonzero(part[:, branch] > k).double()
                for part in measured
                for branch, step in enumerate(steps)
            ]
            fits = torch.stack(spent).sum() <= remaining
            high = torch.where(fits, middle, high)
            low = torch.where(fits, low, middle + 1)
        return CostRatio(self.costs, _ranked(high))


def _ranked(rank: Tensor) -> Tensor:
    """Return the float32 with this position, int64, in the order of all of them; 0 is 0."""
    bits = rank.int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)


@dataclass(frozen=True)
class Adaptive(Rule):
    """ADM: 1-D k-means over the difficulty, without a knob (PCSR section 3.4).

    The difficulty is min-max normalised over the call. The M centres start evenly spaced from 0 to
    the mean ({0, mean} for two branches). Iteration ends when the squared movement, summed over all
    centres, is at most 1e-4, or after 19 iterations. The labels are those assigned before the last
    update of the centres. The cluster with the lowest centre takes the cheapest branch.

    Attributes:
        branches: M.
        clusters: once settled, low, span and borders: difficulties are normalised to
            (difficulty - low) / span, and clusters meet at the borders, (M - 1,).
    """

    whole: ClassVar[bool] = True
    branches: int
    clusters: tuple[Tensor, Tensor, Tensor] | None = None

    def measure(self, log_probabilities: Tensor) -> Tensor:
        """Return the difficulty (N, 1, ...)."""
        return difficulty(log_probabilities.softmax(dim=1))[:, None]

    def settle(self, measured: Sequence[Tensor]) -> "Adaptive":
        """Find the clusters, without waiting for a GPU."""
        low = torch.stack([part.min() for part in measured]).min()
        high = torch.stack([part.max() for part in measured]).max()
        span = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        values = [(part - low) / span for part in measured]
        start = torch.linspace(0, 1, self.branches, device=low.device, dtype=torch.float64)
        total = _sum(values)
        count = torch.full_like(total, sum(part.numel() for part in values))
        centres = (start * (total / count)).to(low)
        borders = _midpoints(centres)
        done = torch.zeros((), dtype=torch.bool, device=low.device)
        for _ in range(ROUNDS):
            borders = torch.where(done, borders, _midpoints(centres))  # once done, they stay
            counts, sums = _clusters(values, borders, (count, total))
            means = (sums / counts.clamp_min(1)).to(centres)
            updated = torch.where(counts > 0, means, centres)
            done = done | ((updated - centres).square().sum() <= MOVED_AT_MOST)
            centres = updated
            if low.device.type == "cpu" and done:
                break
        return Adaptive(self.branches, (low, span, borders))

    def decide(self, measured: Tensor) -> Tensor:
        """See ``Rule.decide``.

        Raises:
            ValueError: the rule is not settled.
        """
        if self.clusters is None:
            raise ValueError("ADM depends on the whole image: settle it first")
        low, span, borders = self.clusters
        values = (measured - low) / span
        return sum(
            ((values > border).to(torch.uint8) for border in borders),
            start=torch.zeros_like(values, dtype=torch.uint8),
        )[:, 0]


def _clusters(
    values: Sequence[Tensor], borders: Tensor, whole: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the number of values between the borders and their sum, (M,) float64 each.

    ``whole`` is the number and the sum of all values, float64.
    """
    above = [whole]
    for border in borders:
        count = sum((part > border).sum() for part in values).double()
        above.append((count, _sum(part * (part > border) for part in values)))
    zero = torch.zeros_like(whole[0])
    counts, sums = (torch.stack([*column, zero]) for column in zip(*above, strict=True))
    return counts[:-1] - counts[1:], sums[:-1] - sums[1:]


def _midpoints(centres: Tensor) -> Tensor:
    return (centres[1:] + centres[:-1]) / 2


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack([part.sum(dtype=torch.float64) for part in parts]).sum()


def refine(sr: Tensor, labels: Tensor) -> Tensor:
    """Smooth pixels of a cheaper branch that touch a more expensive one (PCSR section 3.5).

    Such a pixel takes the mean of its 3x3 neighbourhood. The outermost ring of pixels is left
    unchanged. SR (N, 3, H, W) and branch numbers (N, H, W) -> a new tensor (N, 3, H, W).
    """
    return refine_(sr.clone(), labels)


def refine_(sr: Tensor, labels: Tensor) -> Tensor:
    """Do ``refine`` in place and return ``sr``."""
    level = labels[:, None].to(torch.uint8)
    # A few rows at a time, so that the sums are taken in cache.
    rows = max(1, CACHED // (3 * len(sr) * sr.shape[-1]))
    pending: list[tuple[Tensor, Tensor, Tensor]] = []
    for top in range(1, sr.shape[-2] - 1, rows):
        bottom = min(top + rows, sr.shape[-2] - 1)
        around = level[..., top - 1 : bottom + 1, :]
        seam = _three_by_three(torch.maximum, around) > around[..., 1:-1, 1:-1]
        smooth = _three_by_three(torch.add, sr[..., top - 1 : bottom + 1, :]).div_(9)
        pending.append((sr[..., top:bottom, 1:-1], smooth, seam.to(sr.dtype)))
        # No later block reads the rows of the one before. With a weight of 0 or 1, lerp returns one
        # operand bit for bit; it is four times as fast as torch.where.
        if len(pending) > 1:
            Tensor.lerp_(*pending.pop(0))
    for block in pending:
        Tensor.lerp_(*block)
    return sr


def _three_by_three(combine: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    """Combine the 3x3 neighbours of every inner pixel: (N, C, H, W) -> (N, C, H - 2, W - 2)."""
    rows = combine(combine(values[..., :-2, :], values[..., 1:-1, :]), values[..., 2:, :])
    return combine(combine(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
