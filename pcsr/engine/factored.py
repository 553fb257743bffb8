"""A head whose first layer is computed once per LR pixel instead of once per HR pixel.

The first layer of a head reads [f; r; c]: the LR feature, the pixel's offset, its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b), and the first term is the same for all HR
pixels of an LR pixel. The second is the sum of a number per row and one per column. At x4 the
first layer costs a sixteenth, and the output is the same.

The biases of the hidden layers cost nothing either: relu(z + b) = max(z, -b) + b, and the + b goes
into the next layer's bias. One pass over the pixels then does for both.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pcsr.geometry import Axis


@dataclass(frozen=True)
class Place:
    """What the place of HR pixels adds to a first layer: (width, rows) and (width, columns)."""

    rows: Tensor
    columns: Tensor

    @cached_property
    def sums(self) -> Tensor:
        """The sum for every pair of a row and a column, (width, rows * columns)."""
        return (self.rows[:, :, None] + self.columns[:, None, :]).flatten(1)

    @cached_property
    def sums_by_pixel(self) -> Tensor:
        """The same as (rows * columns, width)."""
        return self.sums.T.contiguous()


class Factored:
    """A multilayer perceptron over (feature, row offset, column offset, row cell, column cell).

    Args:
        layers: linear layers with ReLU between them.
        channels: how many of the first layer's inputs are the feature.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        first, *rest = [layer for layer in layers if isinstance(layer, nn.Linear)]
        weight = first.weight.detach()
        self.feature = weight[:, :channels].contiguous()
        self._place = weight[:, channels:].unbind(dim=1)
        self._bias = first.bias.detach()
        self._rest: list[tuple[Tensor, Tensor]] = []
        floor = torch.zeros_like(self._bias)  # the first layer's bias comes with the place
        for layer in rest:
            weight, bias = layer.weight.detach(), layer.bias.detach()
            self._rest.append((floor[:, None], weight))
            floor = weight @ floor - bias
        self._last = -floor[:, None] if rest else None

    def place(self, rows: Axis, columns: Axis) -> Place:
        """Return the part of the first layer that is the place's."""
        by_row, by_column, row_cell, column_cell = self._place
        always = self._bias + row_cell * rows.cell + column_cell * columns.cell
        return Place(
            always[:, None] + by_row[:, None] * rows.offset,
            by_column[:, None] * columns.offset,
        )

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer: (width, n), which is overwritten, -> (outputs, n).

        Pixels are columns: with few channels these products are three times as fast as with
        pixels as rows.
        """
        for floor, weight in self._rest:
            x = torch.mm(weight, torch.maximum(x, floor, out=x))
        return x if self._last is None else x.add_(self._last)

    @property
    def width(self) -> int:
        """Outputs of the first layer."""
        return len(self.feature)

    @property
    def flops_lr(self) -> int:
        """FLOPs per LR pixel."""
        return 2 * self.feature.numel()

    @property
    def flops_hr(self) -> int:
        """FLOPs per HR pixel."""
        return sum(2 * weight.numel() for _, weight in self._rest)
