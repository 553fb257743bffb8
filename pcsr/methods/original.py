"""The unmodified backbone: one branch, one unit, no decision. Every curve is relative to it."""

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import flops
from pcsr.config.models import ModelConfig, WidthOptions
from pcsr.flops import Costs, Flops
from pcsr.methods.base import Deploy, Exploration, Loss, MakeBackbone, Method, Stage
from pcsr.methods.checks import complete, require_scale
from pcsr.routing import OperatingPoint

PAPER = {
    "fsrcnn": {"width": 56},
    "carn": {"width": 64},
    "srresnet": {"width": 64},
    "carn-m": {"width": 64},
    "efdn": {"width": 48},
    "safmnv3": {"width": 40},
    "span": {"width": 28},
}


class Original(Method):
    """A backbone with its upsampling tail, trained with L1 at a fixed integer scale."""

    Options = WidthOptions
    unit = "image"
    points = (OperatingPoint(),)
    branches = 1

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        options, self.config = complete(WidthOptions, config, PAPER)
        self.network = make_backbone(width=options.width, scale=config.scale)
        self.stages = (Stage("train", [self.network], self._loss),)

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``; candidates are (1, N, 3, H, W), scores (N, 1) ones."""
        require_scale(self.config, scale)
        scores = torch.ones(len(lr), 1, device=lr.device)
        return Exploration(self.network(lr)[None], scores, (lr.shape[-2], lr.shape[-1]))

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """Return branch 0 for every image."""
        return torch.zeros(len(scores), dtype=torch.long, device=scores.device)

    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """Return the only candidate; there is no seam to refine."""
        return exploration.candidates[0]

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``; the single branch bears the whole cost."""
        return Costs(Flops(), (self._flops(lr_size),))

    @cached_property
    def _flops(self) -> Callable[[tuple[int, int]], Flops]:
        """FLOPs of an LR image of a size."""
        return flops.per_image(self.network, self.network.whole_image, folded=True)

    def _loss(self, deploy: Deploy) -> Loss:
        """Return the L1 loss between SR and HR."""
        return lambda lr, hr, drawn: {"loss": F.l1_loss(self.network(lr), hr)}
