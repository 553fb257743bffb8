"""ENAF: each tile leaves one network at one of several exits (WACV 2025).

An estimator predicts the PSNR of every exit from the LR tile, which takes the exit with the best
trade-off of PSNR and cost. Branch 0 is bicubic interpolation, the last one the whole network.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pcsr import flops, metrics
from pcsr.baselines.arm import EDGE_FLOPS, edge_score
from pcsr.baselines.classsr import Classifier
from pcsr.baselines.exits import EXITS, EarlyExits
from pcsr.config.models import ModelConfig, WidthsOptions
from pcsr.flops import Flops
from pcsr.geometry import TILE
from pcsr.methods.base import Deploy, Loss, MakeBackbone, Stage
from pcsr.methods.checks import complete, knob_of
from pcsr.methods.tiled import Tiled
from pcsr.routing import OperatingPoint

PAPER = {
    "fsrcnn": {"widths": (16, 36, 56)},
    "carn": {"widths": (16, 32, 64)},
    "srresnet": {"widths": (16, 32, 64)},
}
BRANCHES = EXITS + 2  # with bicubic interpolation and the whole network
FLAT = 10.0  # largest edge score of a flat tile, on which bicubic interpolation gets the bonus
BONUS = 1.0  # dB added to its predicted PSNR


Share = Annotated[float, Field(ge=0, le=1)]


class ENAFOptions(WidthsOptions):
    """Options of ENAF; ``widths`` are those of the exits, and last that of the network."""

    cost_shares: tuple[Share, ...] | None = Field(
        default=None,
        min_length=BRANCHES,
        max_length=BRANCHES,
        description="cost of each branch, bicubic first, as a share of the whole network's, for "
        "the router; default: paper FLOPs as counted",
    )
    as_released: bool = Field(
        default=False,
        description="exits return the whole network's output, as the released code does on CARN",
    )


class ENAF(Tiled):
    """Branches are bicubic interpolation, two exits of a network, and the whole network.

    A tile takes argmax_j(PSNR_j - eta c_j), with its predicted PSNR in dB and the branch's share
    c_j of the network's cost. The knob is eta: the dB that the whole network has to gain, so larger
    values save more.
    """

    Options = ENAFOptions
    free_per_unit = EDGE_FLOPS
    points = tuple(OperatingPoint(knob=k) for k in (0.5, 0.0, 0.15, 0.3, 0.75, 1.0, 1.5, 2.0, 5.0))
    branches = BRANCHES
    branch_names = ("bicubic", *(f"exit {number + 1}" for number in range(EXITS)), "full network")

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        self._options, self.config = complete(ENAFOptions, config, PAPER)
        self.network = EarlyExits(
            make_backbone, config.backbone, self._options.widths, config.scale
        )
        self.estimator = Classifier(BRANCHES)
        # The published recipe trains exits on a trained network, which it goes on to train at a
        # learning rate of 1e-7; here the network is frozen.
        whole = BRANCHES - 1
        self.stages = (
            Stage("network", [self.network.network], self._network_loss, branch=whole),
            Stage("exits", [self.network.exits], self._exits_loss, branch=whole - 1),
            Stage("estimator", [self.estimator], self._estimator_loss),
        )

    def score(self, tiles: Tensor) -> Tensor:
        """Return the predicted PSNR in dB of each branch, (n, M); flat tiles favour bicubic."""
        predicted: Tensor = -self.estimator(tiles)  # it is trained on negative PSNR
        predicted[:, 0] += torch.where(edge_score(tiles) <= FLAT, BONUS, 0.0).to(predicted)
        return predicted

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """See ``Tiled.upscale``: bicubic (kernel a = -0.75), the exits, the whole network."""
        if branch == 0:
            return F.interpolate(lr, scale_factor=self.config.scale, mode="bicubic")
        return self.network(lr, EXITS if self._options.as_released else branch - 1)

    def outputs(self, lr: Tensor) -> Iterator[Tensor]:
        """See ``Tiled.outputs``: the branches share the layers before their exits."""
        yield self.upscale(0, lr)
        exits = list(self.network.outputs(lr))
        yield from exits[-1:] * len(exits) if self._options.as_released else exits

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """See ``Method.route``: argmax_j(PSNR_j - eta c_j), eta not negative."""
        eta = knob_of(point, "enaf", "eta, in dB for the cost of the whole network", least=0)
        shares = self._options.cost_shares
        if shares is None:
            costs = self.branch_costs
            shares = tuple(cost / costs[-1] for cost in costs)
        return (scores - eta * scores.new_tensor(shares).view(1, -1, 1, 1)).argmax(dim=1)

    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """See ``Tiled.tile_costs``: the estimator, and each exit; bicubic counts as free.

        With ``as_released``, the whole network is run and the exit is counted.
        """
        tile = next(self.estimator.parameters()).new_zeros(1, 3, TILE, TILE)
        exits = [flops.count(self.network, tile, number) for number in range(EXITS + 1)]
        if self._options.as_released:
            exits = [cost.run_as(exits[-1].engine) for cost in exits]
        return flops.count(self.estimator, tile), (Flops(), *exits)

    def _network_loss(self, deploy: Deploy) -> Loss:
        """Return the L1 loss of the whole network, as for an original."""
        return lambda lr, hr, drawn: {"loss": F.l1_loss(self.network(lr, EXITS), hr)}

    def _exits_loss(self, deploy: Deploy) -> Loss:
        """Return the sum of the exits' L1 losses."""

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            exits = islice(self.network.outputs(lr), EXITS)
            return {"loss": torch.stack([F.l1_loss(sr, hr) for sr in exits]).sum()}

        return loss

    def _estimator_loss(self, deploy: Deploy) -> Loss:
        """Return the mean absolute error of the estimates of each branch's negative PSNR.

        PSNR is that of the crop, not rounded to 8 bit, without its border. It is infinite for an
        exact branch, which does not count.
        """
        shave = metrics.shave_for(self.config.scale)
        inside = (..., slice(shave, -shave), slice(shave, -shave))

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            with torch.no_grad():
                branches = (self.upscale(0, lr), *self.network.outputs(lr))
                apart = torch.stack([(sr - hr)[inside] for sr in branches], dim=1)
                error = apart.square().mean(dim=(2, 3, 4))
            finite = error > 0
            negative_psnr = 10 * torch.log10(error.where(finite, 1.0))
            distance = (self.estimator(lr) - negative_psnr).abs() * finite
            return {"loss": (distance.sum(dim=0) / finite.sum(dim=0).clamp_min(1)).mean()}

        return loss
