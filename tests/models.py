"""Methods with invented weights that use every branch, and an image for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from pcsr import registry
from pcsr.baselines.arm import ARM
from pcsr.baselines.classsr import Classifier, ClassSR
from pcsr.baselines.enaf import ENAF
from pcsr.config.models import ModelConfig
from pcsr.engine import pixels, runners
from pcsr.engine.base import Restored
from pcsr.engine.runners import runner
from pcsr.engine.tiles import Tile
from pcsr.geometry import Tiles
from pcsr.methods.base import Method, Stage
from pcsr.methods.pcsr import PAPER
from pcsr.routing import OperatingPoint
from pcsr.training.contract import SEVERAL_TILES, photograph_like
from pcsr.weights import checkpoint

Knob = float | Literal["adaptive"] | None
WIDTHS = (8, 16, 24)  # of tile methods: the paper's take seconds per image
# By how much fresh convolutions are enlarged, so that 8-bit images show something.
GAIN = {"fsrcnn": 8.0, "srresnet": 6.0, "span": 0.5}  # others: 1.5
ROUTED = list(PAPER)  # backbones that adaptive methods have options for; the others are static
# Operating points of a method; the last sends the image of several tiles to all branches.
KNOBS: dict[str, list[Knob]] = {
    "original": [None],
    "pcsr": [-25.0, 1.0, 25.0, "adaptive", 0.0],
    "classsr": [-25.0, 25.0, 0.0],
    "arm": [0.0, 50.0, 2.0],
    "enaf": [1000.0, 0.0, 0.5],
}


def at(
    knob: "Knob | OperatingPoint" = None, refine: bool = False, budget: float | None = None
) -> OperatingPoint:
    """An operating point, in few words."""
    if isinstance(knob, OperatingPoint):
        return replace(knob, refine=refine)
    adaptive = knob == "adaptive"
    return OperatingPoint(None if adaptive else knob, adaptive, budget, refine)  # type: ignore[arg-type]


def restored(
    method: Method, lr: Tensor, scale: float, knob: "Knob | OperatingPoint", refine: bool = False
) -> Restored:
    """What a method's runner gives at an operating point."""
    return runner(method).run(lr, scale, at(knob, refine))


def cut_by(patch: pytest.MonkeyPatch, function: Callable[..., list[Tile]]) -> None:
    """Let runners cut images in another way than to fit in memory."""
    for module in (pixels, runners):
        patch.setattr(module, "cut_to_fit", function)


def stage_of(method: Method, name: str) -> Stage:
    """A stage by its name."""
    return next(stage for stage in method.stages if stage.name == name)


def tiles_of(lr: Tensor) -> Tensor:
    """All test tiles of images (n, 3, 32, 32)."""
    tiles = Tiles(len(lr), (lr.shape[-2], lr.shape[-1]))
    return tiles.cut(lr, torch.arange(len(tiles)))


@torch.no_grad()
def build(backbone: str, method: str, **options: Any) -> Method:
    """A method in eval mode that sends images several ways; fresh weights send them one way."""
    torch.manual_seed(1)
    if method in ("classsr", "arm", "enaf"):
        norm = method == "classsr" or backbone != "carn"
        options = {"widths": WIDTHS, "batch_norm": norm, **options}
    built = registry.build(ModelConfig(backbone=backbone, method=method, **options)).eval()
    for name, parameter in built.named_parameters():
        if name.startswith(("classifier", "estimator")):
            parameter.mul_({2: 30, 4: 10}.get(parameter.ndim, 1))
        elif method != "pcsr" and parameter.ndim == 4:
            parameter.mul_(GAIN.get(backbone, 1.5))
        elif method != "pcsr" and name.endswith("tail.bias"):
            parameter.add_(0.4)  # FSRCNN is centred on black
    if isinstance(built, ClassSR):
        _divide(built.classifier)
    if isinstance(built, ENAF):
        _divide(built.estimator)
    if isinstance(built, ARM):
        fill_table(built)
    return built


def saved(method: Method, path: Path, **facts: Any) -> Path:
    """A weights file of a method, with more facts about it."""
    model = method.config.model_dump(mode="json")
    checkpoint.save_weights(path, method, {"model": model, **facts})
    return path


def _divide(classifier: Classifier) -> None:
    """Let each branch be the best for some of the tiles."""
    logits = classifier(tiles_of(photograph_like(*SEVERAL_TILES)))
    last, gain = classifier.last, 2 / logits.std(dim=0)
    last.weight.mul_(gain[:, None])
    last.bias.sub_(logits.mean(dim=0)).mul_(gain)


def fill_table(arm: ARM) -> None:
    """Predict more gain from larger branches on stronger edges; a knob of 2 uses all."""
    costs = torch.tensor([cost.paper for cost in arm.tile_costs()[1]], dtype=torch.float64)
    arm.edges.copy_(torch.linspace(0, 125, len(arm.edges)))
    gain = ((arm.edges - 20) / 90).clamp_min(0)  # dB for the full width
    arm.psnr.copy_(30 + gain * (costs / costs[-1]).sqrt()[:, None])
