"""Products and convolutions by oneDNN, and the layers that ``deploy`` builds from them.

For narrow matrices, as in networks of a few dozen channels, oneDNN takes a third to a half of the
time of ``torch.mm``. As for convolutions, it spends a millisecond to prepare for each size that it
has not seen before.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = (torch.float32, torch.bfloat16)  # oneDNN sums in float32 in both
ROWS = 1 << 14  # pixels whose sums are computed together on a CPU, so that they stay in cache


def product(left: Tensor, right: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return left (m, k) @ right (k, n) + bias (n,), followed by a ReLU if ``relu`` is set."""
    if not in_onednn(left) or left.dtype != right.dtype:  # autocast casts in torch's own
        return plain_product(left, right, bias, relu)
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._linear_pointwise(left, right.T, bias, activation, [], "")


def product_added(left: Tensor, right: Tensor, onto: Tensor) -> Tensor:
    """Return left (m, k) @ right (k, n) + onto (m, n), which may be overwritten."""
    if not in_onednn(left) or left.dtype != right.dtype:
        return onto.addmm_(left, right.to(onto))  # autocast does not cast in-place products
    return torch.ops.mkldnn._linear_pointwise.binary(left, onto, right.T, None, "add")


def plain_product(
    left: Tensor, right: Tensor, bias: Tensor | None = None, relu: bool = False
) -> Tensor:
    """Do ``product`` without oneDNN: for a size that occurs only once."""
    result = torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)
    return result.relu_() if relu else result


def in_onednn(x: Tensor) -> bool:
    """Tell whether the functions above compute products with ``x`` by oneDNN."""
    # FLOPs are counted on a trace, and traces and compilers know only torch's own operations.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return x.device.type == "cpu" and x.dtype in PRECISIONS and _usable(x.dtype)


@cache
def _usable(dtype: torch.dtype) -> bool:
    """Tell whether torch has oneDNN's operations in the form used here, and this processor can.

    They are not part of torch's public interface, so a version without them, or with others, uses
    its own products and convolutions.
    """
    one, weight = torch.ones(1, 1, dtype=dtype), torch.ones(8, 8, 1, 1, dtype=dtype)
    # In the format that it runs in: in the other one torch adds by a routine that has no bfloat16.
    image = torch.ones(1, 8, 2, 2).to(dtype, memory_format=torch.channels_last)
    layer = (weight, None, [0, 0], [1, 1], [1, 1], 1)
    onednn = torch.ops.mkldnn
    try:
        onednn._linear_pointwise(one, one, None, "relu", [], "")
        onednn._linear_pointwise.binary(one, one, one, None, "add")
        onednn._convolution_pointwise(image, *layer, "relu", [], "")
        onednn._convolution_pointwise.binary(image, image, *layer, "add", 1.0, "relu", [], None)
    except (AttributeError, RuntimeError):
        return False
    return True


class Activated(nn.Module):
    """A convolution and its activation in one pass over memory, where oneDNN is used.

    For FSRCNN's 1x1 convolutions this takes half as long as two steps. In float32 not a bit
    changes; in bfloat16 values are rounded once instead of twice.

    Args:
        convolution: of zero padding.
        activation: ReLU, or PReLU with one parameter for all channels.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        slopes = [p.detach() for p in activation.parameters()]
        self._fused = ("leaky_relu", [float(slopes[0])]) if slopes else ("relu", [])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h', w')."""
        if not _fusible(x, self.convolution):
            return self.activation(self.convolution(x))
        return torch.ops.mkldnn._convolution_pointwise(
            x, *_arguments(self.convolution), *self._fused, ""
        )


class Residual(nn.Module):
    """A body whose last convolution adds the block's input in the same pass, and may apply a ReLU.

    Args:
        body: layers that keep the shape; the last one is a convolution of zero padding.
        relu: whether a ReLU follows the addition.
    """

    def __init__(self, body: nn.Sequential, relu: bool) -> None:
        super().__init__()
        *before, last = fused(body)
        self.before = nn.Sequential(*before)
        self.last: nn.Conv2d = last  # type: ignore[assignment]
        self._relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        inner = self.before(x)
        if not _fusible(inner, self.last):
            total = self.last(inner).add_(x)
            return total.relu_() if self._relu else total
        activation = "relu" if self._relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            inner, x, *_arguments(self.last), "add", 1.0, activation, [], None
        )


def fused(layers: nn.Sequential) -> nn.Sequential:
    """Return layers with each ReLU or PReLU that follows a convolution in one pass with it.

    Every layer keeps its number.
    """
    passes = list(layers)
    for number, (layer, after) in enumerate(pairwise(layers)):
        whole = isinstance(after, nn.PReLU) and after.num_parameters == 1
        if isinstance(layer, nn.Conv2d) and (whole or isinstance(after, nn.ReLU)):
            passes[number : number + 2] = Activated(layer, after), nn.Identity()
    return nn.Sequential(*passes)


def _arguments(layer: nn.Conv2d) -> tuple[Any, ...]:
    """Return what oneDNN's convolution takes after its input."""
    return layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups


def _fusible(x: Tensor, layer: nn.Conv2d) -> bool:
    """Tell whether a convolution of ``x`` takes what follows it into the same pass.

    Only in channels-last format: elsewhere torch picks another routine for the convolution alone,
    which rounds otherwise, and PCSR could route a pixel otherwise.
    """
    last = torch.channels_last
    laid_out = x.is_contiguous(memory_format=last) or (
        layer.weight.is_contiguous(memory_format=last) and not layer.weight.is_contiguous()
    )
    # Autocast would not cast for the fused operation.
    return laid_out and in_onednn(x) and not torch.is_autocast_enabled(x.device.type)


class Enlarging(nn.Module):
    """A transposed convolution to ``stride`` times the size, as a convolution of the LR pixels.

    The convolution computes the block of HR pixels of each LR pixel as its channels. It has a tap
    wherever any of these needs one, with zeros for the others. oneDNN still takes less than half as
    long as for the transposed convolution (FSRCNN's tail, one core, 1680x1104: 84 ms, not 203).

    Args:
        layer: of square kernel and stride, in one group; its output is ``stride`` times as large.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        super().__init__()
        (scale, _), padding, length = layer.stride, int(layer.padding[0]), layer.kernel_size[0]
        # HR pixel ``scale * i + n`` sees LR pixel i + d by tap n + padding - scale * d.
        self._reach = max((scale - 1 + padding) // scale, (length - 1 - padding) // scale)
        before = scale * self._reach - padding
        after = scale * (2 * self._reach + 1) - length - before
        taps = F.pad(layer.weight.detach(), [before, after, before, after])
        taps = taps.unflatten(3, (-1, scale)).unflatten(2, (-1, scale)).flip(2, 4)
        # Colours last, so that a row of a block is copied at once.
        weight = taps.permute(3, 5, 1, 0, 2, 4).flatten(0, 2)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", layer.bias.detach().repeat(scale**2))  # type: ignore[union-attr]
        self._scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h * scale, w * scale), channels last in memory."""
        scale, (height, width) = self._scale, features.shape[-2:]
        blocks = F.conv2d(features, self.weight, self.bias, padding=self._reach)
        rows = blocks.permute(0, 2, 3, 1).unflatten(3, (scale, -1)).transpose(2, 3)
        image = rows.reshape(len(features), height * scale, width * scale, -1)
        return image.permute(0, 3, 1, 2)


class Summed(nn.Module):
    """A cascade (CARN's) that concatenates nothing.

    A conv1 over a concatenation is the sum of one conv1 per part. Each of these is a matrix product
    that accumulates into the same rows, so no concatenation is copied. On a CPU it runs on
    ``ROWS`` pixels at a time.

    Args:
        units: one unit per step, or a single one that all steps run.
        steps: the bias (width,) of each step's conv1, and its weights (width, width) for each part:
            the input, and the outputs of all units so far.
    """

    def __init__(self, units: Sequence[nn.Module], steps: Sequence[Sequence[nn.Parameter]]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.steps: Sequence[nn.ParameterList] = nn.ModuleList(  # type: ignore[assignment]
            nn.ParameterList(weights) for weights in steps
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        seen = [_rows(x)]
        fused = x
        for step, (bias, *parts) in enumerate(self.steps):
            seen.append(_rows(self.units[step % len(self.units)](fused)))
            total = _sum_of_products(seen, bias, parts)
            fused = total.view(len(x), *x.shape[-2:], -1).permute(0, 3, 1, 2)
        return fused


def _sum_of_products(seen: Sequence[Tensor], bias: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return ReLU(bias + sum_i seen[i] @ parts[i]), like each of ``seen`` (pixels, width)."""
    total = torch.empty_like(seen[0])
    rows = ROWS if total.device.type == "cpu" else len(total)
    for out, first, *others in zip(*(one.split(rows) for one in (total, *seen)), strict=True):
        block_sum = product(first, parts[0], bias)
        for other, part in zip(others, parts[1:], strict=True):
            block_sum = product_added(other, part, block_sum)
        torch.clamp_min(block_sum, 0, out=out)
    return total


def _rows(x: Tensor) -> Tensor:
    """Reshape (N, C, h, w) to (N * h * w, C); a view if channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
