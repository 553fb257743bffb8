"""FLOPs in the two conventions of the field and as the engine executes them.

A multiply-add in a convolution or matrix product (linear maps, attention) counts as two FLOPs.
PReLU adds one FLOP per element, BatchNorm two, and a norm that takes its statistics from the image
five (four without weights), as in fvcore. Free operations, as in the published tables, are listed
in ``FREE``; any other operation is refused, so that nothing is counted as 0 by mistake. The two
conventions differ only in transposed convolutions: *paper* counts them on their output grid,
*algorithmic* (that of fvcore and of torch's own counter) on their input grid. Both count a method
as it is defined. *engine* counts what a runner executes: the same output for less work.

Activations are counted alongside: the output elements of convolutions, as the field's challenges
count them, and of linear layers, which are 1x1 convolutions. Batched matrix products, as in
attention, have none.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.module_tracker import ModuleTracker

from pcsr.errors import UserError
from pcsr.runtime import DispatchMode

#: Free operations, besides views and those that torch itself tags as pointwise (activations and
#: elementwise arithmetic).
FREE = frozenset(
    f"aten.{name}"
    for kind in (
        # pointwise, without the tag
        "fill_ zero_ glu hardswish hardswish_ log_sigmoid_forward native_dropout rsub",
        # interpolation and pooling
        "upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_linear1d "
        "upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "grid_sampler_2d avg_pool2d max_pool2d_with_indices _adaptive_avg_pool2d "
        "adaptive_max_pool2d",
        # reductions to statistics and probabilities
        "mean sum amax amin max min var var_mean std linalg_vector_norm any all argmax argmin "
        "_softmax _log_softmax _safe_softmax topk sort",
        # moving data
        "copy_ _to_copy _unsafe_view cat stack constant_pad_nd reflection_pad1d reflection_pad2d "
        "replication_pad1d replication_pad2d pixel_shuffle pixel_unshuffle channel_shuffle "
        "native_channel_shuffle im2col col2im repeat roll flip rot90 tril triu index index_select "
        "index_put index_put_ gather scatter scatter_ embedding masked_select nonzero "
        "_local_scalar_dense unsafe_split unsafe_split_with_sizes _weight_norm_interface",
        # new tensors
        "arange linspace scalar_tensor empty empty_like empty_strided new_empty new_empty_strided "
        "zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full eye "
        "rand rand_like randn randn_like uniform_ normal_ bernoulli bernoulli_",
    )
    for name in kind.split()
)


@dataclass(frozen=True)
class Flops:
    """A number of FLOPs in each convention, and of activations; adds and scales like a number."""

    paper: float = 0.0
    algorithmic: float = 0.0
    engine: float = 0.0
    activations: float = 0.0  # of the definition

    def __add__(self, other: Flops) -> Flops:
        return Flops(*map(operator.add, astuple(self), astuple(other)))

    def __mul__(self, times: float) -> Flops:
        return Flops(*(number * times for number in astuple(self)))

    def run_as(self, engine: float) -> Flops:
        """Return the same counts with other FLOPs for the engine."""
        return replace(self, engine=engine)


@dataclass(frozen=True)
class Costs:
    """What an image costs: ``shared`` once, and ``branch[j]`` for each unit routed to branch j."""

    shared: Flops
    branch: tuple[Flops, ...]

    def total(self, units: Sequence[int]) -> Flops:
        """Return the FLOPs of an image that sends ``units[j]`` units to branch j."""
        return sum((b * n for b, n in zip(self.branch, units, strict=True)), start=self.shared)


def count(module: nn.Module, *inputs: Tensor | int, folded: bool = False) -> Flops:
    """Count the FLOPs of ``module(*inputs)``, as defined, in eval mode by running it once.

    With ``folded``, the engine runs it with BatchNorm folded into its convolutions.

    Raises:
        UserError: it runs an operation that is neither counted nor known to be free.
    """
    training = module.training
    try:
        with torch.no_grad(), _undisguised(), ModuleTracker() as modules, _Meter(modules) as meter:
            module.eval()(*inputs)
    finally:
        module.train(training)
    return meter.counted if folded else meter.counted.run_as(meter.counted.algorithmic)


@contextmanager
def _undisguised() -> Iterator[None]:
    """Make torch run operations under their own names, without fast paths or deterministic ones.

    Fused attention would be a single operation, with many possible names, instead of its products;
    and off the CPU, deterministic algorithms replace bilinear interpolation by indexing and
    products.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    strict = torch.get_deterministic_debug_mode()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_deterministic_debug_mode(0)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_deterministic_debug_mode(strict)
        torch.backends.mha.set_fastpath_enabled(fast)


class _Meter(DispatchMode):
    """Count every operation that torch executes, folded; refuse those it cannot count."""

    def __init__(self, modules: ModuleTracker) -> None:
        super().__init__()
        self.counted = Flops(0, 0, 0, 0)
        self._modules = modules

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = str(func.overloadpacket), kwargs or {}
        if name in RULES:
            result = func(*args, **kwargs)
            self.counted += RULES[name](args, result)
            return result
        if name in FREE or func.is_view or torch.Tag.pointwise in func.tags:
            return func(*args, **kwargs)
        with self:  # under inference_mode, composite operations arrive whole
            result = func.decompose(*args, **kwargs)
        if result is NotImplemented:
            raise UserError(
                f"{max(self._modules.parents - {'Global'}, key=len, default='function')}: cannot "
                f"count the FLOPs of {name}; use convolutions, linear layers or products of "
                "matrices instead, or give the operation a rule in pcsr/flops.py."
            )
        return result


def _convolution(args: Sequence[Any], result: Tensor) -> Flops:
    source, kernel, transposed = args[0], args[1], args[6]
    each = 2 * len(source) * kernel.numel()  # per position of the grid
    # Not torch.utils.flop_counter, whose import takes a tenth as long as torch's.
    paper = each * result[0, 0].numel()
    algorithmic = each * (source if transposed else result)[0, 0].numel()
    return Flops(paper, algorithmic, algorithmic, result.numel())


def _product(first: int, args: Sequence[Any], result: Tensor) -> Flops:
    """Count a product of two matrices, or a matrix and a vector: arguments ``first`` and next."""
    left, right = args[first : first + 2]
    flops = 2 * left.numel() * (right.shape[-1] if right.ndim > 1 else 1)
    return Flops(flops, flops, flops, 0)


def _linear(first: int, args: Sequence[Any], result: Tensor) -> Flops:
    """Count a linear layer, which torch runs as a product of two matrices (attention: batched)."""
    return _product(first, args, result) + Flops(0, 0, 0, result.numel())


def _elementwise(each: int, args: Sequence[Any], result: Tensor) -> Flops:
    flops = each * result.numel()
    return Flops(flops, flops, flops, 0)


def _norm(weight: int, args: Sequence[Any], results: Sequence[Tensor]) -> Flops:
    """Count a norm that takes its statistics from its input; argument ``weight`` scales it."""
    return _elementwise(4 + (args[weight] is not None), args, results[0])


def _batch_norm(args: Sequence[Any], results: Sequence[Tensor]) -> Flops:
    if args[5]:  # an instance norm: statistics of its input
        return _norm(1, args, results)
    return _elementwise(2, args, results[0]).run_as(0)  # folded


#: Operations -> their FLOPs, given the arguments and the result of one.
_COUNTED: Mapping[str, Callable[[Sequence[Any], Any], Flops]] = {
    "convolution": _convolution,
    "mm mv": partial(_linear, 0),
    "bmm dot": partial(_product, 0),
    "addmm addmm_ addmv addmv_": partial(_linear, 1),
    "addbmm addbmm_ baddbmm baddbmm_": partial(_product, 1),
    "_prelu_kernel": partial(_elementwise, 1),
    "native_batch_norm cudnn_batch_norm": _batch_norm,
    "native_layer_norm": partial(_norm, 2),
    "native_group_norm": partial(_norm, 1),
}
RULES = {f"aten.{name}": rule for names, rule in _COUNTED.items() for name in names.split()}


def per_lr_pixel(network: nn.Module, folded: bool = False) -> Flops:
    """Count a network's FLOPs per LR pixel, if they are proportional to the size of the image.

    They are if all layers keep or multiply the size of their input, as convolutions do.

    Raises:
        UserError: the FLOPs are not proportional to the size, as with attention over the whole
            image; or see ``count``.
    """
    parameter = next(network.parameters())
    small, large = (
        count(network, parameter.new_zeros(1, 3, side, side), folded=folded) * (1 / side**2)
        for side in (8, 16)
    )
    if small != large:
        raise UserError(
            f"{type(network).__name__}: its FLOPs are not proportional to the size of the image; "
            "count them at the size that runs: set whole_image in the backbone."
        )
    return small


def per_image(
    network: nn.Module, whole_image: bool, folded: bool = False
) -> Callable[[tuple[int, int]], Flops]:
    """Return a function that gives a network's FLOPs for one LR image of a height and width.

    If a network sees the ``whole_image``, its FLOPs need not be proportional to the image's size;
    they are then counted at the size.

    Raises:
        UserError: see ``per_lr_pixel`` and ``count``.
    """
    if not whole_image:
        each = per_lr_pixel(network, folded)
        return lambda lr_size: each * (lr_size[0] * lr_size[1])
    plain = copy.deepcopy(network).to("meta")  # nothing is computed
    return lambda size: count(plain, torch.empty(1, 3, *size, device="meta"), folded=folded)
