"""Heads on a GPU: one kernel each, from the features to the image. Importing it needs triton."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from pcsr.backbones.base import padded, sixteens
from pcsr.engine import kernels
from pcsr.engine.heads import Heads
from pcsr.engine.regions import Images, Region
from pcsr.errors import UserError
from pcsr.routing import Rule

COMPACTED = 2048  # of which it compacts the labels
SMOOTHED = 1024  # that it refines
WAVES = 4  # programs per multiprocessor
SMALLEST = 16  # side of the products that tensor cores know
FLOAT = 4  # bytes


class Fused(Heads):
    """See ``Heads``; kernels of Triton, which never wait for the host.

    Values between the layers stay in registers. A half precision is that of features, weights and
    the values between layers; sums, places and what comes out are float32.
    """

    def __init__(
        self,
        classifier: nn.Sequential,
        heads: Sequence[nn.Sequential],
        channels: int,
        precision: torch.dtype,
    ) -> None:
        self._packed = [_Packed(layers, channels, precision) for layers in (classifier, *heads)]
        projection = torch.cat([packed.feature for packed in self._packed])
        given = channels if precision == torch.float32 else sixteens(channels, channels)
        self._projection = padded(projection, (len(projection), given))

    def needs(self, images: Images) -> tuple[float, float]:
        """See ``Heads.needs``."""
        block = images.hr_pixels / images.lr_pixels
        branches = len(self._packed) - 1
        # Measures with what they are computed from, labels, numbers of pixels, bilinear, SR.
        each = FLOAT * (4 * branches + 1 + 3 + 3) + 1
        return self._projection.element_size() * len(self._projection) + block * each, 0

    def measure(self, region: Region, features: Tensor, rule: Rule) -> list[Tensor]:
        """See ``Heads.measure``: (1, K, H, W) for the region."""
        return [self._measure(self._project(features), _Where(region), rule)]

    def inside(self, region: Region, measured: list[Tensor]) -> Tensor:
        """See ``Heads.inside``."""
        return measured[0][..., *region.own()].flatten(2)

    def finish(
        self, region: Region, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Heads.finish``."""
        where = _Where(region)
        projected = self._project(features)
        known = measured[0] if measured else self._measure(projected, where, rule)
        labels = rule.decide(known)[0]
        base = region.bilinear().contiguous()
        sr = torch.empty_like(base)
        _, cheapest, *others = self._packed
        self._run(cheapest, projected, where, base, sr)
        for branch, head in enumerate(others, start=1):
            self._run(head, projected, where, base, sr, _compacted(labels, branch))
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
        """Return all first layers' part that is the features': (LR pixels, columns)."""
        return features.flatten(0, 1) @ self._projection.T

    def _measure(self, projected: Tensor, where: "_Where", rule: Rule) -> Tensor:
        classifier = self._packed[0]
        logits = projected.new_empty(classifier.outputs, *where.size, dtype=torch.float32)
        self._run(classifier, projected, where, None, logits)
        return rule.measure(logits[None])

    def _run(
        self,
        head: "_Packed",
        projected: Tensor,
        where: "_Where",
        base: Tensor | None,
        out: Tensor,
        routed: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Write a head's output and ``base`` to ``out`` (outputs, H, W): for all pixels or some."""
        start = sum(len(one.feature) for one in self._packed[: self._packed.index(head)])
        total = where.size[0] * where.size[1]
        pixels, count = routed if routed else (where.rows.nearest, where.rows.nearest)
        kernels.head[(_programs(-(-total // head.block), out.device),)](
            projected[:, start:],
            *(where.rows.nearest, where.columns.nearest, where.rows.offset, where.columns.offset),
            head.place(where.rows.cell, where.columns.cell),
            *(head.hidden, head.hidden_bias, head.last, head.last_bias),
            *(pixels, count),
            *(out if base is None else base, out),
            *(total, where.size[1], where.lr_width, projected.stride(0)),
            **head.constants(routed is not None, base is not None),
            num_warps=head.warps,
        )


class _Where:
    """Where a region's HR pixels lie, as the kernels read it."""

    def __init__(self, region: Region) -> None:
        self.rows, self.columns = (
            replace(along, nearest=along.nearest.int()) for along in (region.rows, region.columns)
        )
        self.size = region.size
        self.lr_width = region.outer.size[1]


class _Packed:
    """A head's weights as the kernel reads them: its layers A + B wide, the added columns zero.

    Attributes:
        outputs: of the last layer.
        layers: after the first.
        halves: A and B.
        block, warps: how many pixels a program takes at once, and how many warps compute them.
        feature: (A + B, C), the first layer's weights of the feature.
        hidden, hidden_bias, last, last_bias: see ``kernels.head``.
    """

    def __init__(self, layers: nn.Sequential, channels: int, precision: torch.dtype) -> None:
        first, *rest = (layer for layer in layers if isinstance(layer, nn.Linear))
        self.outputs = (first, *rest)[-1].out_features
        if self.outputs > SMALLEST:
            raise UserError(f"model.heads: the fused engine routes between {SMALLEST} at most.")
        self.layers = len(rest)
        self.halves = _halves(first.out_features)
        width = sum(self.halves)
        self.block, self.warps = _launch(width)
        weight = padded(first.weight, (width,))
        self.feature = weight[:, :channels].to(precision)
        self._place = weight[:, channels:].T
        self._bias = padded(first.bias, (width,))
        *between, last = rest or [first]  # where nothing follows, nothing of it is read
        empty = weight.new_empty(0, width)
        weights = [padded(layer.weight, (width, width)).T for layer in between]
        self.hidden = torch.cat([empty, *weights]).to(precision)
        biases = [padded(layer.bias[None], (1, width)) for layer in between]
        self.hidden_bias = torch.cat([empty, *biases])
        self.last = padded(last.weight, (SMALLEST, width)).T.contiguous().to(precision)
        self.last_bias = padded(last.bias, (SMALLEST,))

    def constants(self, routed: bool, added: bool) -> dict[str, int]:
        """Return those of ``kernels.head``."""
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
        """Return what a row offset, a column offset and any pixel add: (3, A + B)."""
        by_row, by_column, by_row_cell, by_column_cell = self._place
        always = self._bias + by_row_cell * row_cell + by_column_cell * column_cell
        return torch.stack([by_row, by_column, always])


def _halves(width: int) -> tuple[int, int]:
    """Return the two powers of two with the smallest sum that is a layer's width or more."""
    powers = [SMALLEST << n for n in range(max(width, 1).bit_length())]
    pairs = [(a, b) for a in powers for b in powers if a >= b and a + b >= width]
    return min(pairs, key=sum)


def _launch(width: int) -> tuple[int, int]:
    """Return pixels and warps of a program, so that the layers of its pixels stay in registers."""
    return (128 if width <= 32 else 64), (4 if width <= 96 else 8)


def _compacted(labels: Tensor, branch: int) -> tuple[Tensor, Tensor]:
    """Return the numbers (H * W,) of a branch's pixels, and how many (1,) of them there are."""
    total = labels.numel()
    pixels = labels.new_empty(total, dtype=torch.int32)
    count = labels.new_zeros(1, dtype=torch.int32)
    kernels.compact[(-(-total // COMPACTED),)](
        labels, pixels, count, total, branch=branch, BLOCK=COMPACTED
    )
    return pixels, count


def _programs(blocks: int, device: torch.device) -> int:
    """Return how many programs share the blocks of pixels."""
    if device.type != "cuda":
        return min(blocks, WAVES)
    return min(blocks, WAVES * torch.cuda.get_device_properties(device).multi_processor_count)
