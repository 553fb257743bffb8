"""The method contract: the one interface that training, sweeps, figures and the CLI know.

A method super-resolves an LR picture with M *branches* of rising cost. Each *unit* of the picture
(the whole image, a tile, an HR pixel) is computed by the branch that a *router* picks from the
unit's *scores*, under a *knob* that trades PSNR for FLOPs.

``explore`` runs every branch once, so that each knob value of a sweep is only a routing decision:
``compose(explore(lr), route(scores, knob))``. ``restore`` runs the routed work alone and is what
latency is measured on. Both give the same picture for the same knob; a test holds them together.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pcsr.backbones.base import Backbone
from pcsr.config.models import ModelConfig
from pcsr.engine.parts import Piece
from pcsr.errors import UserError
from pcsr.flops import Costs
from pcsr.routing import Budget

#: A value of the knob; "adaptive" lets the method decide, a budget says what a picture may cost;
#: None for methods without a knob.
Knob = float | Literal["adaptive"] | Budget | None


class MakeBackbone(Protocol):
    """Builds the configured backbone in the width and with the tail that a method asks for."""

    def __call__(self, *, width: int, scale: float | None) -> Backbone:
        """Build it; ``scale=None`` builds an encoder without a tail."""


@dataclass(frozen=True)
class Exploration:
    """What every branch gives for a picture, before any decision.

    Attributes:
        candidates: each branch's result, first axis M; the rest as the method's ``compose`` likes.
        scores: (N, M, units...) what the router decides by.
        lr_size: height and width of the LR pictures.
    """

    candidates: Tensor
    scores: Tensor
    lr_size: tuple[int, int]


@dataclass(frozen=True)
class Restored:
    """A super-resolved picture (N, 3, H, W) and the branch of each unit (N, units...)."""

    sr: Tensor
    labels: Tensor


class Ready(ABC):
    """A method with its weights laid out; what changes them afterwards does not change it.

    Attributes:
        networks: that can be compiled.
    """

    networks: Sequence[nn.Module] = ()

    @abstractmethod
    def pieces(
        self, lr: Tensor, scale: float, knob: Knob, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """Do as ``Method.restore`` does, piece by piece, so that memory stays below a limit.

        Decisions that look at the whole picture still do. Without a limit every picture is one
        piece.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            knob: operating point.
            refine: whether pixels beside a dearer one are smoothed.
            limit: bytes that may be taken beside ``lr``; tile methods need few and do not heed it.
        """

    def compile(self) -> None:
        """Compile the networks, each time that pictures of another size come."""
        for network in self.networks:
            network.compile()

    def restore(self, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Restored:
        """See ``Method.restore``."""
        pieces = list(self.pieces(lr, scale, knob, refine))
        return Restored(_batch([p.sr for p in pieces]), _batch([p.labels for p in pieces]))


def _batch(pictures: list[Tensor]) -> Tensor:
    return pictures[0] if len(pictures) == 1 else torch.cat(pictures)


class Method(nn.Module, ABC):
    """Base of all methods. A new method is one class in one file and one entry in the catalog.

    Attributes:
        config: the complete model configuration; stored with the weights, it rebuilds the method.
        stages: names of the training stages, in order.
        knobs: values of the knob that are swept where none are asked for, and first of them the one
            that is used where one is needed; empty for a method without a knob.
        calibrated: values of the knob at which its price in PSNR is measured, where none are asked
            for, the dearest first; empty for those of ``knobs``.
        has_adaptive: whether the router can decide without a knob.
        has_budget: whether the router takes a ``Budget`` for a knob value.
        has_table: whether ``tabulate`` must run before the method can route.
        has_refinement: whether ``compose`` and ``restore`` heed ``refine``.
        by_tiles: whether the picture is cut into tiles in any case, so that ``crop: none`` would
            only add some at the border.
        branches: M, the number of branches.
    """

    stages: ClassVar[tuple[str, ...]]
    knobs: ClassVar[tuple[float, ...]] = ()
    calibrated: ClassVar[tuple[float, ...]] = ()
    has_adaptive: ClassVar[bool] = False
    has_budget: ClassVar[bool] = False
    has_table: ClassVar[bool] = False
    has_refinement: ClassVar[bool] = False
    by_tiles: ClassVar[bool] = False
    branches: int
    config: ModelConfig

    @abstractmethod
    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        """Build the networks that ``config`` describes; call ``nn.Module.__init__`` first."""
        super().__init__()

    @abstractmethod
    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """Run every branch on LR pictures (N, 3, h, w) with values in [0, 1]."""

    @abstractmethod
    def route(self, scores: Tensor, knob: Knob, scale: float) -> Tensor:
        """Decide: scores (N, M, units...) -> branch numbers (N, units...), cheapest 0."""

    @abstractmethod
    def compose(self, exploration: Exploration, labels: Tensor, refine: bool) -> Tensor:
        """Put the chosen candidates together to SR pictures (N, 3, H, W), not clipped."""

    @abstractmethod
    def restore(self, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Restored:
        """Super-resolve running only the branch that each unit is routed to."""

    def ready(self, precision: torch.dtype = torch.float32) -> "Ready":
        """Read the weights and lay them out, for pictures one after another.

        Args:
            precision: of the networks; pictures and decisions are in float32. A half one is for
                GPUs.

        Raises:
            UserError: the method, or the device that it is on, has no such precision.
        """
        if precision != torch.float32:
            raise UserError(f"--precision: {self.config.method} computes in float32 alone.")
        return _OneByOne(self)

    @abstractmethod
    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """Return what one picture costs, always and per unit of each branch."""

    @abstractmethod
    def trained_modules(self, stage: str) -> Iterable[nn.Module]:
        """Return the modules whose weights a stage changes; all others stay frozen."""

    def draw(self, stage: str, random: np.random.Generator) -> int | None:
        """Draw what a step of training leaves to chance; by default nothing.

        Args:
            stage: one of ``stages``.
            random: the only source of chance that a step may use; the same in all processes.
        """
        return None

    @abstractmethod
    def losses(self, stage: str, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """Return the loss to minimise as ``"loss"`` and its parts under other names.

        It may be compiled and recorded: everything must be done on tensors.

        Args:
            stage: one of ``stages``, which was started.
            lr: (N, 3, h, w) in [0, 1].
            hr: (N, 3, H, W) in [0, 1].
            drawn: by ``draw``.
        """

    def validation_labels(self, stage: str, scores: Tensor, scale: float) -> Tensor:
        """Decide as ``route`` does, for the validation of a stage: by default as for use."""
        return self.route(scores, self.default_knob, scale)

    @property
    def default_knob(self) -> Knob:
        """The knob value that is used where none is given."""
        return self.knobs[0] if self.knobs else None

    def lr_pixels(self, lr_size: tuple[int, int]) -> int:
        """Return the LR pixels that are processed for one picture; overlap counts each time."""
        return lr_size[0] * lr_size[1]

    def pixel_labels(self, labels: Tensor, lr_size: tuple[int, int], scale: float) -> Tensor:
        """Return the branch of every HR pixel, (N, H, W), from the branches of the units."""
        return labels

    def tabulate(self, pictures: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, Any]:
        """Fill the tables that a method keeps beside its weights, after its training.

        Args:
            pictures: validation pictures: LR (1, 3, h, w) and HR (1, 3, H, W) in [0, 1].

        Returns:
            What is worth recording of them.

        Raises:
            UserError: the method keeps no tables.
        """
        raise UserError(
            f"{self.config.method} keeps no table; drop `table: true` from the experiment."
        )

    def start_stage(self, stage: str) -> None:
        """Freeze everything (BatchNorm statistics too) but what ``stage`` trains.

        The weights are those that the stage starts from: what is frozen may be laid out for speed.
        """
        self.requires_grad_(False).eval()
        for module in self.trained_modules(stage):
            module.requires_grad_(True).train()

    def forward(
        self, stage: str, lr: Tensor, hr: Tensor, drawn: int | None
    ) -> Mapping[str, Tensor]:
        """Same as ``losses``: DistributedDataParallel synchronises the forward pass."""
        return self.losses(stage, lr, hr, drawn)


class _OneByOne(Ready):
    """A method that lays nothing out."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def pieces(
        self, lr: Tensor, scale: float, knob: Knob, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Ready.pieces``."""
        for number in range(len(lr)):
            restored = self._method.restore(lr[number : number + 1], scale, knob, refine)
            yield Piece(number, 0, 0, restored.sr, restored.labels)


def require_scale(config: ModelConfig, scale: float) -> int:
    """Return the scale of a model with tails, which has no other.

    Raises:
        UserError: another scale is asked for.
    """
    if scale != config.scale:
        raise UserError(
            f"--scale {scale:g}: this {config.backbone}-{config.method} was built for "
            f"x{config.scale:g}; use that scale, or a pcsr model."
        )
    return int(scale)


def complete(config: ModelConfig, paper: Mapping[str, Mapping[str, Any]]) -> ModelConfig:
    """Fill what ``config`` leaves open with the paper's values for its backbone.

    Args:
        config: the user's model configuration.
        paper: backbone -> values of ModelConfig fields.
    """
    values = paper.get(config.backbone, {})
    missing = {key: value for key, value in values.items() if getattr(config, key) is None}
    return config.model_copy(update=missing)
