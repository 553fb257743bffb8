"""An outside package: a method that routes pixels, a backbone, and a metric."""

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pcsr import flops
from pcsr.backbones.base import Backbone
from pcsr.config.models import Config, ModelConfig, WidthOptions
from pcsr.flops import Costs, Flops
from pcsr.methods.base import Exploration, MakeBackbone, Method, Stage
from pcsr.methods.checks import complete, knob_of, require_scale
from pcsr.metrics import Image
from pcsr.routing import OperatingPoint


class EdgeOptions(WidthOptions):
    """Options of ``Edges``."""

    blur: int = Field(default=1, ge=0, description="radius in HR pixels of the gradient's blur")


class Edges(Method):
    """The network's pixel where the bilinear image has a gradient, else the bilinear one.

    A pixel of a convolutional network is not computed without its neighbours, so that all of its
    FLOPs are shared: it draws what routing by edges keeps, and claims to save nothing.
    """

    Options = EdgeOptions
    points = tuple(OperatingPoint(knob=k) for k in (0.01, 0.0, 9.0))
    fine_knobs = (0.0, 0.01, 9.0)
    branches = 2

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        self.options, self.config = complete(EdgeOptions, config, {})
        self.network = make_backbone(width=self.options.width, scale=config.scale)
        self.stages = (Stage("train", [self.network], lambda deploy: self.loss, branch=1),)

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``."""
        whole = require_scale(self.config, scale)
        bilinear = F.interpolate(lr, scale_factor=whole, mode="bilinear")
        grey = F.pad(bilinear.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")[:, 0]
        across, down = (
            grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2],
            grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1],
        )
        side = 2 * self.options.blur + 1
        blurred = F.avg_pool2d(torch.hypot(across, down), side, 1, side // 2)
        candidates = torch.stack([bilinear, self.network(lr)])
        return Exploration(
            candidates, blurred[:, None].expand(-1, 2, -1, -1), (lr.shape[-2], lr.shape[-1])
        )

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """See ``Method.route``."""
        return (scores[:, 1] >= knob_of(point, "edges", "a gradient")).long()

    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """See ``Method.compose``."""
        return torch.where(labels[:, None] == 1, *exploration.candidates.flip(0))

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``."""
        return Costs(self._flops * (lr_size[0] * lr_size[1]), (Flops(), Flops()))

    @cached_property
    def _flops(self) -> Flops:
        return flops.per_lr_pixel(self.network)

    def loss(self, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """L1 of the network."""
        return {"loss": F.l1_loss(self.network(lr), hr)}


class PlainOptions(Config):
    """Options of ``Plain``."""

    depth: int = Field(default=1, ge=1, description="layers before the tail")


class Plain(Backbone):
    """A few convolutions and a pixel shuffle."""

    Options = PlainOptions
    tail_halo = 1

    def __init__(self, width: int, scale: float | None = 4, depth: int = 1) -> None:
        super().__init__()
        self.width, self.scale, self.halo = width, None if scale is None else int(scale), depth
        sizes = [3, *[width] * depth]
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)))
        if self.scale:
            self.tail = nn.Conv2d(width, 3 * self.scale**2, 3, padding=1)

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        features: Tensor = self.layers(lr).relu()
        return features

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        assert self.scale
        base = F.interpolate(lr, scale_factor=self.scale, mode="bilinear")
        return F.pixel_shuffle(self.tail(features), self.scale) + base


def mae(sr: Image, hr: Image, shave: int) -> float:
    """Mean absolute error in grey levels."""
    inside = slice(shave, -shave or None)
    return float(np.abs(sr[inside, inside].astype(float) - hr[inside, inside]).mean())
