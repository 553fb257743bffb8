"""Methods as graphs of plain operations, which ``pcsr export`` writes for other programs to run.

A graph computes the same as the runners, for images of any size. It includes PCSR's decisions:
each head but the cheapest gathers the pixels that are routed to it, and scatters their colours.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.engine.cpu.strips import place_terms
from pcsr.engine.deploy import folded
from pcsr.errors import UserError
from pcsr.geometry import Axis, axis, hr_size
from pcsr.methods.base import Method
from pcsr.methods.checks import require_scale
from pcsr.methods.heads import Head
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PCSR, bilinear


def graph(method: Method, scale: float, refine: bool) -> "Whole | Routed":
    """Return a method as a graph, in eval mode on the CPU; it shares weights with the method.

    Args:
        method: an original or PCSR.
        scale: HR size / LR size.
        refine: whether pixels of a cheaper head that touch a more expensive one are smoothed.

    Raises:
        UserError: the method cannot be a graph, or does not support the scale.
    """
    if isinstance(method, Original):
        return Whole(method, require_scale(method.config, scale)).eval()
    if isinstance(method, PCSR):
        return Routed(method, int(scale) if scale == int(scale) else scale, refine).eval()
    raise UserError(
        f"{method.config.method} cannot be exported, because its {method.unit}s are cut, rounded "
        "and averaged outside of its networks; export the original of its backbone, or a pcsr."
    )


class Whole(nn.Module):
    """An original, for images of any size: LR (N, 3, h, w) in [0, 1] -> SR (N, 3, H, W) in [0, 1].

    Attributes:
        inputs: names of the inputs.
        backbone: the network, BatchNorm folded.
    """

    inputs = ("lr",)

    def __init__(self, method: Original, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.backbone = folded(method.network)

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve."""
        return self.backbone(lr).clamp(0, 1)


class Routed(nn.Module):
    """PCSR at one scale: LR (N, 3, h, w) in [0, 1] and k () -> SR (N, 3, H, W) in [0, 1].

    The cheapest head runs on all pixels, every other head on those that are routed to it. First
    layers are computed per LR pixel.

    Attributes:
        inputs: names of the inputs.
        backbone: the encoder, BatchNorm folded.
    """

    inputs = ("lr", "k")
    log_costs: Tensor

    def __init__(self, method: PCSR, scale: float, refine: bool) -> None:
        super().__init__()
        self.scale = scale
        self.backbone = folded(method.encoder)
        self._classifier = method.classifier
        self._heads = method.heads
        self._refine = refine
        costs = torch.tensor(method.cost_shares(scale), dtype=torch.float64)
        self.register_buffer("log_costs", costs.log().float())

    def forward(self, lr: Tensor, k: Tensor) -> Tensor:
        """Super-resolve; see ``routing.by_cost_ratio`` for k."""
        lr_size = (lr.shape[-2], lr.shape[-1])
        size = hr_size(lr_size, self.scale)
        rows, columns = axis(lr_size[0], size[0]), axis(lr_size[1], size[1])
        features = self.backbone(lr).permute(0, 2, 3, 1)
        values = _everywhere(self._classifier, features, rows, columns) - k * self.log_costs
        labels = values.argmax(dim=-1)  # of equal ones the first, which is the cheapest
        colours = _everywhere(self._heads[0], features, rows, columns)
        for branch, head in enumerate(self._heads[1:], start=1):
            pixels = (labels == branch).nonzero().unbind(dim=1)
            colours = colours.index_put(pixels, _at(pixels, head, features, rows, columns))
        sr = colours.permute(0, 3, 1, 2) + bilinear(lr, size)
        return (_refined(sr, labels, size) if self._refine else sr).clamp(0, 1)


def _everywhere(head: Head, features: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Run a head on all HR pixels: features (N, h, w, C) -> (N, H, W, outputs)."""
    split = head.split()
    terms = place_terms(split, rows, columns)
    by_row = F.linear(features, split.of_feature).index_select(1, rows.nearest)
    wide = (by_row + terms.rows.T[:, None]).index_select(2, columns.nearest)
    return _rest(split.rest, wide + terms.columns.T)


def _at(
    pixels: Sequence[Tensor], head: Head, features: Tensor, rows: Axis, columns: Axis
) -> Tensor:
    """Run a head on n HR pixels, given as indices (n,) of image, row and column: (n, outputs)."""
    image, row, column = pixels
    split = head.split()
    terms = place_terms(split, rows, columns)
    by_feature = F.linear(features, split.of_feature)
    gathered = by_feature[image, rows.nearest[row], columns.nearest[column]]
    return _rest(split.rest, gathered + terms.rows.T[row] + terms.columns.T[column])


def _rest(layers: Sequence[nn.Linear], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x.relu())
    return x


def _refined(sr: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Do ``routing.refine`` by pooling, for SR (N, 3, H, W) and labels (N, H, W)."""
    level = labels[:, None].float()
    seam = F.max_pool2d(level, 3, stride=1, padding=1) > level
    smooth = F.avg_pool2d(sr, 3, stride=1, padding=1)
    return torch.where(seam & (_inner(size[0])[:, None] & _inner(size[1])), smooth, sr)


def _inner(length: int) -> Tensor:
    """Tell which pixels of an axis are not at its ends, (length,)."""
    index = torch.arange(length)
    return (index > 0) & (index < length - 1)
