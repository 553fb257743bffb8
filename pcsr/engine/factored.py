"""A head whose first layer is computed once per LR pixel instead of once per HR pixel.

The first layer of a head reads [f; r; c]: the LR feature, the pixel's offset and its cell. It is
linear, W [f; r; c] + b = W_f f + (W_r r + W_c c + b). The first term is the same for all HR pixels
of an LR pixel. The second is the sum of one vector per row and one per column. At x4 the first
layer costs a sixteenth, and the output is the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pcsr.engine.products import plain_product, product
from pcsr.geometry import Axis


@dataclass(frozen=True)
class Place:
    """What the place of HR pixels adds to a head's first layer, biases included.

    Attributes:
        rows, columns: (width, rows) and (width, columns); a pixel adds its row's and its column's.
    """

    rows: Tensor
    columns: Tensor

    @cached_property
    def sums(self) -> Tensor:
        """The sums for all pairs of a row and a column, (width, rows * columns)."""
        return (self.rows[:, :, None] + self.columns[:, None, :]).flatten(1)


class Factored:
    """A multilayer perceptron over (feature, row offset, column offset, row cell, column cell).

    Args:
        layers: linear layers with ReLU between them.
        channels: number of feature channels, which are the first inputs of the first layer.

    Attributes:
        feature: (width, channels), the first layer's weights for the feature.
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
        """Return what the places on these axes add to the first layer."""
        by_row, by_column, row_cell, column_cell = self._place
        constant = self._bias + row_cell * rows.cell + column_cell * columns.cell
        return Place(
            constant[:, None] + by_row[:, None] * rows.offset,
            by_column[:, None] * columns.offset,
        )

    @property
    def width(self) -> int:
        """Number of outputs of the first layer."""
        return len(self.feature)


class Everywhere(Factored):
    """A head that runs on all pixels.

    Pixels are the columns of all matrices. A row of ones is appended to the hidden values and the
    biases become a column of the weights, so that a product adds the biases as well. The weights
    of all layers but the last also reproduce the ones for the next layer.
    """

    def __init__(self, layers: nn.Sequential, channels: int) -> None:
        super().__init__(layers, channels)
        self._columns = [torch.column_stack(layer) for layer in self.rest]
        for number, weight in enumerate(self._columns[:-1]):
            ones = torch.zeros_like(weight[:1])
            ones[0, -1] = 1.0
            self._columns[number] = torch.cat([weight, ones])

    @property
    def hidden_rows(self) -> int:
        """Rows of all hidden matrices that are alive at once, at most; for estimating memory."""
        return self.width + 1 + 2 * max((len(weight) for weight in self._columns), default=0)

    def hidden(self, pixels: int) -> Tensor:
        """Allocate a matrix for the first hidden values of n pixels, (width + 1, n).

        Its last row is ones. Reused for one band after another, it stays in cache.
        """
        values = self.feature.new_empty(self.width + 1, pixels)
        values[-1] = 1.0
        return values

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer.

        Args:
            x: a matrix from ``hidden`` with the first layer before its ReLU; overwritten.

        Returns:
            (outputs, n). For a head with a single layer, a view of ``x``.
        """
        if not self._columns:
            return x[:-1]
        x.relu_()
        *columns, last = self._columns
        for weight in columns:
            x = product(weight, x, relu=True)
        return product(last, x)


class Gathered(Factored):
    """A head that runs on some pixels. Pixels are the rows of all matrices.

    The number of pixels differs on every call, and oneDNN would have to prepare for each new size
    (``products``). So the pixels are split into chunks of four fixed sizes, each half of the one
    before, and a remainder.

    Args:
        layers, channels: see ``Factored``.
        together: largest number of first-layer outputs in one chunk.
    """

    def __init__(self, layers: nn.Sequential, channels: int, together: int) -> None:
        super().__init__(layers, channels)
        self._sizes = [max(1, (together // self.width) >> n) for n in range(4)]

    def split(self, pixels: Tensor) -> Iterator[Tensor]:
        """Split the numbers of pixels (n,) into chunks that are run one after another."""
        start = 0
        for size in self._sizes:
            while start + size <= len(pixels):
                yield pixels[start : start + size]
                start += size
        if start < len(pixels):
            yield pixels[start:]

    def table(self, features: Tensor, places: Tensor) -> Tensor:
        """Return a table: the first layer of every HR pixel is a sum of some of its rows.

        Args:
            features: (n, C) of LR pixels.
            places: (p, width), what places add to the first layer.

        Returns:
            (n + p, width).
        """
        return torch.cat([product(features, self.feature.T), places])

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer.

        Args:
            x: (n, width), the first layer before its ReLU; overwritten.

        Returns:
            (n, outputs).
        """
        if not self.rest:
            return x
        run = product if len(x) in self._sizes else plain_product
        x.relu_()
        *rest, last = self.rest
        for weight, bias in rest:
            x = run(x, weight.T, bias, relu=True)
        weight, bias = last
        return run(x, weight.T, bias)


class Projection:
    """What the features add to the first layers of several heads, in one product."""

    def __init__(self, heads: Sequence[Factored]) -> None:
        self._weight = torch.cat([head.feature for head in heads])
        self._widths = [head.width for head in heads]

    def __call__(self, features: Tensor) -> tuple[Tensor, ...]:
        """Project features (n, C): return (width, n) for each head."""
        return product(self._weight, features.T).split(self._widths)
