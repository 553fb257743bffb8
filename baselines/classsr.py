"""ClassSR: a classifier sends each tile to one of three networks (Kong et al., CVPR 2021).

The networks are the backbone at three widths, each trained on crops of one class of difficulty.
The classifier is trained afterwards, with the networks frozen.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import flops, routing
from pcsr.backbones.base import Backbone, initialise
from pcsr.config.models import ModelConfig, WidthsOptions
from pcsr.distributed import sum_over_processes
from pcsr.errors import UserError
from pcsr.flops import Flops
from pcsr.geometry import TILE
from pcsr.methods.base import Deploy, Loss, MakeBackbone, Stage
from pcsr.methods.checks import complete, knob_of
from pcsr.methods.tiled import Tiled
from pcsr.routing import OperatingPoint

PAPER = {
    "fsrcnn": {"widths": (16, 36, 56)},
    "carn": {"widths": (36, 52, 64)},
    "srresnet": {"widths": (36, 52, 64)},
}
BRANCHES = ("simple", "medium", "hard")  # and the stages that train them
# Terms of the loss of the joint stage (docs/protocol.md, section 4).
L1_WEIGHT = 1000.0
CLASS_WEIGHT = 0.5
AVERAGE_WEIGHT = 3.0


class Classifier(nn.Module):
    """ClassSR's Class-Module: (n, 3, h, w) in [0, 1] -> logits (n, branches)."""

    def __init__(self, branches: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 128, 4, stride=4), nn.LeakyReLU(0.1)]
        for _ in range(3):
            layers += [nn.Conv2d(128, 128, 1), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(128, 32, 1))
        self.last = nn.Linear(32, branches)
        initialise(self.layers.modules())

    def forward(self, lr: Tensor) -> Tensor:
        """Return the logits of images of any size; each side needs at least 4 pixels."""
        return self.last(self.layers(lr).mean(dim=(2, 3)))


class ClassSR(Tiled):
    """Three networks of rising width and a classifier on the LR tile.

    The published method takes the most likely branch, which is k = 0. The suite's k weights the
    probabilities by cost as PCSR does, so that ClassSR has a curve as well.
    """

    Options = WidthsOptions
    points = tuple(OperatingPoint(knob=k) for k in (0.0, 0.5, 1.0))
    branch_names = BRANCHES

    def __init__(self, config: ModelConfig, make_backbone: MakeBackbone) -> None:
        nn.Module.__init__(self)
        options, self.config = complete(WidthsOptions, config, PAPER)
        if len(options.widths) != len(BRANCHES):
            raise UserError(f"model.options.widths: give three widths of {config.backbone}.")
        self.branches = len(options.widths)
        self.networks: Sequence[Backbone] = nn.ModuleList(  # type: ignore[assignment]
            make_backbone(width=width, scale=config.scale) for width in options.widths
        )
        self.classifier = Classifier(self.branches)
        self.stages = (
            *(self._stage_of(branch) for branch in range(self.branches)),
            Stage("joint", [self.classifier], self._joint),
        )

    def score(self, tiles: Tensor) -> Tensor:
        """Return the log-probability of each branch, (n, M).

        Not probabilities, which would underflow in float32: the released classifiers' logits differ
        by hundreds.
        """
        return self.classifier(tiles).log_softmax(dim=1)

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """See ``Tiled.upscale``."""
        return self.networks[branch](lr)

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """See ``Method.route``: argmax_j p_j / c_j^k, c_j network j's share of all FLOPs."""
        knob = knob_of(point, "classsr", "k; 0 is the published method")
        costs = self.branch_costs
        return routing.by_cost_ratio(scores, [cost / sum(costs) for cost in costs], knob)

    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """See ``Tiled.tile_costs``: the classifier, and each network."""
        tile = next(self.classifier.parameters()).new_zeros(1, 3, TILE, TILE)
        counted = (flops.per_image(network, network.whole_image) for network in self.networks)
        networks = tuple(of_size((TILE, TILE)) for of_size in counted)
        return flops.count(self.classifier, tile), networks

    def _stage_of(self, branch: int) -> Stage:
        """Return the training stage of one network: L1 loss, validated on all tiles."""

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            return {"loss": F.l1_loss(self.upscale(branch, lr), hr)}

        return Stage(BRANCHES[branch], [self.networks[branch]], lambda deploy: loss, branch)

    def _joint(self, deploy: Deploy) -> Loss:
        """Return L1 of the soft mixture plus Class-Loss and Average-Loss; networks are frozen."""
        networks = [deploy(network) for network in self.networks]

        def loss(lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
            with torch.no_grad():
                outputs = torch.stack([network(lr) for network in networks], dim=1)
            probability = self.score(lr).exp()
            l1 = F.l1_loss((probability[..., None, None, None] * outputs).sum(dim=1), hr)
            class_term, average_term = class_loss(probability), average_loss(probability)
            total = L1_WEIGHT * l1 + CLASS_WEIGHT * class_term + AVERAGE_WEIGHT * average_term
            return {"loss": total, "l1": l1, "class": class_term, "average": average_term}

        return loss


def class_loss(probability: Tensor) -> Tensor:
    """Return the Class-Loss: the mean over crops of (M - 1) - sum_{j<k} |p_j - p_k|.

    It is 0 if every crop has one branch of probability 1.

    Args:
        probability: (B, M).
    """
    branches = probability.shape[1]
    pairs = combinations(range(branches), 2)
    distances = torch.stack([(probability[:, j] - probability[:, k]).abs() for j, k in pairs])
    return (branches - 1) - distances.sum(dim=0).mean()


def average_loss(probability: Tensor) -> Tensor:
    """Return the Average-Loss: the sum over branches of |sum_i p_ij - B/M| / (4B/M).

    It is 0 if all branches are used equally. The inner sums run over the B crops of all processes.

    Args:
        probability: (B, M).
    """
    sums = sum_over_processes(probability.sum(dim=0))
    patches = sum_over_processes(probability.new_full((), len(probability)))
    even = patches / probability.shape[1]
    return ((sums - even).abs() / (4 * even)).sum()
