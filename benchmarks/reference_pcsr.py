"""PCSR by the steps of the published code, the reference for the engine's time and output."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr import geometry
from pcsr.methods.heads import image
from pcsr.methods.pcsr import PCSR
from pcsr.routing import OperatingPoint

QUERIES = 300_000  # HR pixels per batch in the published code


def restore(method: PCSR, lr: Tensor, scale: float, point: OperatingPoint) -> Tensor:
    """Super-resolve with one query per HR pixel.

    Queries are sampled for the classifier, and again class by class for the heads. The bilinear
    image is sampled pixel by pixel, and refinement unfolds every pixel's neighbourhood.

    Args:
        method: the model.
        lr: (1, 3, h, w).
        scale: HR size / LR size.
        point: operating point.

    Returns:
        SR (1, 3, H, W), not clipped.
    """
    height, width = geometry.hr_size((lr.shape[-2], lr.shape[-1]), scale)
    features = method.encoder(lr)
    places = _centres(height, width, lr.device).split(QUERIES)
    cell = lr.new_tensor([2 / height, 2 / width])
    scores = [method.classifier(_queries(features, at, cell)).softmax(dim=1) for at in places]
    labels = method.route(image(scores, (1, height, width)), point, scale)
    colours = []
    for at, branches in zip(places, labels.flatten().split(QUERIES), strict=True):
        colours.append(lr.new_zeros(len(at), 3))
        for branch, head in enumerate(method.heads):
            pixels = (branches == branch).nonzero()[:, 0]
            if len(pixels):
                colours[-1][pixels] = head(_queries(features, at[pixels], cell))
        colours[-1] += _sample(lr, at, "bilinear")
    sr = image(colours, (1, height, width))
    return _unfolded(sr, labels[:, None]) if point.refine else sr


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """Return (row, column) of all pixel centres, (height * width, 2) in [-1, 1]."""
    sides = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)


def _sample(values: Tensor, at: Tensor, mode: str) -> Tensor:
    """Sample (1, C, h, w) at (row, column) places (n, 2); returns (n, C)."""
    grid = at.flip(-1)[None, None]
    return F.grid_sample(values, grid, mode, "border", align_corners=False)[0, :, 0].T


def _queries(features: Tensor, at: Tensor, cell: Tensor) -> Tensor:
    """Return feature, offset and cell (n, C + 4) for places (n, 2)."""
    height, width = features.shape[-2:]
    centres = _centres(height, width, at.device).T.reshape(1, 2, height, width)
    side = at.new_tensor([height, width])
    offset = (at - _sample(centres, at, "nearest")) * side
    return torch.cat([_sample(features, at, "nearest"), offset, (cell * side).expand_as(at)], 1)


def _unfolded(sr: Tensor, labels: Tensor) -> Tensor:
    """Refine SR (1, 3, H, W) by unfolding neighbourhoods; ``labels`` is (1, 1, H, W)."""

    def neighbours(values: Tensor) -> Tensor:
        padded = F.pad(values.float(), (1, 1, 1, 1), mode="replicate")
        return F.unfold(padded, 3).view(1, values.shape[1], 9, *values.shape[-2:])

    seam = neighbours(labels).amax(dim=2) > labels
    for ring in (0, -1):
        seam[..., ring, :] = seam[..., ring] = False
    return torch.where(seam, neighbours(sr).mean(dim=2), sr)
