"""A head whose first layer is computed once per LR pixel instead of once per HR pixel.

The first layer of a head reads [f; r; c]: the LR feature, the pixel's offset, its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b), and the first term is the same for all HR
pixels of an LR pixel. The second is the sum of a number per row and one per column. At x4 the
first layer costs a sixteenth, and the output is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
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

    Args:
        layers: linear layers with ReLU between them.
        channels: how many of the first layer's inputs are the feature.

    Attributes:
        feature: (width, channels), the first layer's weights of the feature.
        rest: weights and biases of the other layers.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        first, *rest = [layer for layer in layers if isinstance(layer, nn.Linear)]
        weight = first.weight.detach()
        self.feature = weight[:, :channels].contiguous()
        self._place = weight[:, channels:].unbind(dim=1)
        self._bias = first.bias.detach()
        self.rest = [(layer.weight.detach(), layer.bias.detach()) for layer in rest]

    def place(self, rows: Axis, columns: Axis) -> Place:
        """Return the part of the first layer that is the place's."""
        by_row, by_column, row_cell, column_cell = self._place
        always = self._bias + row_cell * rows.cell + column_cell * columns.cell
        return Place(
            always[:, None] + by_row[:, None] * rows.offset,
            by_column[:, None] * columns.offset,
        )

    @property
    def width(self) -> int:
        """Outputs of the first layer."""
        return len(self.feature)


class Everywhere(Factored):
    """A head that runs on all pixels.

    Pixels are columns of all matrices: with few channels these products are three times as fast as
    with pixels as rows. A row of ones among the hidden values makes the biases a column of the
    weights: the products add them, and a layer is one product and one pass for its ReLU.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        super().__init__(layers, channels)
        self._columns = [torch.column_stack(layer) for layer in self.rest]

    @property
    def hidden_rows(self) -> int:
        """Rows of all matrices that ``hidden`` returns."""
        return sum(matrix.shape[0] for matrix in self.hidden(0))

    def hidden(self, pixels: int) -> list[Tensor]:
        """Return matrices for the hidden values of n pixels, layer by layer: (width + 1, n).

        The last row is ones. They can be used again and again, and then are in cache.
        """
        widths = [self.width, *(len(weight) for weight in self._columns[:-1])]
        made = [self.feature.new_empty(width + 1, pixels) for width in widths]
        for matrix in made:
            matrix[-1] = 1.0
        return made

    def finish(self, hidden: Sequence[Tensor], onto: Tensor | None = None) -> Tensor:
        """Run what follows the first layer.

        Args:
            hidden: matrices as above, the first layer before its ReLU in the first; written over.
            onto: (outputs, n) to which the outputs are added; written over.

        Returns:
            (outputs, n); of a head with one layer, ``hidden`` itself.
        """
        x = hidden[0]
        if not self._columns:
            return x[:-1] if onto is None else onto.add_(x[:-1])
        for weight, y in zip(self._columns, hidden[1:], strict=False):
            torch.mm(weight, x.relu_(), out=y[:-1])
            x = y
        x.relu_()
        return torch.mm(self._columns[-1], x) if onto is None else onto.addmm_(self._columns[-1], x)


class Gathered(Factored):
    """A head that runs on some pixels. Pixels are rows of all matrices.

    oneDNN computes a layer and its ReLU together, a fifth faster than one after the other, but
    takes a millisecond to prepare for a number of pixels that it has not seen. So it gets four
    such numbers, each half of the one before.

    Args:
        layers, channels: see ``Factored``.
        together: hidden numbers of the pixels that are run together at most.
    """

    def __init__(self, layers: nn.Sequential, channels: int, together: int) -> None:
        super().__init__(layers, channels)
        self._sizes = [max(1, (together // self.width) >> n) for n in range(4)]
        self._packed: list[Tensor] = []
        if self.feature.device.type == "cpu" and torch.backends.mkldnn.is_available():
            pack = torch.ops.mkldnn._reorder_linear_weight
            self._packed = [pack(weight, None) for weight, _ in self.rest]

    def split(self, pixels: Tensor) -> Iterator[Tensor]:
        """Split numbers of pixels (n,) into those that are run together."""
        start = 0
        for size in self._sizes:
            while start + size <= len(pixels):
                yield pixels[start : start + size]
                start += size
        if start < len(pixels):
            yield pixels[start:]

    def table(self, features: Tensor, places: Tensor) -> Tensor:
        """Return rows whose sums are the first layer of HR pixels.

        Args:
            features: (n, C) of LR pixels.
            places: (p, width).

        Returns:
            (n + p, width).
        """
        made = features.new_empty(len(features) + len(places), self.width)
        torch.mm(features, self.feature.T, out=made[: len(features)])
        made[len(features) :] = places
        return made

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer.

        Args:
            x: (n, width), the first layer before its ReLU; written over.

        Returns:
            (n, outputs).
        """
        if not self.rest:
            return x
        x.relu_()
        last = len(self.rest) - 1
        if self._packed and len(x) in self._sizes:
            run = torch.ops.mkldnn._linear_pointwise
            for number, (packed, (_, bias)) in enumerate(zip(self._packed, self.rest, strict=True)):
                x = run(x, packed, bias, "none" if number == last else "relu", [], "")
            return x
        for number, (weight, bias) in enumerate(self.rest):
            x = F.linear(x, weight, bias)
            if number < last:
                x.relu_()
        return x


class Projection:
    """The features' part of the first layers of several heads, in one product."""

    def __init__(self, heads: Sequence[Factored]) -> None:
        self._weight = torch.cat([head.feature for head in heads])
        self._widths = [head.width for head in heads]

    def __call__(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return it for each head: (n, C) -> (width, n)."""
        return (self._weight @ features.T).split(self._widths)
