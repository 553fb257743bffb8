"""ClassSR: its losses by formula, its choice, and what a stage is validated by."""

from itertools import combinations

import numpy as np
import pytest
import torch
from models import at, build, photograph_like, tiles_of
from torch import Tensor

from pcsr import registry
from pcsr.baselines.classsr import ClassSR, average_loss, class_loss
from pcsr.config.models import ModelConfig
from pcsr.errors import UserError
from pcsr.routing import OperatingPoint
from pcsr.training.loop import Step


@pytest.fixture
def classsr() -> ClassSR:
    built = build("fsrcnn", "classsr")
    assert isinstance(built, ClassSR)
    return built


def probabilities(patches: int, branches: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(patches, branches, dtype=torch.float64).softmax(dim=1)


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_class_loss(branches: int) -> None:
    certain = torch.eye(branches)
    assert class_loss(certain) == 0
    uniform = torch.full((5, branches), 1 / branches)
    assert class_loss(uniform) == pytest.approx(branches - 1)
    p = probabilities(7, branches)
    of_patch = [
        (branches - 1)
        - sum(abs(float(row[j] - row[k])) for j, k in combinations(range(branches), 2))
        for row in p
    ]
    assert float(class_loss(p)) == pytest.approx(np.mean(of_patch))
    # Half of the patches certain, half undecided.
    assert class_loss(torch.cat([certain, uniform[:1].expand(branches, -1)])) == pytest.approx(
        (branches - 1) / 2
    )


@pytest.mark.parametrize("branches", [2, 3, 4])
def test_average_loss(branches: int) -> None:
    # Equal use, by certain choices or by none at all.
    assert average_loss(torch.eye(branches).repeat(3, 1)) == 0
    assert average_loss(torch.full((4, branches), 1 / branches)) == pytest.approx(0, abs=1e-6)
    # One branch takes all: (B - B/M + (M - 1) B/M) / (4 B/M).
    one = torch.zeros(6, branches)
    one[:, 0] = 1
    assert average_loss(one) == pytest.approx((branches - 1) / 2)
    p = probabilities(7, branches)
    even = 7 / branches
    expected = sum(abs(float(column.sum()) - even) / (4 * even) for column in p.T)
    assert float(average_loss(p)) == pytest.approx(expected)


@torch.no_grad()
def test_losses_are_their_formulas(classsr: ClassSR) -> None:
    lr, hr = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 32, 32)
    *stages, joint_stage = classsr.stages
    outputs = [network(lr) for network in classsr.networks]
    for stage, sr in zip(stages, outputs, strict=True):
        loss = Step(classsr, stage)(lr, hr, None)["loss"]
        torch.testing.assert_close(loss, (sr - hr).abs().mean())
    p = classsr.classifier(lr).softmax(dim=1)
    mixture = sum(p[:, j].view(-1, 1, 1, 1) * sr for j, sr in enumerate(outputs))
    joint = Step(classsr, joint_stage)(lr, hr, None)
    torch.testing.assert_close(joint["l1"], (mixture - hr).abs().mean())
    torch.testing.assert_close(joint["class"], class_loss(p))
    torch.testing.assert_close(joint["average"], average_loss(p))
    expected = 1000 * joint["l1"] + 0.5 * joint["class"] + 3 * joint["average"]
    torch.testing.assert_close(joint["loss"], expected)


@torch.no_grad()
def test_the_published_choice_is_k_0(classsr: ClassSR) -> None:
    assert classsr.points[0] == OperatingPoint(knob=0.0)
    torch.manual_seed(0)
    p = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(classsr.route(p.log(), at(0.0), 4), p.argmax(dim=1))
    for k in (-1.5, 0.4, 2.0):
        chosen = classsr.route(p.log(), at(k), 4)
        assert torch.equal(chosen, (p / shares(classsr) ** k).argmax(dim=1))
    for knob in ("adaptive", None):
        with pytest.raises(UserError, match="give k; 0 is the published method"):
            classsr.route(p, at(knob), 4)


def shares(classsr: ClassSR) -> Tensor:
    """Each network's share of the FLOPs of all."""
    costs = torch.tensor([cost.paper for cost in classsr.tile_costs()[1]], dtype=torch.float64)
    return (costs / costs.sum()).view(1, 3, 1, 1)


@torch.no_grad()
def test_a_classifier_may_be_certain_beyond_float32(classsr: ClassSR) -> None:
    """Released logits differ by hundreds; the choice still follows k."""
    tiles = tiles_of(photograph_like(64, 92))
    classsr.classifier.last.weight.mul_(300)
    classsr.classifier.last.bias.mul_(300)
    logits = classsr.classifier(tiles)
    scores = classsr.score(tiles)
    assert (scores.exp() == 0).any() and scores.isfinite().all()
    torch.testing.assert_close(scores, logits - logits.logsumexp(dim=1, keepdim=True))
    for k in (-200.0, 0.0, 90.0, 400.0):
        expected = (logits.double() - k * shares(classsr).log()[..., 0, 0]).argmax(dim=1)
        assert torch.equal(classsr.route(scores[..., None, None], at(k), 4).flatten(), expected)
    assert (classsr.route(scores[..., None, None], at(1e5), 4) == 0).all()


@torch.no_grad()
def test_a_stage_is_validated_by_the_network_it_trains(classsr: ClassSR) -> None:
    stages = {stage.name: stage.branch for stage in classsr.stages}
    assert stages == {"simple": 0, "medium": 1, "hard": 2, "joint": None}
    scores = classsr.explore(photograph_like(64, 92), 4).scores
    joint = classsr.route(scores, classsr.points[0], 4)
    assert torch.equal(joint, scores.argmax(dim=1)) and len(joint.unique()) == 3


@pytest.mark.parametrize("widths", [(8, 16), (8, 12, 16, 20)])
def test_other_numbers_of_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"model\.options\.widths: give three widths of fsrcnn"):
        registry.build(ModelConfig(backbone="fsrcnn", method="classsr", widths=widths))
