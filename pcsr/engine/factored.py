"""A head whose first layer is computed once per LR pixel instead of once per HR pixel.

The first layer of a head reads [f; r; c]: the LR feature, the pixel's offset, its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b), and the first term is the same for all HR
pixels of an LR pixel. The second is the sum of a number per row and one per column. At x4 the
first layer costs a sixteenth, and the output is the same.

A row of ones among the hidden values makes the biases a column of the weights: the products add
them, and a layer is one product and one pass for its ReLU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pcsr.geometry import Axis


@dataclass(frozen=True)
class Place:
    """What the place of HR pixels adds to a head's first layer, biases included.

    Attributes:
        rows, columns: (width, rows) and (width, columns); a pixel's is their sum.
    """

    rows: Tensor
    columns: Tensor

    @cached_property
    def sums(self) -> Tensor:
        """The sum for every pair of a row and a column, (width, rows * columns)."""
        return (self.rows[:, :, None] + self.columns[:, None, :]).flatten(1)


class Factored:
    """A multilayer perceptron over (feature, row offset, column offset, row cell, column cell).

    Pixels are columns of all matrices here: with few channels these products are three times as
    fast as with pixels as rows.

    Args:
        layers: linear layers with ReLU between them.
        channels: how many of the first layer's inputs are the feature.

    Attributes:
        feature: (width, channels), the first layer's weights of the feature.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        first, *rest = [layer for layer in layers if isinstance(layer, nn.Linear)]
        weight = first.weight.detach()
        self.feature = weight[:, :channels].contiguous()
        self._place = weight[:, channels:].unbind(dim=1)
        self._bias = first.bias.detach()
        self._rest = [torch.column_stack([f.weight, f.bias]).detach() for f in rest]

    def place(self, rows: Axis, columns: Axis) -> Place:
        """Return the part of the first layer that is the place's."""
        by_row, by_column, row_cell, column_cell = self._place
        always = self._bias + row_cell * rows.cell + column_cell * columns.cell
        return Place(
            always[:, None] + by_row[:, None] * rows.offset,
            by_column[:, None] * columns.offset,
        )

    def table(self, features: Tensor, places: Tensor) -> Tensor:
        """Return rows whose sums are the first layer of HR pixels.

        Args:
            features: (n, C) of LR pixels.
            places: (p, width).

        Returns:
            (n + p, width + 1); the last column gives each sum of one LR pixel and places its 1.
        """
        made = features.new_empty(len(features) + len(places), self.width + 1)
        at = len(features)
        torch.mm(features, self.feature.T, out=made[:at, :-1])
        made[at:, :-1] = places
        made[:at, -1] = 1.0
        made[at:, -1] = 0.0
        return made

    def finish(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Run what follows the first layer.

        Args:
            x: (width + 1, n), the first layer before its ReLU and a row of ones; written over.
            onto: (outputs, n) to which the outputs are added; written over.

        Returns:
            (outputs, n).
        """
        if not self._rest:
            return x[:-1] if onto is None else onto.add_(x[:-1])
        *hidden, last = self._rest
        for weight in hidden:
            y = with_ones(len(weight), x.shape[1], x)
            torch.mm(weight, x.relu_(), out=y[:-1])
            x = y
        x.relu_()
        return torch.mm(last, x) if onto is None else onto.addmm_(last, x)

    @property
    def width(self) -> int:
        """Outputs of the first layer."""
        return len(self.feature)


class Projection:
    """The features' part of the first layers of several heads, in one product."""

    def __init__(self, heads: Sequence[Factored]) -> None:
        self._weight = torch.cat([head.feature for head in heads])
        self._widths = [head.width for head in heads]

    def __call__(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return it for each head: (n, C) -> (width, n)."""
        return (self._weight @ features.T).split(self._widths)


def with_ones(width: int, pixels: int, like: Tensor) -> Tensor:
    """Return (width + 1, pixels) of which the last row is ones and the others are to be written."""
    made = like.new_empty(width + 1, pixels)
    made[-1] = 1.0
    return made
