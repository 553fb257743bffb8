"""Starting from another experiment's network, and freezing parts of a stage."""

from pathlib import Path

import pytest
import torch
from models import WIDTHS, build, saved, stage_of
from torch import Tensor

from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.training.loop import Step
from pcsr.weights.load import fill_network


def of(method: Method, prefix: str) -> dict[str, Tensor]:
    tensors = method.state_dict().items()
    return {name.removeprefix(prefix): t for name, t in tensors if name.startswith(prefix)}


HEADS = {"heads": [{"width": 4, "depth": 1}, {"width": 8, "depth": 1}]}
PCSR = {"width": 8, "classifier": {"width": 0, "depth": 0}, **HEADS}


@pytest.mark.parametrize("backbone", ["span", "fsrcnn", "carn"])
def test_a_network_starts_from_another_methods(backbone: str, tmp_path: Path) -> None:
    """The encoder alone where there is no tail, and nothing else changes."""
    norm = {"backbone_options": {"batch_norm": False}} if backbone == "carn" else {}
    original = build(backbone, "original", options={"width": WIDTHS[-1]}, **norm)
    path = saved(original, tmp_path / "original.safetensors")
    network = of(original, "network.")
    pcsr = build(backbone, "pcsr", options=PCSR | {"width": WIDTHS[-1]}, **norm)
    enaf = build(backbone, "enaf")
    for started, prefix in ((pcsr, "encoder."), (enaf, "network.network.")):
        with torch.no_grad():
            for parameter in started.parameters():
                parameter.add_(1)
        before = {name: tensor.clone() for name, tensor in started.state_dict().items()}
        fill_network(started, path)
        for name, tensor in of(started, prefix).items():
            assert torch.equal(tensor, network[name])
        for name, tensor in started.state_dict().items():
            assert name.startswith(prefix) or torch.equal(tensor, before[name])
    assert any(name.startswith("tail.") for name in network)  # which PCSR left out


def test_networks_that_nothing_starts_from(tmp_path: Path) -> None:
    original = saved(build("fsrcnn", "original", options={"width": 8}), tmp_path / "o.safetensors")
    with pytest.raises(UserError, match=r"o.safetensors: has .* of shape"):
        fill_network(build("fsrcnn", "pcsr", options={**PCSR, "width": 16}), original)
    with pytest.raises(UserError, match=r"o.safetensors: has no tensor"):
        fill_network(build("span", "pcsr", options=PCSR), original)
    with pytest.raises(UserError, match=r"fsrcnn-classsr has 3 networks, not one: .* drop init"):
        fill_network(build("fsrcnn", "classsr"), original)


def test_a_frozen_module_stays_as_it_is() -> None:
    """In eval mode, without gradients; all else of the stage trains."""
    method = build("carn", "pcsr")
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    step = Step(method, stage_of(method, "stage0"), freeze=["encoder"])
    step(lr, hr, None)["loss"].backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {
        f"heads.1.{name}" for name, _ in method.get_submodule("heads.1").named_parameters()
    }
    assert not any(module.training for module in method.get_submodule("encoder").modules())
    part = Step(method, stage_of(method, "stage0"), freeze=["encoder.entry"])
    part(lr, hr, None)["loss"].backward()
    parts = {name for name, p in method.named_parameters() if p.requires_grad}
    assert any(name.startswith("encoder.body") for name in parts)
    assert not any(name.startswith("encoder.entry") for name in parts)


def test_what_cannot_be_frozen() -> None:
    method = build("fsrcnn", "pcsr")
    for stage, freeze, said in (
        ("stage0", ["encodr"], "encodr is no module .* it trains encoder, heads.1"),
        ("stage1", ["encoder"], "encoder is no module that this stage of pcsr trains"),
        ("stage0", ["encoder", "heads.1"], "nothing is left to train; leave out heads.1"),
    ):
        with pytest.raises(UserError, match=rf"stages\.{stage}\.freeze: {said}"):
            Step(method, stage_of(method, stage), freeze)
