"""Heads on the regular grid: the values and gradients of the plain computation."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcsr.config.models import HeadConfig
from pcsr.engine.cpu import blockwise
from pcsr.engine.cpu.blockwise import BLOCK
from pcsr.geometry import axis
from pcsr.methods.heads import Head, places

CHANNELS = 6


def plainly(head: Head, features: Tensor, where: Tensor) -> Tensor:
    """The definition: a query per HR pixel."""
    feature = features[:, None].expand(-1, len(where), -1)
    query = torch.cat([feature, where.expand(len(features), -1, -1)], dim=2)
    made: Tensor = head(query.flatten(0, 1)).view(len(features), len(where), -1)
    return made


def on_grid(head: Head, features: Tensor, where: Tensor) -> Tensor:
    head.finish = blockwise.finish
    return head.on_grid(features, where)


def values_and_gradients(
    run: Callable[[Head, Tensor, Tensor], Tensor], head: Head, features: Tensor, where: Tensor
) -> list[Tensor]:
    features = features.clone().requires_grad_()
    made = run(head, features, where)
    weight = torch.linspace(0.5, 1.5, made.numel(), dtype=made.dtype).view_as(made)
    wanted = [features, *head.parameters()]
    return [made.detach(), *torch.autograd.grad((made * weight).sum(), wanted)]


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_values_and_gradients_are_those_of_the_definition(depth: int, scale: int) -> None:
    torch.manual_seed(depth)
    head = Head(CHANNELS, HeadConfig(width=7 if depth else 0, depth=depth), 3)
    where = places(axis(5, 5 * scale), axis(7, 7 * scale))
    assert where.shape == (scale**2, 4)
    # Several blocks, and a last one that is not full.
    features = torch.randn(2 * BLOCK // scale**2 + 5, CHANNELS)
    found = values_and_gradients(on_grid, head, features, where)
    exact = copy.deepcopy(head).double()
    expected = values_and_gradients(plainly, exact, features.double(), where.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_no_gradients_are_needed() -> None:
    head = Head(CHANNELS, HeadConfig(width=7, depth=2), 3)
    where, features = places(axis(1, 4), axis(1, 4)), torch.randn(10, CHANNELS)
    with torch.no_grad():
        torch.testing.assert_close(on_grid(head, features, where), plainly(head, features, where))


def test_every_pixel_of_a_block_has_its_own_place() -> None:
    rows, columns = axis(3, 6), axis(4, 12)
    where = places(rows, columns)
    assert where.shape == (6, 4)
    assert where[:, 0].tolist() == pytest.approx([-0.5] * 3 + [0.5] * 3)
    assert where[:, 1].tolist() == pytest.approx([-2 / 3, 0, 2 / 3] * 2)
    assert where[:, 2].unique().tolist() == [rows.cell] and where[0, 3] == columns.cell
