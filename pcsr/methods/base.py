"""The method contract: the one interface that training, sweeps, figures and the command line use.

A method super-resolves an LR image with M *branches* of rising (or equal) cost. Each *unit* of the
image (the whole image, a tile, an HR pixel) is computed by the branch that a *router* picks from
the unit's *scores* at an *operating point*, which trades PSNR for FLOPs.

``explore`` runs every branch once, so that each operating point of a sweep is only a routing
decision: ``compose(explore(lr), route(scores, point))``. A runner (``pcsr.engine``) runs only the
routed work; it is what users run and what latency is measured on. At the same operating point both
give the same image, as tests check.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from pcsr.backbones.base import Backbone
from pcsr.config.models import Config, ModelConfig
from pcsr.flops import Costs
from pcsr.routing import OperatingPoint

#: (LR (N, 3, h, w), HR (N, 3, H, W), what ``Stage.draw`` drew) -> ``"loss"`` to minimise, and any
#: terms of it to log. It may be compiled or recorded as a CUDA graph, so it must work on tensors
#: alone.
Loss = Callable[[Tensor, Tensor, int | None], Mapping[str, Tensor]]
#: Deploys a network that stays frozen: same output, less work.
Deploy = Callable[[Backbone], Backbone]


class MakeBackbone(Protocol):
    """Build the configured backbone with the width and tail that a method needs."""

    def __call__(self, *, width: int, scale: float | None) -> Backbone:
        """Build the backbone; ``scale=None`` builds an encoder without a tail."""


@dataclass(frozen=True)
class Exploration:
    """The output of every branch for images of one size, before any decision.

    Attributes:
        candidates: the outputs of the branches, first axis M; ``compose`` defines the other axes.
        scores: (N, M, units...), what the router decides by.
        lr_size: height and width of the LR images.
    """

    candidates: Tensor
    scores: Tensor
    lr_size: tuple[int, int]


@dataclass(frozen=True)
class Stage:
    """One training stage: what trains, by what loss, and how it is validated.

    Attributes:
        name: the key in the experiment's ``stages``.
        modules: the modules that train; all others stay frozen, BatchNorm statistics included.
        loss: builds the loss function, after the stage's initial weights are in place, so that
            frozen networks can be deployed first.
        branch: that every unit takes in validation; None routes at the first operating point.
        draw: draws a step's random choice (ARM's width) from the generator passed to it, the only
            source of randomness that a stage may use.
    """

    name: str
    modules: Sequence[nn.Module]
    loss: Callable[[Deploy], Loss]
    branch: int | None = None
    draw: Callable[[np.random.Generator], int] | None = None


class Method(nn.Module, ABC):
    """Base of all methods: a subclass writes four functions and sets the attributes below.

    Attributes:
        Options: model of the method's own options, ``model.options`` in an experiment.
        unit: what is routed.
        points: the operating points of a sweep by default; the first is the default point.
        fine_knobs: knob values at which ``pcsr calibrate-knob`` measures the loss in PSNR, most
            expensive first; if empty, those of ``points``.
        free_per_unit: FLOPs executed for a unit's scores that are not counted, because they are not
            a network's (an edge filter).
        branches: M.
        branch_names: what figures call the branches, cheapest first; by default, their numbers.
        stages: training stages in order.
        config: the complete configuration, as ``checks.complete`` returns it. It is stored with
            the weights and rebuilds the method.
    """

    Options: ClassVar[type[Config]] = Config
    unit: ClassVar[Literal["image", "tile", "pixel"]] = "pixel"
    points: ClassVar[Sequence[OperatingPoint]]
    fine_knobs: ClassVar[Sequence[float]] = ()
    free_per_unit: ClassVar[float] = 0
    branches: int
    branch_names: Sequence[str] = ()
    stages: Sequence[Stage]
    config: ModelConfig

    @abstractmethod
    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        """Build the networks that ``config`` describes; call ``nn.Module.__init__`` first."""
        super().__init__()

    @abstractmethod
    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """Run every branch on LR images (N, 3, h, w) in [0, 1]; ``scale`` is HR size / LR size.

        Raises:
            UserError: the method does not support the scale.
        """

    @abstractmethod
    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """Decide: scores (N, M, units...) -> int64 branch numbers (N, units...); 0 is the cheapest.

        Raises:
            UserError: the method does not support the operating point.
        """

    @abstractmethod
    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """Assemble SR images (N, 3, H, W), not clipped, from the candidates chosen by labels."""

    @abstractmethod
    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """Return the FLOPs of one image: those always spent, and those per unit of each branch."""

    @property
    def knobs(self) -> list[float]:
        """Knob values of the default sweep; empty for a method without a knob."""
        return [point.knob for point in self.points if point.knob is not None]

    @property
    def refines(self) -> bool:
        """Whether ``point.refine`` makes a difference to ``compose``."""
        return any(point.refine for point in self.points)

    def lr_pixels(self, lr_size: tuple[int, int]) -> int:
        """Return the number of LR pixels processed for one image; overlaps count repeatedly."""
        return lr_size[0] * lr_size[1]

    def pixel_labels(self, labels: Tensor, lr_size: tuple[int, int], scale: float) -> Tensor:
        """Return the branch of every HR pixel, (N, H, W), given the units' (N, units...)."""
        return labels
