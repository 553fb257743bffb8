"""FLOPs in the two conventions of the field and as the engine executes them; counted by fvcore.

A multiply-add counts as two FLOPs. Convolutions and linear maps are counted this way; PReLU adds
one FLOP per element and BatchNorm two. Additions, ReLU, shuffles and interpolation are free, as in
the published tables. The two conventions differ only in transposed convolutions: *paper* charges
them on their output grid, *algorithmic* (fvcore's own count) on their input grid. Both count a
method as it is defined. *engine* counts what a runner executes: the same output for less work.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Flops:
    """A number of FLOPs in each convention; adds and scales like a number."""

    paper: float = 0.0
    algorithmic: float = 0.0
    engine: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.paper + other.paper,
            self.algorithmic + other.algorithmic,
            self.engine + other.engine,
        )

    def __mul__(self, times: float) -> Flops:
        return Flops(self.paper * times, self.algorithmic * times, self.engine * times)

    def run_as(self, engine: float) -> Flops:
        """Return the same definition with the FLOPs of another way to execute it."""
        return Flops(self.paper, self.algorithmic, engine)


@dataclass(frozen=True)
class Costs:
    """What an image costs: ``shared`` once, and ``branch[j]`` for each unit routed to branch j."""

    shared: Flops
    branch: tuple[Flops, ...]

    def total(self, units: Sequence[int]) -> Flops:
        """Return the FLOPs of an image that sends ``units[j]`` units to branch j."""
        return sum((b * n for b, n in zip(self.branch, units, strict=True)), start=self.shared)


def count(module: nn.Module, *inputs: Tensor, folded: bool = False) -> Flops:
    """Count the FLOPs of ``module(*inputs)`` in eval mode by tracing it once.

    Args:
        module: as defined.
        inputs: of its forward pass.
        folded: whether it runs with BatchNorm folded into its convolutions (``engine`` alone).
    """
    handles = {
        "aten::_convolution": _convolution,
        "aten::linear": _linear,
        "aten::addmm": _addmm,
        "aten::addmm_": _addmm,
        "aten::prelu": partial(_elementwise, 1),
        "aten::batch_norm": _batch_norm,
    }
    training = module.training
    with warnings.catch_warnings():
        # fvcore uses torch.jit at import and for tracing; newer torch warns that it is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - heavy, only counting needs it

        analysis = FlopCountAnalysis(module.eval(), inputs).set_op_handle(**handles)
        try:
            counted = analysis.unsupported_ops_warnings(False).tracer_warnings("none").by_operator()
        finally:
            module.train(training)
    engine = counted["algorithmic"] - (counted["batch_norm"] if folded else 0)
    return Flops(counted["paper"], counted["algorithmic"], engine)


def _both(paper: int, algorithmic: int) -> Counter[str]:
    return Counter(paper=paper, algorithmic=algorithmic)


def _convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    source, kernel, result = (_shape(value) for value in (*inputs[:2], *outputs))
    transposed = inputs[6].toIValue()
    per_position = 2 * source[0] * prod(kernel)
    return _both(
        paper=per_position * prod(result[2:]),
        algorithmic=per_position * prod((source if transposed else result)[2:]),
    )


def _linear(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    flops = 2 * prod(_shape(inputs[0])) * _shape(inputs[1])[0]
    return _both(flops, flops)


def _addmm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    flops = 2 * prod(_shape(inputs[1])) * _shape(inputs[2])[1]
    return _both(flops, flops)


def _elementwise(each: int, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    flops = each * prod(_shape(outputs[0]))
    return _both(flops, flops)


def _batch_norm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    flops = 2 * prod(_shape(outputs[0]))
    return Counter(paper=flops, algorithmic=flops, batch_norm=flops)


def _shape(value: Any) -> list[int]:
    sizes: list[int] = value.type().sizes()
    return sizes


def per_lr_pixel(network: nn.Module, folded: bool = False) -> Flops:
    """Count a convolutional network's FLOPs per LR pixel.

    All its layers keep or multiply the size of their input, so that the count of any image is this
    number times its LR pixels, exactly.

    Args:
        network: as defined.
        folded: whether it runs with BatchNorm folded, as the engine runs it.
    """
    side = 8
    lr = next(network.parameters()).new_zeros(1, 3, side, side)
    return count(network, lr, folded=folded) * (1 / side**2)
