"""PCSR: each HR pixel is computed by a light or a heavy head (Jeong et al., ECCV 2024).

A backbone without its tail encodes the LR image once. A classifier then routes every HR pixel to
one of M multilayer perceptrons. These read the nearest LR feature and the pixel's offset and size.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pcsr import flops, geometry, routing
from pcsr.config.models import MOST_BRANCHES, Config, HeadConfig, ModelConfig, Width
from pcsr.distributed import sum_over_processes
from pcsr.errors import UserError
from pcsr.flops import Costs, Flops
from pcsr.geometry import TILE
from pcsr.methods.base import Deploy, Exploration, Loss, MakeBackbone, Method, Stage
from pcsr.methods.checks import complete
from pcsr.methods.heads import PLACE, AllPixels, Head, executed_flops
from pcsr.routing import OperatingPoint, Rule

# Encoder width, heads (light, heavy) and classifier of the paper's models at x4.
PAPER = {
    "fsrcnn": {
        "width": 48,
        "heads": (HeadConfig(width=10, depth=3), HeadConfig(width=58, depth=4)),
        "classifier": HeadConfig(width=0, depth=0),
    },
    "carn": {
        "width": 52,
        "heads": (HeadConfig(width=20, depth=3), HeadConfig(width=74, depth=4)),
        "classifier": HeadConfig(width=10, depth=2),
    },
    "srresnet": {
        "width": 58,
        "heads": (HeadConfig(width=40, depth=3), HeadConfig(width=170, depth=4)),
        "classifier": HeadConfig(width=20, depth=2),
    },
}
BLOCK = 1 << 16  # HR pixels per block: the widest hidden layer then takes 44 MB
# Terms of the loss of stage 1 (docs/protocol.md, section 3).
L1_WEIGHT = 1000.0
BALANCE_WEIGHT = 3.0


class PCSROptions(Config):
    """Options of PCSR."""

    width: Width
    heads: tuple[HeadConfig, ...] = Field(
        min_length=2, max_length=MOST_BRANCHES, description="upsamplers, cheapest first"
    )
    classifier: HeadConfig = Field(description="pixel classifier")


class PCSR(Method):
    """Pixel-level routing between M heads over one encoder; M = 2 in the paper.

    Heads are ordered cheapest first, so the last one is the paper's heavy upsampler. Any scale
    can be upscaled to; the costs, and so the routing, depend on it.
    """

    Options = PCSROptions
    points = (
        *(OperatingPoint(knob=k, refine=True) for k in (0.0, 0.5, 1.0)),
        OperatingPoint(adaptive=True, refine=True),
    )
    fine_knobs = (-25.0, *(step / 4 for step in range(-8, 17)), 25.0)

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        options, self.config = complete(PCSROptions, config, PAPER)
        self.branches = len(options.heads)
        between = (f"head {number}" for number in range(1, self.branches - 1))
        self.branch_names = ("light head", *between, "heavy head")
        self.encoder = make_backbone(width=options.width, scale=None)
        self.heads: Sequence[Head] = nn.ModuleList(  # type: ignore[assignment]
            Head(self.encoder.width, head, 3) for head in options.heads
        )
        self.classifier = Head(self.encoder.width, options.classifier, self.branches)
        self.stages = (
            Stage("stage0", [self.encoder, self.heads[-1]], self._stage0, branch=self.branches - 1),
            Stage("stage1", [self.classifier, *self.heads[:-1]], self._stage1),
        )
        sizes = [sum(p.numel() for p in head.parameters()) for head in self.heads]
        if sizes != sorted(set(sizes)):
            raise UserError(
                "model.options.heads: list them cheapest first, each larger than the last."
            )

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``.

        Candidates are (M, N, 3, H, W), scores the classifier's probabilities (N, M, H, W).
        """
        lr_size = (lr.shape[-2], lr.shape[-1])
        size = geometry.hr_size(lr_size, scale)
        run = AllPixels(self.encoder.features(lr), size, BLOCK)
        probabilities = run(self.classifier).softmax(dim=1)
        base = bilinear(lr, size)
        candidates = torch.stack([run(head) + base for head in self.heads])
        return Exploration(candidates, probabilities, lr_size)

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """See ``Method.route``: by cost ratio with k, within a budget, or by ADM."""
        if point.knob is not None:
            return routing.by_cost_ratio(scores.log(), self.cost_shares(scale), point.knob)
        size = geometry.lr_size((scores.shape[-2], scores.shape[-1]), scale)
        return routing.decide(self.rule(point, size, scale), scores.log())

    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """See ``Method.compose``."""
        sr = exploration.candidates[0]
        for branch in range(1, self.branches):
            chosen = (labels == branch)[:, None]
            sr = torch.where(chosen, exploration.candidates[branch], sr)
        return routing.refine(sr, labels) if point.refine else sr

    def rule(self, point: OperatingPoint, lr_size: tuple[int, int], scale: float) -> Rule:
        """Return the rule for images of a size: by k, within a budget, or adaptive.

        Raises:
            UserError: the operating point gives no way to decide.
        """
        if point.adaptive:
            return routing.Adaptive(self.branches)
        shares = tuple(self.cost_shares(scale))
        if point.budget is not None:
            costs = self.costs(lr_size, scale)
            flops = tuple(branch.engine for branch in costs.branch)
            allowed = point.budget * (lr_size[0] * lr_size[1]) - costs.shared.engine
            return routing.WithinBudget(shares, 0.0, flops, allowed)
        if point.knob is None:
            raise UserError("pcsr: give a knob value k, a budget, or the adaptive decision.")
        return routing.CostRatio(shares, point.knob)

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``: always encoder and classifier, then one head per HR pixel."""
        (lr_height, lr_width), (height, width) = lr_size, geometry.hr_size(lr_size, scale)
        first_layers, classifier, heads = self._head_flops
        shared = self.encoder_flops(lr_size) + first_layers * (lr_height * lr_width)
        return Costs(shared + classifier * (height * width), heads)

    def cost_shares(self, scale: float) -> list[float]:
        """Return c_j, the share of encoder and head j in the sum over all j (PCSR section 3.3)."""
        costs = [self._encoder_cost + head.paper * scale**2 for head in self._head_flops[2]]
        return [cost / sum(costs) for cost in costs]

    @cached_property
    def encoder_flops(self) -> Callable[[tuple[int, int]], Flops]:
        """FLOPs of the encoder alone, a function of the LR image's height and width."""
        return flops.per_image(self.encoder, self.encoder.whole_image, folded=True)

    @cached_property
    def _encoder_cost(self) -> float:
        """Paper FLOPs of the encoder per LR pixel of a tile."""
        return self.encoder_flops((TILE, TILE)).paper / TILE**2

    @cached_property
    def _head_flops(self) -> tuple[Flops, Flops, tuple[Flops, ...]]:
        """FLOPs per LR pixel of all first layers; per HR pixel of the classifier, and each head.

        Those of first layers are as executed. What is executed of the classifier is the heads'.
        """
        query = next(self.classifier.parameters()).new_zeros(1, self.encoder.width + PLACE)
        classifier, *heads = (flops.count(head, query) for head in (self.classifier, *self.heads))
        per_lr, per_hr = executed_flops(self.classifier, self.heads)
        of_heads = (head.run_as(executed) for head, executed in zip(heads, per_hr, strict=True))
        return Flops(engine=per_lr), classifier.run_as(0), tuple(of_heads)

    def _stage0(self, deploy: Deploy) -> Loss:
        """Return the L1 loss of the heavy head."""

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            size = (hr.shape[-2], hr.shape[-1])
            run = AllPixels(self.encoder.features(lr), size)
            return {"loss": F.l1_loss(run(self.heads[-1]) + bilinear(lr, size), hr)}

        return loss

    def _stage1(self, deploy: Deploy) -> Loss:
        """Return L1 of the soft mixture plus the balance loss (eq. 5-7).

        Encoder and heavy head are frozen.
        """
        encoder = deploy(self.encoder)

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            size = (hr.shape[-2], hr.shape[-1])
            base = bilinear(lr, size)
            with torch.no_grad():
                run = AllPixels(encoder.features(lr), size)
                heavy = run(self.heads[-1])
            probability = run(self.classifier).softmax(dim=1)
            outputs = [*(run(head) for head in self.heads[:-1]), heavy]
            mixture = sum(
                (probability[:, [j]] * output for j, output in enumerate(outputs)),
                torch.zeros_like(heavy),
            )
            l1 = F.l1_loss(mixture + base, hr)
            balance = _imbalance(probability)
            return {"loss": L1_WEIGHT * l1 + BALANCE_WEIGHT * balance, "l1": l1, "balance": balance}

        return loss


def _imbalance(probability: Tensor) -> Tensor:
    """Return the mean over branches of |sum_i p_ij - n/M| / (n/M), the balance loss.

    The sum runs over the n pixels of all processes. With M = 2 both branches have the same value,
    which is the paper's.

    Args:
        probability: (N, M, H, W).
    """
    branches = probability.shape[1]
    pixels = probability.new_full((), probability.numel() // branches)
    sums = sum_over_processes(probability.sum(dim=(0, 2, 3)))
    even = sum_over_processes(pixels) / branches
    return ((sums - even).abs() / even).mean()


def bilinear(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge LR images (N, 3, h, w) bilinearly to ``size``; the heads add to the result."""
    return F.interpolate(lr, size=size, mode="bilinear")
