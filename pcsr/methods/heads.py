"""Heads: multilayer perceptrons over (LR feature, place of an HR pixel).

The first layer reads [f; r; c]: the nearest LR feature, the pixel's offset, its cell. It is linear,
so it is the sum of a term per LR pixel and a term per place. On a regular grid all LR pixels have
the same places, and at x4 the first layer costs a sixteenth.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.config.models import HeadConfig
from pcsr.geometry import Axis

PLACE = 4  # numbers that say where a pixel lies: offset and cell, each for rows and columns

#: (layers after the first, (n, width) per LR pixel, (p, width) per place) -> (n, p, outputs).
Finish = Callable[[Sequence[nn.Linear], Tensor, Tensor], Tensor]


def finish(layers: Sequence[nn.Linear], by_feature: Tensor, by_place: Tensor) -> Tensor:
    """Run the layers after the first on all pixels of a regular grid: see ``Finish``."""
    x = by_feature[:, None] + by_place
    for layer in layers:
        x = layer(x.relu())
    return x


class Head(nn.Sequential):
    """A multilayer perceptron with ReLU: (n, inputs) -> (n, outputs)."""

    def __init__(self, inputs: int, config: HeadConfig, outputs: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            layers += [nn.Linear(inputs, config.width), nn.ReLU(inplace=True)]
            inputs = config.width
        super().__init__(*layers, nn.Linear(inputs, outputs))
        self.finish: Finish = finish  # the engine may put a faster one in its place

    def on_grid(self, features: Tensor, places: Tensor) -> Tensor:
        """Run on all HR pixels of a regular grid, with gradients.

        Args:
            features: (n, C), one row per LR pixel.
            places: (p, 4) of the HR pixels in an LR pixel, as returned by ``places``.

        Returns:
            (n, p, outputs).
        """
        first, *rest = [layer for layer in self if isinstance(layer, nn.Linear)]
        of_feature, of_place = first.weight.split((features.shape[1], places.shape[1]), dim=1)
        by_feature = F.linear(features, of_feature)
        by_place = F.linear(places, of_place, first.bias)
        return self.finish(rest, by_feature, by_place)


def places(rows: Axis, columns: Axis) -> Tensor:
    """Return where the HR pixels of an LR pixel lie; it is the same for every LR pixel.

    Args:
        rows, columns: axes of a regular grid, whose ``block`` is not 0.

    Returns:
        (rows.block * columns.block, 4): row offset, column offset, row cell, column cell.
    """
    by_row, by_column = rows.offset[: rows.block], columns.offset[: columns.block]
    offsets = torch.cartesian_prod(by_row, by_column)
    cells = [offsets.new_full((len(offsets), 1), cell) for cell in (rows.cell, columns.cell)]
    return torch.cat([offsets, *cells], dim=1)


def executed_flops(
    classifier: nn.Sequential, heads: Sequence[nn.Sequential], channels: int
) -> tuple[int, tuple[int, ...]]:
    """Return the FLOPs that the engine executes after the encoder; biases are free as elsewhere.

    Args:
        classifier: (n, channels + 4) -> (n, M).
        heads: M of them, (n, channels + 4) -> (n, 3), cheapest first.
        channels: channels of the features.

    Returns:
        FLOPs per LR pixel, for the features' share of all first layers; and FLOPs per HR pixel of
        each branch, which include the classifier and the cheapest head.
    """
    linear = [
        [layer for layer in module if isinstance(layer, nn.Linear)]
        for module in (classifier, *heads)
    ]
    per_lr_pixel = 2 * channels * sum(layers[0].out_features for layers in linear)
    of_classifier, of_cheapest, *of_others = (
        2 * sum(layer.in_features * layer.out_features for layer in layers[1:]) for layers in linear
    )
    everywhere = of_classifier + of_cheapest
    return per_lr_pixel, (everywhere, *(everywhere + of_other for of_other in of_others))
