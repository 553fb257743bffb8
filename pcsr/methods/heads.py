"""Heads: multilayer perceptrons over (LR feature, place of an HR pixel).

The first layer reads [f; r; c]: the nearest LR feature, the pixel's offset and its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b), so it is split into a term per LR pixel and a
term per place. On a regular grid all LR pixels have the same places, and at x4 the first layer
costs a sixteenth. Only ``Head.split`` does this; exploring, training and the engine use it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.config.models import HeadConfig
from pcsr.geometry import Axis, axis

PLACE = 4  # numbers that say where a pixel lies: offset and cell, each for rows and columns

#: (layers after the first, (n, width) per LR pixel, (p, width) per place) -> (n, p, outputs).
Finish = Callable[[Sequence[nn.Linear], Tensor, Tensor], Tensor]


def finish(layers: Sequence[nn.Linear], by_feature: Tensor, by_place: Tensor) -> Tensor:
    """Run the layers after the first on all pixels of a regular grid: see ``Finish``."""
    x = by_feature[:, None] + by_place
    for layer in layers:
        x = layer(x.relu())
    return x


class Split(NamedTuple):
    """A head with its first layer split into a term per LR pixel and a term per place.

    Attributes:
        of_feature: (width, C), weights for the feature.
        of_place: (width, 4), weights for row offset, column offset, row cell and column cell.
        bias: (width,).
        rest: the layers after the first, with ReLU before each.
    """

    of_feature: Tensor
    of_place: Tensor
    bias: Tensor
    rest: list[nn.Linear]


class Head(nn.Sequential):
    """A multilayer perceptron with ReLU: (n, C + 4) -> (n, outputs).

    Args:
        channels: C, channels of the features.
        config: hidden layers.
        outputs: 3 for a head, M for the classifier.
    """

    def __init__(self, channels: int, config: HeadConfig, outputs: int) -> None:
        layers: list[nn.Module] = []
        inputs = channels + PLACE
        for _ in range(config.depth):
            layers += [nn.Linear(inputs, config.width), nn.ReLU(inplace=True)]
            inputs = config.width
        super().__init__(*layers, nn.Linear(inputs, outputs))
        self.channels = channels
        self.finish: Finish = finish  # the engine may put a faster one in its place

    @property
    def layers(self) -> list[nn.Linear]:
        """The linear layers, between which there is a ReLU."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]

    def split(self) -> Split:
        """Split the first layer; the weights are views, with gradients."""
        first, *rest = self.layers
        of_feature, of_place = first.weight.split((self.channels, PLACE), dim=1)
        return Split(of_feature, of_place, first.bias, rest)

    def on_grid(self, features: Tensor, places: Tensor) -> Tensor:
        """Run on all HR pixels of a regular grid, with gradients: (n, p, outputs).

        Args:
            features: (n, C), one row per LR pixel.
            places: (p, 4) of the HR pixels in an LR pixel, as returned by ``places``.
        """
        of_feature, of_place, bias, rest = self.split()
        return self.finish(rest, F.linear(features, of_feature), F.linear(places, of_place, bias))


class AllPixels:
    """Run heads on all HR pixels, with gradients; fastest at integer scales.

    Args:
        features: (N, C, h, w).
        size: H and W of the HR images.
        block: HR pixels to run at a time, which bounds memory; by default all.
    """

    def __init__(self, features: Tensor, size: tuple[int, int], block: int | None = None) -> None:
        count, channels, height, width = features.shape
        self._shape = (count, *size)
        self._lr_size = (height, width)
        # In float32 under autocast, too: a feature's gradient is a sum over its HR pixels.
        self._features = features.float().permute(0, 2, 3, 1).reshape(-1, channels)
        self._rows = axis(height, size[0], features.device)
        self._columns = axis(width, size[1], features.device)
        self._block = block or count * size[0] * size[1]

    def __call__(self, head: Head) -> Tensor:
        """Return the output of a head for all HR pixels, (N, outputs, H, W)."""
        rows, columns = self._rows, self._columns
        if not (rows.block and columns.block):
            return image([head(queries) for queries in self.queries()], self._shape)
        at = places(rows, columns)
        blocks = self._features.split(max(1, self._block // len(at)))
        values = torch.cat([head.on_grid(features, at) for features in blocks])
        by_block = values.view(self._shape[0], *self._lr_size, rows.block, columns.block, -1)
        return by_block.permute(0, 5, 1, 3, 2, 4).reshape(len(by_block), -1, *self._shape[1:])

    def queries(self) -> Iterator[Tensor]:
        """Yield what heads read (n, C + 4), in blocks, in the order batch, rows, columns."""
        count, height, width = self._shape
        lr_height, lr_width = self._lr_size
        pixels = torch.arange(count * height * width, device=self._features.device)
        for block in pixels.split(self._block):
            line = block // width  # counts through all images
            row, column = line % height, block % width
            nearest = (line // height * lr_height + self._rows.nearest[row]) * lr_width
            feature = self._features.index_select(0, nearest + self._columns.nearest[column])
            place = feature.new_empty(len(block), PLACE)
            place[:, 0] = self._rows.offset[row]
            place[:, 1] = self._columns.offset[column]
            place[:, 2] = self._rows.cell
            place[:, 3] = self._columns.cell
            yield torch.cat([feature, place], dim=1)


def places(rows: Axis, columns: Axis) -> Tensor:
    """Return the places of the HR pixels of an LR pixel, (block, 4), on axes of a regular grid.

    A place is row offset, column offset, row cell and column cell; all LR pixels have the same.
    """
    by_row, by_column = rows.offset[: rows.block], columns.offset[: columns.block]
    offsets = torch.cartesian_prod(by_row, by_column)
    cells = [offsets.new_full((len(offsets), 1), cell) for cell in (rows.cell, columns.cell)]
    return torch.cat([offsets, *cells], dim=1)


def image(rows: Sequence[Tensor], shape: tuple[int, int, int]) -> Tensor:
    """Arrange values per HR pixel, [(n, C), ...] in order, as (N, C, H, W); shape is (N, H, W)."""
    return torch.cat(list(rows)).view(*shape, -1).permute(0, 3, 1, 2)


def executed_flops(classifier: Head, heads: Sequence[Head]) -> tuple[int, tuple[int, ...]]:
    """Return the FLOPs that the engine executes after the encoder; biases are free as elsewhere.

    Returns:
        FLOPs per LR pixel, for the features' share of all first layers; and FLOPs per HR pixel of
        each branch, which include the classifier and the cheapest head.
    """
    splits = [head.split() for head in (classifier, *heads)]
    per_lr_pixel = 2 * sum(split.of_feature.numel() for split in splits)
    of_classifier, of_cheapest, *of_others = (
        2 * sum(layer.weight.numel() for layer in split.rest) for split in splits
    )
    everywhere = of_classifier + of_cheapest
    return per_lr_pixel, (everywhere, *(everywhere + of_other for of_other in of_others))
