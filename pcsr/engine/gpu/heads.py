"""Heads on a GPU: one kernel per head, from features to image. Importing it needs triton."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcsr.engine.base import Heads
from pcsr.engine.deploy import padded, sixteens
from pcsr.engine.gpu import kernels
from pcsr.engine.tiles import ImageGrid, TileGrid
from pcsr.errors import UserError
from pcsr.methods.heads import Head
from pcsr.routing import Rule

COMPACTED = 2048  # pixels per program whose labels are compacted
SMOOTHED = 1024  # pixels per program that are refined
WAVES = 4  # programs per multiprocessor
SMALLEST = 16  # smallest side of a product on tensor cores
FLOAT = 4  # bytes


class FusedHeads(Heads):
    """See ``Heads``; by Triton kernels, between which the device never waits for the host.

    Hidden values stay in registers. Half precision applies to features, weights and hidden values;
    accumulators, places and outputs are float32.
    """

    def __init__(self, classifier: Head, heads: Sequence[Head], precision: torch.dtype) -> None:
        channels = classifier.channels
        self._packed = [_Packed(head, precision) for head in (classifier, *heads)]
        projection = torch.cat([packed.feature for packed in self._packed])
        feature_channels = channels if precision == torch.float32 else sixteens(channels, channels)
        self._projection = padded(projection, (len(projection), feature_channels))

    def needs(self, images: ImageGrid) -> tuple[float, float]:
        """See ``Heads.needs``."""
        block = images.hr_pixels / images.lr_pixels
        branches = len(self._packed) - 1
        # Measured values and their intermediates, pixel numbers, bilinear, SR; labels are one byte.
        per_hr_pixel = FLOAT * (4 * branches + 1 + 3 + 3) + 1
        return self._projection.element_size() * len(self._projection) + block * per_hr_pixel, 0

    def measure(self, tile: TileGrid, features: Tensor, rule: Rule) -> list[Tensor]:
        """See ``Heads.measure``; a single (1, K, H, W)."""
        return [self._measure(self._project(features), _Grid(tile), rule)]

    def inside(self, tile: TileGrid, measured: list[Tensor]) -> Tensor:
        """See ``Heads.inside``."""
        return tile.inside(measured[0]).flatten(2)

    def finish(
        self, tile: TileGrid, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Heads.finish``."""
        grid = _Grid(tile)
        projected = self._project(features)
        values = measured[0] if measured else self._measure(projected, grid, rule)
        labels = rule.decide(values)[0]
        base = tile.bilinear().contiguous()
        sr = torch.empty_like(base)
        _, cheapest, *others = self._packed
        self._run(cheapest, projected, grid, base, sr)
        for branch, head in enumerate(others, start=1):
            self._run(head, projected, grid, base, sr, _compacted(labels, branch))
        return sr, labels

    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """See ``Heads.refine``."""
        out = torch.empty_like(sr)
        total = labels.numel()
        kernels.smooth[(-(-total // SMOOTHED),)](
            sr, labels, out, total, *labels.shape, CHANNELS=len(sr), BLOCK=SMOOTHED
        )
        return out

    def _project(self, features: Tensor) -> Tensor:
        """Return what the features add to all first layers: (LR pixels, columns)."""
        return features.flatten(0, 1) @ self._projection.T

    def _measure(self, projected: Tensor, grid: "_Grid", rule: Rule) -> Tensor:
        classifier = self._packed[0]
        logits = projected.new_empty(classifier.outputs, *grid.size, dtype=torch.float32)
        self._run(classifier, projected, grid, None, logits)
        return rule.measure(logits[None])

    def _run(
        self,
        head: "_Packed",
        projected: Tensor,
        grid: "_Grid",
        base: Tensor | None,
        out: Tensor,
        routed: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Write a head's output plus ``base`` to ``out`` (outputs, H, W).

        ``routed`` holds the numbers and the count of the pixels to run on; None runs on all.
        """
        start = sum(len(one.feature) for one in self._packed[: self._packed.index(head)])
        total = grid.size[0] * grid.size[1]
        pixels, count = routed if routed else (grid.rows.nearest, grid.rows.nearest)
        kernels.head[(_programs(-(-total // head.block), out.device),)](
            projected[:, start:],
            *(grid.rows.nearest, grid.columns.nearest, grid.rows.offset, grid.columns.offset),
            head.place(grid.rows.cell, grid.columns.cell),
            *(head.hidden, head.hidden_bias, head.last, head.last_bias),
            *(pixels, count),
            *(out if base is None else base, out),
            *(total, grid.size[1], grid.lr_width, projected.stride(0)),
            **head.constants(routed is not None, base is not None),
            num_warps=head.warps,
        )


class _Grid:
    """Where a tile's HR pixels lie, in the form that the kernels read."""

    def __init__(self, tile: TileGrid) -> None:
        self.rows, self.columns = (
            replace(along, nearest=along.nearest.int()) for along in (tile.rows, tile.columns)
        )
        self.size = tile.size
        self.lr_width = tile.outer.size[1]


class _Packed:
    """A head's weights as the kernel reads them: layers zero-padded to a width of A + B.

    Attributes:
        outputs: outputs of the last layer.
        layers: number of layers after the first.
        halves: A and B.
        block, warps: pixels that a program takes at a time, and warps that compute them.
        feature: (A + B, C), the first layer's weights for the feature.
        hidden, hidden_bias, last, last_bias: see ``kernels.head``.
    """

    def __init__(self, head: Head, precision: torch.dtype) -> None:
        of_feature, of_place, bias, rest = head.split()
        self.outputs = head.layers[-1].out_features
        if self.outputs > SMALLEST:
            raise UserError(f"model.heads: the fused engine supports {SMALLEST} heads at most.")
        self.layers = len(rest)
        self.halves = _halves(len(bias))
        width = sum(self.halves)
        self.block, self.warps = _launch(width)
        self.feature = padded(of_feature, (width,)).to(precision)
        self._place = padded(of_place, (width,)).T
        self._bias = padded(bias, (width,))
        between = rest[:-1]
        last = head.layers[-1]  # which the kernel does not read if there is no other layer
        empty = self._bias.new_empty((0, width))
        weights = [padded(layer.weight, (width, width)).T for layer in between]
        self.hidden = torch.cat([empty, *weights]).to(precision)
        biases = [padded(layer.bias[None], (1, width)) for layer in between]
        self.hidden_bias = torch.cat([empty, *biases])
        self.last = padded(last.weight, (SMALLEST, width)).T.contiguous().to(precision)
        self.last_bias = padded(last.bias, (SMALLEST,))

    def constants(self, routed: bool, added: bool) -> dict[str, int]:
        """Return the compile-time constants of ``kernels.head``."""
        return {
            "LAYERS": self.layers,
            "A": self.halves[0],
            "B": self.halves[1],
            "LAST": SMALLEST,
            "OUTPUTS": self.outputs,
            "ROUTED": routed,
            "ADDED": added,
            "BLOCK": self.block,
        }

    def place(self, row_cell: float, column_cell: float) -> Tensor:
        """Return the weights of row offset and column offset, and a constant: (3, A + B)."""
        by_row, by_column, by_row_cell, by_column_cell = self._place
        constant = self._bias + by_row_cell * row_cell + by_column_cell * column_cell
        return torch.stack([by_row, by_column, constant])


def _halves(width: int) -> tuple[int, int]:
    """Return the two powers of two, A >= B, with the smallest sum that is at least ``width``."""
    powers = [SMALLEST << n for n in range(max(width, 1).bit_length())]
    pairs = [(a, b) for a in powers for b in powers if a >= b and a + b >= width]
    return min(pairs, key=sum)


def _launch(width: int) -> tuple[int, int]:
    """Return pixels and warps per program for which hidden values stay in registers."""
    return (128 if width <= 32 else 64), (4 if width <= 96 else 8)


def _compacted(labels: Tensor, branch: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of a branch's pixels, int32 (H * W,), and how many are valid, (1,)."""
    total = labels.numel()
    pixels = labels.new_empty(total, dtype=torch.int32)
    count = labels.new_zeros(1, dtype=torch.int32)
    kernels.compact[(-(-total // COMPACTED),)](
        labels, pixels, count, total, branch=branch, BLOCK=COMPACTED
    )
    return pixels, count


def _programs(blocks: int, device: torch.device) -> int:
    """Return how many programs to launch for a number of blocks of pixels."""
    if device.type != "cuda":
        return min(blocks, WAVES)
    return min(blocks, WAVES * torch.cuda.get_device_properties(device).multi_processor_count)
