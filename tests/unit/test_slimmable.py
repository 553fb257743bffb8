"""One network of several widths: a narrower one is its leading channels, and nothing more."""

from functools import partial

import pytest
import torch
from torch import Tensor

from pcsr import flops
from pcsr.backbones.base import Backbone
from pcsr.backbones.carn import CARN
from pcsr.backbones.fsrcnn import FSRCNN
from pcsr.backbones.srresnet import SRResNet
from pcsr.baselines.slimmable import Slimmable
from pcsr.errors import UserError
from pcsr.methods.base import MakeBackbone

WIDTHS = (4, 8, 12)
BACKBONES: dict[str, MakeBackbone] = {
    "fsrcnn": FSRCNN,
    "carn": partial(CARN, batch_norm=False),
    "srresnet": SRResNet,
}


def leading(tensor: Tensor, shape: torch.Size) -> Tensor:
    """The leading part of every dimension."""
    for dimension, length in enumerate(shape):
        tensor = tensor.narrow(dimension, 0, length)
    return tensor


def narrow(backbone: str, wide: Backbone, width: int) -> Backbone:
    """A backbone built on its own, with the leading weights of a wider one."""
    built = BACKBONES[backbone](width=width, scale=4)
    weights = wide.state_dict()
    own = {
        name: leading(weights[name], tensor.shape) for name, tensor in built.state_dict().items()
    }
    built.load_state_dict(own)
    return built


@pytest.fixture(params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def slimmable(backbone: str) -> Slimmable:
    torch.manual_seed(0)
    return Slimmable(BACKBONES[backbone], WIDTHS, 4)


@pytest.fixture
def lr() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, 9, 7)


@torch.no_grad()
def test_a_width_is_a_narrow_network_of_the_leading_weights(
    backbone: str, slimmable: Slimmable, lr: Tensor
) -> None:
    outputs = []
    for number, width in enumerate(WIDTHS):
        alone = narrow(backbone, slimmable.network, width)
        outputs.append(slimmable(lr, number))
        torch.testing.assert_close(outputs[-1], alone(lr), rtol=0, atol=0)
    assert torch.equal(outputs[-1], slimmable.network(lr))
    assert not torch.equal(outputs[0], outputs[1])


def test_a_gradient_at_any_width_reaches_the_shared_weights(
    slimmable: Slimmable, lr: Tensor
) -> None:
    for number in range(3):
        slimmable.zero_grad(set_to_none=True)
        slimmable(lr, number).square().mean().backward()
        shapes = dict(slimmable._shapes[number].named_parameters())
        for name, parameter in slimmable.network.named_parameters():
            gradient = parameter.grad
            assert gradient is not None and gradient.abs().sum() > 0, name
            inside = leading(gradient, shapes[name].shape)
            assert inside.count_nonzero() == gradient.count_nonzero(), name
            assert shapes[name].grad is None


def test_nothing_is_stored_but_the_widest_network(backbone: str, slimmable: Slimmable) -> None:
    alone = BACKBONES[backbone](width=WIDTHS[-1], scale=4)
    assert list(slimmable.state_dict()) == [f"network.{name}" for name in alone.state_dict()]
    assert sum(p.numel() for p in slimmable.parameters()) == sum(
        p.numel() for p in alone.parameters()
    )


@torch.no_grad()
def test_widths_interleaved_give_the_same_as_apart(slimmable: Slimmable, lr: Tensor) -> None:
    apart = [slimmable(lr, number) for number in range(3)]
    for number in (2, 0, 1, 0, 2, 1):
        assert torch.equal(slimmable(lr, number), apart[number])


@torch.no_grad()
def test_a_change_of_the_shared_weights_changes_every_width(
    slimmable: Slimmable, lr: Tensor
) -> None:
    before = [slimmable(lr, number) for number in range(3)]
    for parameter in slimmable.parameters():
        parameter.mul_(1.5)
    assert all(not torch.equal(slimmable(lr, n), old) for n, old in enumerate(before))


def test_costs_are_those_of_networks_built_alone(backbone: str, slimmable: Slimmable) -> None:
    alone = [flops.per_lr_pixel(BACKBONES[backbone](width=width, scale=4)) for width in WIDTHS]
    assert slimmable.costs() == alone


def test_batch_norm_is_refused() -> None:
    with pytest.raises(UserError, match="batch_norm: false"):
        Slimmable(CARN, WIDTHS, 4)
