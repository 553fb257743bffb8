"""The unmodified backbone: one branch, one unit, no decision. The reference of every curve."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import flops
from pcsr.config.models import ModelConfig
from pcsr.engine.parts import InParts, Piece
from pcsr.errors import UserError
from pcsr.flops import Costs, Flops
from pcsr.methods.base import (
    Exploration,
    Knob,
    MakeBackbone,
    Method,
    Ready,
    Restored,
    complete,
    require_scale,
)

PAPER = {"fsrcnn": {"width": 56}, "carn": {"width": 64}, "srresnet": {"width": 64}}


class Original(Method):
    """A backbone with its upsampling tail, trained with L1 at a fixed integer scale."""

    stages = ("train",)
    branches = 1

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        self.config = complete(config, PAPER)
        if self.config.width is None:
            raise UserError(f"model.width: give the channels of backbone '{config.backbone}'.")
        self.network = make_backbone(width=self.config.width, scale=self.config.scale)

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``; candidates are (1, N, 3, H, W), scores (N, 1) ones."""
        require_scale(self.config, scale)
        scores = torch.ones(len(lr), 1, device=lr.device)
        return Exploration(self.network(lr)[None], scores, (lr.shape[-2], lr.shape[-1]))

    def route(self, scores: Tensor, knob: Knob, scale: float) -> Tensor:
        """Return branch 0 for every picture."""
        return torch.zeros(len(scores), dtype=torch.long, device=scores.device)

    def compose(self, exploration: Exploration, labels: Tensor, refine: bool) -> Tensor:
        """Return the only candidate; there is no seam to refine."""
        return exploration.candidates[0]

    def restore(self, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Restored:
        """Run the backbone."""
        return self.ready().restore(lr, scale, knob, refine)

    def ready(self, precision: torch.dtype = torch.float32) -> Ready:
        """See ``Method.ready``."""
        return _Ready(self, precision)

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``; all of the cost is the single branch's."""
        return Costs(Flops(), (self._flops * (lr_size[0] * lr_size[1]),))

    @cached_property
    def _flops(self) -> Flops:
        """FLOPs per LR pixel."""
        return flops.per_lr_pixel(self.network, self.network.inference())

    def trained_modules(self, stage: str) -> Iterable[nn.Module]:
        """Return the whole network."""
        return [self.network]

    def losses(self, stage: str, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """L1 between the SR and HR pictures."""
        return {"loss": F.l1_loss(self.network(lr), hr)}


class _Ready(Ready):
    """The backbone as it is fastest."""

    def __init__(self, method: Original, precision: torch.dtype) -> None:
        self._method = method
        network = method.network.deployed(precision)
        self._network = InParts(network)
        self.networks = [network]

    def pieces(
        self, lr: Tensor, scale: float, knob: Knob, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Ready.pieces``."""
        whole = require_scale(self._method.config, scale)
        for part, sr in self._network.run(lr, limit):
            labels = self._method.route(sr, knob, scale)
            yield Piece(part.picture, part.top * whole, part.left * whole, sr, labels)
