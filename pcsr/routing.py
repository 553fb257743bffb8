"""From scores to decisions: which branch computes which unit.

Branches are ordered cheapest first everywhere. Scores are probabilities (N, M, ...): batch,
branch, then the units of one picture.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDS = 19
MOVED_AT_MOST = 1e-4


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
    """Choose branches with no knob: ADM, 1-D k-means over the difficulty (PCSR section 3.4).

    The difficulty is min-max normalised over the call. The M centres start evenly spaced from 0 to
    the mean ({0, mean} for two branches); the rounds end after the one in which the squared
    movement of all centres together is at most 1e-4, and the labels are those found before that
    last update. The cluster with the lowest centre takes the cheapest branch.

    Args:
        probabilities: (N, M, ...) in [0, 1]; pass a whole picture, not a part of one.

    Returns:
        (N, ...) int64 branch numbers.
    """
    values = difficulty(probabilities)
    low, high = values.min(), values.max()
    values = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    branches = probabilities.shape[1]
    centres = torch.linspace(0, 1, branches, device=values.device) * values.mean()
    labels = torch.zeros_like(values, dtype=torch.long)
    for _ in range(ROUNDS):
        # Centres stay sorted, so the nearest one is found by counting the midpoints below.
        labels = torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)
        counts = torch.bincount(labels.flatten(), minlength=branches)
        sums = torch.bincount(labels.flatten(), values.flatten().double(), minlength=branches)
        updated = torch.where(counts > 0, (sums / counts.clamp_min(1)).to(values), centres)
        moved = (updated - centres).square().sum()
        centres = updated
        if moved <= MOVED_AT_MOST:
            break
    return labels


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
    inside = (..., slice(1, -1), slice(1, -1))
    level = labels[:, None].to(torch.uint8)
    seam = _three_by_three(torch.maximum, level) > level[inside]
    smooth = _three_by_three(torch.add, sr) / 9
    refined = sr.clone()
    refined[inside] = torch.where(seam, smooth, sr[inside])
    return refined


def _three_by_three(combine: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> Tensor:
    """Combine the neighbourhoods of all inner pixels: (N, C, H, W) -> (N, C, H - 2, W - 2)."""
    columns = combine(combine(values[..., :-2], values[..., 1:-1]), values[..., 2:])
    return combine(combine(columns[..., :-2, :], columns[..., 1:-1, :]), columns[..., 2:, :])
