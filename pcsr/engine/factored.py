"""A head whose first layer is computed once per LR pixel instead of once per HR pixel.

The first layer of a head reads [f; r; c]: the LR feature, the pixel's offset, its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b), and the first term is the same for all HR
pixels of an LR pixel. The second is the sum of a number per row and one per column. At x4 the
first layer costs a sixteenth, and the output is the same.

The biases of the hidden layers cost nothing either: relu(z + b) = max(z, -b) + b, and the + b goes
into the next layer's bias. One pass over the pixels then does for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pcsr.geometry import Axis


class Factored:
    """A multilayer perceptron over (feature, row offset, column offset, row cell, column cell).

    Pixels are columns of all matrices here: with few channels these products are three times as
    fast as with pixels as rows.

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
        self._rest = [(layer.weight.detach(), layer.bias.detach()) for layer in rest]
        self.floors = self.floors_from(torch.zeros_like(self._bias)[:, None])

    def place(self, rows: Axis, columns: Axis) -> "Place":
        """Return the part of the first layer that is the place's."""
        by_row, by_column, row_cell, column_cell = self._place
        always = self._bias + row_cell * rows.cell + column_cell * columns.cell
        return Place(
            self,
            always[:, None] + by_row[:, None] * rows.offset,
            by_column[:, None] * columns.offset,
        )

    def floors_from(self, first: Tensor) -> list[Tensor]:
        """Return minus the bias of every layer, (its outputs, b, 1), given the first's (width, b).

        Each bias holds what the layers before have left out.
        """
        floors = [first]
        for weight, bias in self._rest:
            # Too small to count among the FLOPs of a picture.
            floors.append((weight[:, :, None] * floors[-1]).sum(dim=1) - bias[:, None])
        return [floor[:, :, None] for floor in floors]

    def finish(self, x: Tensor, floors: Sequence[Tensor], out: Tensor) -> Tensor:
        """Run what follows the first product: (width, b or 1, n) -> (outputs, b, n).

        Args:
            x: the first layer without its bias.
            floors: (width, b, 1) for the first layer, and so on.
            out: (width, b, n) that is written over; may be ``x``.
        """
        *hidden, last = floors
        for (weight, _), floor in zip(self._rest, hidden, strict=True):
            torch.maximum(x, floor, out=out)
            x = out = torch.mm(weight, out.flatten(1)).view(len(weight), *out.shape[1:])
        return torch.sub(x, last, out=out)

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
        return sum(2 * weight.numel() for weight, _ in self._rest)


@dataclass(frozen=True)
class Place:
    """What the place of HR pixels adds to a head's first layer.

    Attributes:
        head: whose first layer it is.
        rows, columns: (width, rows) and (width, columns); a pixel's is their sum.
    """

    head: Factored
    rows: Tensor
    columns: Tensor

    @cached_property
    def sums(self) -> Tensor:
        """The sum for every pair of a row and a column, (rows * columns, width)."""
        return (self.rows[:, :, None] + self.columns[:, None, :]).flatten(1).T.contiguous()

    @cached_property
    def floors(self) -> list[Tensor]:
        """The head's floors, the place being left out of the first layer."""
        return self.head.floors_from(-self.sums.T)
