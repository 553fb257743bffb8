"""An oracle that decides with the HR image: an upper bound of what routing can save.

Each unit takes the branch with the least sum of error and price times cost. A router has to guess
the error. For tiles the bound is tight; for pixels it is loose, because the oracle also picks a
branch that is better by chance.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.config.models import ProtocolConfig
from pcsr.evaluation.measure import Pair, Row, everywhere, explore, rows_of
from pcsr.flops import Flops
from pcsr.geometry import TILE
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Exploration, Method
from pcsr.methods.original import Original
from pcsr.methods.tiled import Tiled
from pcsr.metrics import psnr_rgb, shave_for
from pcsr.routing import OperatingPoint

# In dB per full cost, like ENAF's eta. The last takes the cheapest branch.
PRICES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 1000.0)
FULL, ROUTER, ORACLE = "full", "its router", "an oracle"


class Choice(Tiled):
    """Bicubic interpolation or one of several originals for each tile, cheapest first.

    It has no router; an oracle shows what the best one could save.
    """

    points = (OperatingPoint(),)

    def __init__(self, originals: Sequence[Original]) -> None:
        nn.Module.__init__(self)
        tile = (TILE, TILE)
        scale = originals[0].config.scale
        ordered = sorted(originals, key=lambda one: one.costs(tile, scale).branch[0].engine)
        self.networks = nn.ModuleList(one.network for one in ordered)
        self.branches = 1 + len(ordered)
        self.stages = ()
        names = ["bicubic", *(one.config.backbone for one in ordered)]
        self.config = ordered[-1].config.model_copy(update={"method": " or ".join(names)})
        self._costs = tuple(one.costs(tile, scale).branch[0] for one in ordered)

    def score(self, tiles: Tensor) -> Tensor:
        """Return zeros (n, M): nothing is known before HR is seen."""
        return tiles.new_zeros(len(tiles), self.branches)

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """See ``Tiled.upscale``; bicubic as ENAF's."""
        if branch == 0:
            return F.interpolate(lr, scale_factor=self.config.scale, mode="bicubic")
        sr: Tensor = self.networks[branch - 1](lr)
        return sr

    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """See ``Tiled.tile_costs``; bicubic counts as free."""
        return Flops(), (Flops(), *self._costs)

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """Take the most expensive branch: there is no router."""
        return torch.full_like(scores[:, 0], self.branches - 1, dtype=torch.long)


def errors(method: Method, pair: Pair, exploration: Exploration) -> Tensor:
    """Return the squared error of every branch in every unit, (M, units), float64.

    In 8-bit levels, summed over a unit's pixels and channels, without the border that PSNR leaves
    out. Where tiles overlap, a pixel belongs to the nearest one.
    """
    scale, shave = method.config.scale, shave_for(method.config.scale)
    numbers = torch.arange(exploration.scores[:, 0].numel()).view_as(exploration.scores[:, 0])
    unit = method.pixel_labels(numbers, exploration.lr_size, scale)[0]
    unit = unit.expand(pair.hr.shape[:2])[shave:-shave, shave:-shave].flatten().cpu()
    found = []
    for branch in range(method.branches):
        labels = everywhere(exploration, branch)
        sr = to_uint8(method.compose(exploration, labels, OperatingPoint()))
        apart = torch.from_numpy(sr.astype(np.float64) - pair.hr)[shave:-shave, shave:-shave]
        of_pixel = apart.square().sum(dim=-1).flatten()
        found.append(torch.bincount(unit, of_pixel, minlength=numbers.numel()))
    return torch.stack(found)


def oracle(error: Tensor, cost: Sequence[float], price: float) -> Tensor:
    """Choose the branch of each unit by its true error: (M, units) -> (units,) int64.

    Minimises, to first order, the loss of PSNR in dB plus ``price`` times the cost as a share of
    the full computation's. Ties go to the cheapest branch.

    Args:
        error: squared error of every branch in every unit.
        cost: FLOPs of a unit in each branch, cheapest first.
        price: dB that the full cost is worth.
    """
    whole = error[-1].sum().clamp_min(1.0)
    loss = 10 / np.log(10) * error / whole
    shares = torch.tensor(cost, dtype=error.dtype)[:, None] / (cost[-1] * error.shape[1])
    return (loss + price * shares).argmin(dim=0)


@torch.no_grad()
def decided(method: Method, pair: Pair) -> Iterator[Row]:
    """Yield the rows of a method on an image: in full, by its router, and by an oracle (``by``)."""
    scale = method.config.scale
    exploration, _ = explore(method, pair, scale)
    scores = exploration.scores
    decisions = {FULL: [(OperatingPoint(), everywhere(exploration, method.branches - 1))]}
    if method.knobs:
        points = [OperatingPoint(knob=k) for k in method.fine_knobs or method.knobs]
        decisions[ROUTER] = [(point, method.route(scores, point, scale)) for point in points]
    if method.branches > 1:
        error = errors(method, pair, exploration)
        cost = [branch.engine for branch in method.costs(exploration.lr_size, scale).branch]
        decisions[ORACLE] = [
            (
                OperatingPoint(knob=price),
                oracle(error, cost, price).view_as(scores[:, 0]).to(scores.device),
            )
            for price in PRICES
        ]
    unrefined = [ProtocolConfig(refine=False)]
    for by, made in decisions.items():
        rows = rows_of(method, pair, scale, exploration, made, unrefined, {"psnr_rgb": psnr_rgb})
        yield from ({**row, "by": by} for row in rows)
