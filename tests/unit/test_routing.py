"""Decisions: cost ratio, adaptive, refinement; each against a definition written out plainly."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pcsr import routing
from pcsr.errors import UserError


def probabilities(branches: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return (3 * torch.randn(2, branches, 9, 11)).softmax(dim=1)


@pytest.mark.parametrize("branches", [2, 3, 5])
@pytest.mark.parametrize("k", [-2.0, 0.0, 0.7, 3.0])
def test_cost_ratio_is_its_formula(branches: int, k: float) -> None:
    p = probabilities(branches).double()
    costs = [0.1 * 2**j for j in range(branches)]
    expected = (p / torch.tensor(costs).double().view(1, -1, 1, 1) ** k).argmax(dim=1)
    assert torch.equal(routing.by_cost_ratio(p.log(), costs, k), expected)


def test_extreme_knobs_take_one_branch_even_of_tiny_costs() -> None:
    p = probabilities(3).clamp(1e-6, 1)
    costs = [1e-4, 0.1, 0.9]
    assert (routing.by_cost_ratio(p.log(), costs, 25.0) == 0).all()
    assert (routing.by_cost_ratio(p.log(), costs, -25.0) == 2).all()


def test_more_k_never_costs_more() -> None:
    logs, knobs = probabilities(2).log(), (-3, -1, 0, 0.5, 1, 2, 5)
    labels = [routing.by_cost_ratio(logs, [0.3, 0.7], k).sum() for k in knobs]
    assert labels == sorted(labels, reverse=True) and labels[0] > labels[-1]


def plain_kmeans(values: np.ndarray, branches: int) -> np.ndarray:
    values = (values - values.min()) / (values.max() - values.min())
    centres = np.linspace(0, values.mean(), branches)
    for _ in range(19):
        labels = np.abs(values[..., None] - centres).argmin(axis=-1)
        updated = np.array(
            [
                values[labels == j].mean() if (labels == j).any() else c
                for j, c in enumerate(centres)
            ]
        )
        moved = ((updated - centres) ** 2).sum()
        centres = updated
        if moved <= 1e-4:
            break
    return labels


@pytest.mark.parametrize("branches", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_adaptive_is_plain_kmeans(branches: int, seed: int) -> None:
    p = probabilities(branches, seed)
    values = sum(p[:, j].double().numpy() * j / (branches - 1) for j in range(branches))
    labels = routing.decide(routing.Adaptive(branches), p.log())
    np.testing.assert_array_equal(labels, plain_kmeans(values, branches))


def test_adaptive_on_a_flat_image_is_all_light() -> None:
    logs = torch.full((1, 2, 4, 4), 0.5).log()
    assert (routing.decide(routing.Adaptive(2), logs) == 0).all()


@pytest.mark.parametrize("branches", [2, 3])
def test_refinement_pixel_by_pixel(branches: int) -> None:
    torch.manual_seed(0)
    sr = torch.rand(1, 3, 8, 10)
    labels = (torch.rand(1, 8, 10) * branches * 0.6).long()
    labels[0, 4, 4] = branches - 1
    expected = sr.clone()
    touched = 0
    for y in range(1, 7):
        for x in range(1, 9):
            around = labels[0, y - 1 : y + 2, x - 1 : x + 2]
            if around.max() > labels[0, y, x]:
                expected[0, :, y, x] = sr[0, :, y - 1 : y + 2, x - 1 : x + 2].mean(dim=(1, 2))
                touched += 1
    assert touched > 5
    torch.testing.assert_close(routing.refine(sr, labels), expected)


@pytest.mark.parametrize("branches", [2, 3, 5])
@pytest.mark.parametrize("k", [-25.0, -2.0, 0.0, 0.7, 3.0, 25.0])
def test_where_the_branch_changes_is_the_same_decision(branches: int, k: float) -> None:
    logs = probabilities(branches).double().log()
    costs = tuple(0.1 * 2**j for j in range(branches))
    rule = routing.CostRatio(costs, k)
    changes = rule.measure(logs)
    assert (changes.diff(dim=1) <= 0).all()
    assert torch.equal(rule.decide(changes).long(), routing.by_cost_ratio(logs, costs, k))


def test_a_certain_classifier_is_decided_too() -> None:
    p = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).T[None, :, :, None]  # (1, 2, 2, 1)
    for k in (-25.0, 0.0, 25.0):
        rule = routing.CostRatio((0.1, 0.9), k)
        assert routing.decide(rule, p.log()).flatten().tolist() == [1, 0]


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_adaptive_decides_parts_as_the_whole(branches: int) -> None:
    logs = probabilities(branches).log()
    rule = routing.Adaptive(branches)
    split = [rule.measure(part) for part in logs.split(4, dim=2)]
    settled = rule.settle(split)
    labels = torch.cat([settled.decide(part) for part in split], dim=1)
    assert torch.equal(labels.long(), routing.decide(rule, logs))
    with pytest.raises(ValueError, match="settle it first"):
        rule.decide(split[0])


@pytest.mark.parametrize("branches", [2, 3, 4])
@pytest.mark.parametrize("share", [0.0, 0.31, 0.77, 1.0])
def test_a_budget_takes_all_it_may_and_no_more(branches: int, share: float) -> None:
    logs = probabilities(branches).log()
    costs = tuple(0.1 * 2**j for j in range(branches))
    flops = tuple(100.0 * 3**j for j in range(branches))
    units = logs[:, 0].numel()
    allowed = units * (flops[0] + share * (flops[-1] - flops[0]))
    rule = routing.WithinBudget(costs, 0.0, flops, allowed)
    measured = rule.measure(logs)
    settled = rule.settle([measured])

    def spent(k: float) -> float:
        labels = routing.CostRatio(costs, k).decide(measured).long()
        return float(torch.tensor(flops)[labels].sum())

    assert spent(settled.k) <= allowed + 1e-6
    nearest = measured[measured <= settled.k]  # the next pixel to change its branch
    if len(nearest):
        assert spent(float(nearest.max()) - 1e-6) > allowed


def test_a_budget_below_the_cheapest_is_an_error() -> None:
    rule = routing.WithinBudget((0.1, 0.9), 0.0, (10.0, 90.0), 10.0)
    with pytest.raises(UserError, match="below the cheapest branch everywhere"):
        rule.settle([rule.measure(probabilities(2).log())])
