"""Matrix products by the fastest routine for the processor.

For narrow matrices, as in networks of a few dozen channels, oneDNN on a CPU takes a third to a half
of the time of ``torch.mm``. As for convolutions, it spends a millisecond to prepare for each size
that it has not seen before.
"""

from functools import cache

import torch
from torch import Tensor

PRECISIONS = (torch.float32, torch.bfloat16)  # oneDNN sums in float32 in both


def product(left: Tensor, right: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return left @ right + bias, followed by a ReLU if ``relu`` is set.

    Args:
        left: (m, k).
        right: (k, n).
        bias: (n,).
        relu: whether to replace negative results by 0.

    Returns:
        (m, n).
    """
    if not in_onednn(left) or left.dtype != right.dtype:  # autocast casts in torch's own
        return plain_product(left, right, bias, relu)
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._linear_pointwise(left, right.T, bias, activation, [], "")


def product_added(left: Tensor, right: Tensor, onto: Tensor) -> Tensor:
    """Return left @ right + onto.

    Args:
        left: (m, k).
        right: (k, n).
        onto: (m, n); may be overwritten.

    Returns:
        (m, n).
    """
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
    """Tell whether torch has oneDNN's products in the form used here, and this processor can.

    They are not part of torch's public interface, so a version without them, or with others, uses
    the plain products.
    """
    one = torch.ones(1, 1, dtype=dtype)
    try:
        torch.ops.mkldnn._linear_pointwise(one, one, None, "relu", [], "")
        torch.ops.mkldnn._linear_pointwise.binary(one, one, one, None, "add")
    except (AttributeError, RuntimeError):
        return False
    return True
