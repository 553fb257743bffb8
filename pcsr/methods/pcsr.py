"""PCSR: each HR pixel is computed by a light or a heavy head (Jeong et al., ECCV 2024).

A backbone without its tail encodes the LR picture once. A classifier then sends every HR pixel to
one of M multilayer perceptrons, which read the nearest LR feature and the pixel's place and size.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import flops, geometry, routing
from pcsr.config.models import HeadConfig, ModelConfig
from pcsr.distributed import sum_over_processes
from pcsr.engine import on_grid, sparse
from pcsr.engine.parts import Piece
from pcsr.engine.sparse import Engine
from pcsr.errors import UserError
from pcsr.flops import Costs, Flops
from pcsr.geometry import axis
from pcsr.methods.base import (
    Exploration,
    Knob,
    MakeBackbone,
    Method,
    Ready,
    Restored,
    complete,
)
from pcsr.routing import Budget, Rule

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
PLACE = 4  # numbers that say where a pixel lies: offset and cell, each for rows and columns
BLOCK = 1 << 16  # HR pixels per block: the widest hidden layer then takes 44 MB
L1_WEIGHT = 1000.0
BALANCE_WEIGHT = 3.0


class Head(nn.Sequential):
    """A multilayer perceptron with ReLU: (n, inputs) -> (n, outputs)."""

    def __init__(self, inputs: int, config: HeadConfig, outputs: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            layers += [nn.Linear(inputs, config.width), nn.ReLU(inplace=True)]
            inputs = config.width
        super().__init__(*layers, nn.Linear(inputs, outputs))


class Queries:
    """What the heads read for each HR pixel: (feature, offset, cell), rows before columns.

    Args:
        features: (N, C, h, w).
        size: H and W of the HR pictures.
    """

    def __init__(self, features: Tensor, size: tuple[int, int]) -> None:
        channels, height, width = features.shape[1:]
        self.shape = (len(features), *size)
        self.lr_size = (height, width)
        self.features = features.permute(0, 2, 3, 1).reshape(-1, channels)
        self.rows = axis(height, size[0], features.device)
        self.columns = axis(width, size[1], features.device)

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def blocks(self, size: int = BLOCK) -> Iterator[Tensor]:
        """Yield the numbers of all HR pixels, batch then rows then columns, a block at a time."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield torch.arange(start, stop, device=self.features.device)

    def at(self, pixels: Tensor) -> Tensor:
        """Return the queries (n, C + 4) of the HR pixels with the given numbers (n,)."""
        _, hr_height, hr_width = self.shape
        lr_height, lr_width = self.lr_size
        line = pixels // hr_width  # counts through all pictures
        row, column = line % hr_height, pixels % hr_width
        nearest = (line // hr_height * lr_height + self.rows.nearest[row]) * lr_width
        feature = self.features.index_select(0, nearest + self.columns.nearest[column])
        place = feature.new_empty(len(pixels), PLACE)
        place[:, 0] = self.rows.offset[row]
        place[:, 1] = self.columns.offset[column]
        place[:, 2] = self.rows.cell
        place[:, 3] = self.columns.cell
        return torch.cat([feature, place], dim=1)


class PCSR(Method):
    """Pixel-level routing between M heads over one encoder; M = 2 in the paper.

    Heads stand cheapest first, so the last is the paper's heavy upsampler. Any scale can be asked
    for at test time; the costs and with them the routing follow the scale.
    """

    stages = ("stage0", "stage1")
    knobs = (0.0, 0.5, 1.0)
    calibrated = (-25.0, *(step / 4 for step in range(-8, 17)), 25.0)
    has_adaptive = True
    has_budget = True
    has_refinement = True

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        self.config = config = complete(config, PAPER)
        if config.width is None or config.heads is None or config.classifier is None:
            raise UserError(
                f"model: backbone '{config.backbone}' is not in the paper, so pcsr needs width, "
                "heads and classifier."
            )
        self.branches = len(config.heads)
        self.encoder = make_backbone(width=config.width, scale=None)
        inputs = config.width + PLACE
        self.heads: Sequence[Head] = nn.ModuleList(  # type: ignore[assignment]
            Head(inputs, head, 3) for head in config.heads
        )
        self.classifier = Head(inputs, config.classifier, self.branches)
        # In a tuple: a copy for speed while stage 1 is trained, no part of the weights.
        self._frozen: tuple[nn.Module, ...] = ()
        sizes = [sum(p.numel() for p in head.parameters()) for head in self.heads]
        if sizes != sorted(set(sizes)):
            raise UserError("model.heads: list them cheapest first, each larger than the last.")

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``.

        Candidates are (M, N, 3, H, W), scores the classifier's probabilities (N, M, H, W).
        """
        lr_size = (lr.shape[-2], lr.shape[-1])
        size = geometry.hr_size(lr_size, scale)
        queries = Queries(self.encoder(lr), size)
        outputs: list[list[Tensor]] = [[] for _ in self.heads]
        probabilities = []
        for pixels in queries.blocks():
            query = queries.at(pixels)
            probabilities.append(self.classifier(query).softmax(dim=1))
            for collected, head in zip(outputs, self.heads, strict=True):
                collected.append(head(query))
        base = bilinear(lr, size)
        candidates = torch.stack([picture(rows, queries.shape) + base for rows in outputs])
        return Exploration(candidates, picture(probabilities, queries.shape), lr_size)

    def route(self, scores: Tensor, knob: Knob, scale: float) -> Tensor:
        """See ``Method.route``: cost ratio with k, or ADM."""
        if isinstance(knob, int | float):
            return routing.by_cost_ratio(scores.log(), self.cost_shares(scale), knob)
        size = geometry.lr_size((scores.shape[-2], scores.shape[-1]), scale)
        return routing.decide(self.rule(knob, size, scale), scores.log())

    def compose(self, exploration: Exploration, labels: Tensor, refine: bool) -> Tensor:
        """See ``Method.compose``."""
        sr = exploration.candidates[0]
        for branch in range(1, self.branches):
            chosen = (labels == branch)[:, None]
            sr = torch.where(chosen, exploration.candidates[branch], sr)
        return routing.refine(sr, labels) if refine else sr

    def rule(self, knob: Knob, lr_size: tuple[int, int], scale: float) -> Rule:
        """Return how a knob decides pictures of a size: by k, by a budget, or adaptively."""
        if knob == "adaptive":
            return routing.Adaptive(self.branches)
        shares = tuple(self.cost_shares(scale))
        if isinstance(knob, Budget):
            costs = self.costs(lr_size, scale)
            flops = tuple(branch.engine for branch in costs.branch)
            allowed = knob.per_lr_pixel * (lr_size[0] * lr_size[1]) - costs.shared.engine
            return routing.WithinBudget(shares, 0.0, flops, allowed)
        if knob is None:
            raise UserError("pcsr: give a knob value k, or ask for the adaptive decision.")
        return routing.CostRatio(shares, knob)

    def restore(self, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Restored:
        """See ``Method.restore``: the engine's path."""
        return self.ready().restore(lr, scale, knob, refine)

    def ready(self, precision: torch.dtype = torch.float32) -> Ready:
        """See ``Method.ready``."""
        return _Ready(self, precision)

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``: encoder and classifier always, one head per HR pixel."""
        encoder, classifier, heads = self._flops
        per_lr, per_hr = sparse.flops(self.classifier, self.heads, self.encoder.width)
        (lr_height, lr_width), (height, width) = lr_size, geometry.hr_size(lr_size, scale)
        per_lr_pixel = encoder.run_as(encoder.engine + per_lr)
        shared = per_lr_pixel * (lr_height * lr_width) + classifier.run_as(0) * (height * width)
        branches = zip(heads, per_hr, strict=True)
        return Costs(shared, tuple(head.run_as(each) for head, each in branches))

    def cost_shares(self, scale: float) -> list[float]:
        """Return c_j = (encoder + head j) FLOPs over their sum (PCSR section 3.3)."""
        encoder, _, heads = self._flops
        each = [encoder.paper + head.paper * scale**2 for head in heads]
        return [cost / sum(each) for cost in each]

    @cached_property
    def _flops(self) -> tuple[Flops, Flops, list[Flops]]:
        """FLOPs of the encoder per LR pixel, and of the classifier and each head per HR pixel."""
        query = next(self.classifier.parameters()).new_zeros(1, self.encoder.width + PLACE)
        per_pixel = [flops.count(head, query) for head in (self.classifier, *self.heads)]
        return (
            flops.per_lr_pixel(self.encoder, self.encoder.inference()),
            per_pixel[0],
            per_pixel[1:],
        )

    def trained_modules(self, stage: str) -> Iterable[nn.Module]:
        """Stage 0: encoder and heavy head. Stage 1: classifier and the cheaper heads."""
        if stage == "stage0":
            return [self.encoder, self.heads[-1]]
        return [self.classifier, *self.heads[:-1]]

    def validation_labels(self, stage: str, scores: Tensor, scale: float) -> Tensor:
        """Stage 0 has no trained router: all heavy. Stage 1: the likeliest head."""
        if stage == "stage0":
            return torch.full_like(scores[:, 0], self.branches - 1, dtype=torch.long)
        return self.route(scores, 0.0, scale)

    def start_stage(self, stage: str) -> None:
        """See ``Method.start_stage``."""
        super().start_stage(stage)
        if stage == "stage1":
            self._frozen = (self.encoder.inference(),)

    def losses(self, stage: str, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """Stage 0: L1 of the heavy head. Stage 1: L1 of the soft mixture, and balance (eq. 5-7)."""
        size = (hr.shape[-2], hr.shape[-1])
        base = bilinear(lr, size)
        if stage == "stage0":
            run = AllPixels(self.encoder(lr), size)
            return {"loss": F.l1_loss(run(self.heads[-1]) + base, hr)}
        with torch.no_grad():
            run = AllPixels(self._frozen[0](lr), size)
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


class AllPixels:
    """Runs heads on all HR pixels, with gradients; fastest at whole scales.

    Args:
        features: (N, C, h, w).
        size: H and W of the HR pictures.
    """

    def __init__(self, features: Tensor, size: tuple[int, int]) -> None:
        self._queries = Queries(features, size)
        rows, columns = self._queries.rows, self._queries.columns
        self._block = (rows.block, columns.block)
        self._places = on_grid.places(rows, columns) if all(self._block) else None

    def __call__(self, head: Head) -> Tensor:
        """Return what a head gives for all HR pixels, (N, outputs, H, W)."""
        queries = self._queries
        if self._places is None:
            (pixels,) = queries.blocks(len(queries))
            return picture([head(queries.at(pixels))], queries.shape)
        values = on_grid.on_grid(head, queries.features, self._places)
        by_block = values.view(queries.shape[0], *queries.lr_size, *self._block, -1)
        return by_block.permute(0, 5, 1, 3, 2, 4).reshape(len(by_block), -1, *queries.shape[1:])


def _imbalance(probability: Tensor) -> Tensor:
    """Mean over branches of |sum_i p_ij - n/M| / (n/M), over the pixels of all processes.

    With M = 2 both branches give the same value, the paper's.

    Args:
        probability: (N, M, H, W).
    """
    branches = probability.shape[1]
    pixels = probability.new_full((), probability.numel() // branches)
    sums = sum_over_processes(probability.sum(dim=(0, 2, 3)))
    even = sum_over_processes(pixels) / branches
    return ((sums - even).abs() / even).mean()


def bilinear(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge (N, 3, h, w) to what the heads add to."""
    return F.interpolate(lr, size=size, mode="bilinear")


def picture(rows: list[Tensor], shape: tuple[int, int, int]) -> Tensor:
    """Lay values per HR pixel, [(n, C), ...] in order, out as (N, C, H, W)."""
    return torch.cat(rows).view(*shape, -1).permute(0, 3, 1, 2)


class _Ready(Ready):
    """The engine, and what the method decides by."""

    def __init__(self, method: PCSR, precision: torch.dtype) -> None:
        self._rule = method.rule
        self._engine = Engine(method.encoder, method.classifier, method.heads, precision)
        self.networks = [self._engine.encoder]  # the heads' kernels are compiled in any case

    def pieces(
        self, lr: Tensor, scale: float, knob: Knob, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Ready.pieces``."""
        rule = self._rule(knob, (lr.shape[-2], lr.shape[-1]), scale)
        return self._engine.pieces(lr, scale, rule, refine, limit)
