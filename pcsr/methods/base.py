"""The method contract: the one interface that training, sweeps, figures and the command line know.

A method super-resolves an LR image with M *branches* of rising (or equal) cost. Each *unit* of the
image (the whole image, a tile, an HR pixel) is computed by the branch that a *router* picks from
the unit's *scores* at an *operating point*, which trades PSNR for FLOPs.

``explore`` runs every branch once, so that each operating point of a sweep is only a routing
decision: ``compose(explore(lr), route(scores, point))``. A runner (``pcsr.engine``) runs the routed
work alone; it is what users run and what latency is measured on. Both give the same image at the
same point; a test holds them together.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from pcsr.backbones.base import Backbone
from pcsr.config.models import Config, ModelConfig
from pcsr.flops import Costs
from pcsr.routing import OperatingPoint

#: (LR (N, 3, h, w), HR (N, 3, H, W), what was drawn) -> ``"loss"`` to minimise, and its parts.
#: It may be compiled, and recorded as a CUDA graph: everything must be done on tensors.
Loss = Callable[[Tensor, Tensor, int | None], Mapping[str, Tensor]]


class MakeBackbone(Protocol):
    """Builds the configured backbone in the width and with the tail that a method asks for."""

    def __call__(self, *, width: int, scale: float | None) -> Backbone:
        """Build it; ``scale=None`` builds an encoder without a tail."""


@dataclass(frozen=True)
class Exploration:
    """What every branch gives for an image, before any decision.

    Attributes:
        candidates: each branch's result, first axis M; the rest as the method's ``compose`` likes.
        scores: (N, M, units...) what the router decides by.
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
        modules: whose weights change; all others stay frozen, BatchNorm statistics too.
        loss: makes the loss function once the stage's initial weights are in place, so that what is
            frozen can be laid out for speed first.
        labels: decides while the stage is validated: scores (N, M, units...), scale -> (N,
            units...). None: as the method's first operating point does.
        draw: draws what a step leaves to chance, from the only source that it may use.
    """

    name: str
    modules: Sequence[nn.Module]
    loss: Callable[[], Loss]
    labels: Callable[[Tensor, float], Tensor] | None = None
    draw: Callable[[np.random.Generator], int] | None = None


class Method(nn.Module, ABC):
    """Base of all methods: four functions to write, and what is listed below.

    Attributes:
        Options: model of the method's own options, ``model.options`` in an experiment.
        unit: what is routed.
        points: the default sweep, its first the default point.
        fine_knobs: values of the knob at which its cost in PSNR is measured, most expensive first;
            empty for those of ``points``.
        branches: M.
        stages: in the order of training.
        config: the complete configuration, as ``checks.complete`` returns it; stored with the
            weights, it rebuilds the method.
    """

    Options: ClassVar[type[Config]] = Config
    unit: ClassVar[Literal["image", "tile", "pixel"]] = "pixel"
    points: ClassVar[Sequence[OperatingPoint]]
    fine_knobs: ClassVar[Sequence[float]] = ()
    branches: int
    stages: Sequence[Stage]
    config: ModelConfig

    @abstractmethod
    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        """Build the networks that ``config`` describes; call ``nn.Module.__init__`` first."""
        super().__init__()

    @abstractmethod
    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """Run every branch on LR images (N, 3, h, w) with values in [0, 1]."""

    @abstractmethod
    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """Decide: scores (N, M, units...) -> int64 branch numbers (N, units...), cheapest 0."""

    @abstractmethod
    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """Put the chosen candidates together to SR images (N, 3, H, W), not clipped."""

    @abstractmethod
    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """Return what one image costs, always and per unit of each branch."""

    @property
    def knobs(self) -> list[float]:
        """Values of the knob in the default sweep; none where there is no knob."""
        return [point.knob for point in self.points if point.knob is not None]

    @property
    def refines(self) -> bool:
        """Whether ``compose`` heeds ``point.refine``."""
        return any(point.refine for point in self.points)

    def lr_pixels(self, lr_size: tuple[int, int]) -> int:
        """Return the LR pixels that are processed for one image; overlap counts each time."""
        return lr_size[0] * lr_size[1]

    def pixel_labels(self, labels: Tensor, lr_size: tuple[int, int], scale: float) -> Tensor:
        """Return the branch of every HR pixel, (N, H, W), from the branches of the units."""
        return labels


class Tabulated(ABC):
    """A method that routes by a table, which is filled from validation images after training."""

    @abstractmethod
    def tabulate(self, images: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, Any]:
        """Fill the table; returns what is worth recording of it.

        Args:
            images: validation images: LR (1, 3, h, w) and HR (1, 3, H, W) in [0, 1].
        """
