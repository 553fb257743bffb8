"""ARM: each tile runs at a width of one network, chosen by its edges (Chen et al., ECCV 2022).

A table built from validation tiles predicts the PSNR of each width from a tile's edge score. The
tile takes the width with the best trade-off of PSNR and cost. Branch 0 is bicubic interpolation.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import metrics
from pcsr.baselines.slimmable import Slimmable
from pcsr.config.models import ModelConfig, WidthsOptions
from pcsr.errors import UserError
from pcsr.flops import Flops
from pcsr.geometry import TILE, Tiles
from pcsr.images.levels import levels
from pcsr.methods.base import Deploy, Loss, MakeBackbone, Stage
from pcsr.methods.checks import complete, knob_of
from pcsr.methods.tiled import Tabulated, Tiled, batches
from pcsr.routing import OperatingPoint

PAPER = {
    "fsrcnn": {"widths": (16, 36, 56)},
    "carn": {"widths": (36, 52, 64)},
    "srresnet": {"widths": (36, 52, 64)},
}
BINS = 30  # of edge scores, as in the release
PSNR_OF_EQUAL = 100.0  # dB of an exact tile in a mean; a single wrong level gives at most 95 dB
# BT.601 luma in units of 1/2^14 and the 3x3 Laplacian, as in the image library that the field uses.
GREY = (4899, 9617, 1868)
LAPLACIAN = ((2, 0, 2), (0, -8, 0), (2, 0, 2))
EDGE_FLOPS = 2 * 9 * TILE**2  # the Laplacian of a tile, which is no network


def edge_score(tiles: Tensor) -> Tensor:
    """Return the mean absolute value of the Laplacian over each tile (protocol section 5).

    The Laplacian is taken of the 8-bit grey tile and saturates at 255. Borders are reflected
    without repeating the border pixel.

    Args:
        tiles: (n, 3, h, w) in [0, 1]; rounded to 8 bit here.

    Returns:
        (n,) float64, 0 to 255.
    """
    weights = torch.tensor(GREY, device=tiles.device).view(1, 3, 1, 1)
    grey = ((levels(tiles) * weights).sum(dim=1, keepdim=True) + (1 << 13)) >> 14
    kernel = tiles.new_tensor(LAPLACIAN)[None, None]
    edges = F.conv2d(F.pad(grey.to(tiles), (1, 1, 1, 1), mode="reflect"), kernel)
    return edges.abs().clamp_max(255).double().mean(dim=(1, 2, 3))


class ARM(Tiled, Tabulated):
    """Branches are bicubic interpolation and the widths of one network.

    A tile takes argmax_j(eta PSNR_j - cost_j); the knob is eta as a multiple of the full width's
    cost. A knob of 2 pays the cost of two full networks for one dB, so larger values spend more.
    """

    Options = WidthsOptions
    free_per_unit = EDGE_FLOPS
    points = tuple(OperatingPoint(knob=k) for k in (2.0, 0.0, 0.25, 0.5, 1.0, 1.5, 3.0, 5.0))
    edges: Tensor
    psnr: Tensor

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        options, self.config = complete(WidthsOptions, config, PAPER)
        self.branches = 1 + len(options.widths)
        self.branch_names = ("bicubic", *(f"width {width}" for width in options.widths))
        self.network = Slimmable(make_backbone, options.widths, config.scale)
        self.stages = (
            # Validated at full width, because there is no table until training ends.
            Stage("train", [self.network], self._loss, branch=self.branches - 1, draw=self._draw),
        )
        # Centres of the bins of edge scores, and the mean PSNR in dB of each branch in each bin.
        self.register_buffer("edges", torch.zeros(BINS, dtype=torch.float64))
        self.register_buffer("psnr", torch.zeros(self.branches, BINS, dtype=torch.float64))

    def score(self, tiles: Tensor) -> Tensor:
        """Return the PSNR in dB that the table predicts for each branch, (n, M)."""
        nearest = (edge_score(tiles)[:, None] - self.edges).abs().argmin(dim=1)
        return self.psnr.T[nearest]

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """See ``Tiled.upscale``: branch 0 is bicubic (kernel a = -0.75), then come the widths."""
        if branch == 0:
            return F.interpolate(lr, scale_factor=self.config.scale, mode="bicubic")
        return self.network(lr, branch - 1)

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """See ``Method.route``: argmax_j(eta PSNR_j - cost_j), in paper FLOPs.

        Raises:
            UserError: the knob is missing or negative, or there is no table yet.
        """
        knob = knob_of(point, "arm", "eta, as a multiple of the full width's cost", least=0)
        if not self.psnr.any():
            raise UserError(
                "arm: these weights have no PSNR table yet; build it with `pcsr tabulate`."
            )
        costs = scores.new_tensor(self.branch_costs)
        return (knob * scores - (costs / costs[-1]).view(1, -1, 1, 1)).argmax(dim=1)

    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """See ``Tiled.tile_costs``: edge score and bicubic interpolation count as free."""
        return Flops(), (Flops(), *(cost * TILE**2 for cost in self.network.costs()))

    def _draw(self, random: np.random.Generator) -> int:
        """Draw a width, with probability proportional to its squared cost."""
        weight = np.array(self.branch_costs[1:]) ** 2
        return int(random.choice(len(weight), p=weight / weight.sum()))

    def _loss(self, deploy: Deploy) -> Loss:
        """Return the L1 loss at the width that was drawn, or at full width if none was."""

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            width = self.branches - 2 if drawn is None else drawn
            return {"loss": F.l1_loss(self.network(lr, width), hr)}

        return loss

    @torch.no_grad()
    def tabulate(self, images: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, Any]:
        """See ``Tabulated.tabulate``: mean PSNR of each branch over the tiles in each bin.

        The 30 bins divide the range from 0 to the largest edge score evenly. A bin without tiles is
        interpolated linearly from its neighbours. Recorded are the numbers of tiles.
        """
        scale, shave = int(self.config.scale), metrics.shave_for(self.config.scale)
        scores: list[Tensor] = []
        psnrs: list[Tensor] = []
        for lr, hr in images:
            tiles = Tiles(1, (lr.shape[-2], lr.shape[-1]))
            for numbers in batches(tiles, lr.device):
                cut, target = tiles.cut(lr, numbers), levels(tiles.cut(hr, numbers, scale))
                scores.append(edge_score(cut))
                each = [
                    metrics.psnr_rgb_each(levels(sr), target, shave) for sr in self.outputs(cut)
                ]
                psnrs.append(torch.stack(each, dim=1).clamp_max(PSNR_OF_EQUAL))
        edges, psnr = torch.cat(scores).cpu().numpy(), torch.cat(psnrs).cpu().numpy()
        width = max(edges.max(), 1.0) / BINS
        centres = (np.arange(BINS) + 0.5) * width
        bins = np.minimum((edges / width).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        used = counts > 0
        for branch, values in enumerate(psnr.T):
            sums = np.bincount(bins, values, minlength=BINS)
            means = np.interp(centres, centres[used], sums[used] / counts[used])
            self.psnr[branch] = torch.from_numpy(means)
        self.edges.copy_(torch.from_numpy(centres))
        return {"tiles": len(edges), "tiles_per_bin": counts.tolist()}
