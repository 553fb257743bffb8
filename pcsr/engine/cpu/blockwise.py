"""Train heads on a CPU: the layers after the first, on all pixels of a regular grid.

They are most of the work. They run on a block of pixels at a time, so that hidden values stay in
cache. The backward pass recomputes these, which takes less time than storing and reading them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pcsr.engine.cpu.onednn import in_onednn, product
from pcsr.methods import heads
from pcsr.methods.base import Method

BLOCK = 1 << 11  # HR pixels; their hidden values of the paper's widest head take 1.4 MB


def accelerate(method: Method) -> None:
    """Let the heads of a method, if it has any, run blockwise; the values are the same."""
    for module in method.modules():
        if isinstance(module, heads.Head):
            module.finish = finish


def finish(layers: Sequence[nn.Linear], by_feature: Tensor, by_place: Tensor) -> Tensor:
    """See ``heads.Finish``."""
    if not layers or not in_onednn(by_feature) or by_feature.dtype != layers[0].weight.dtype:
        return heads.finish(layers, by_feature, by_place)
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    return _Blockwise.apply(by_feature, by_place, *tensors)


class _Blockwise(torch.autograd.Function):
    """The layers after the first, forward and backward, a block of pixels at a time."""

    @staticmethod
    def forward(ctx: Any, by_feature: Tensor, by_place: Tensor, *layers: Tensor) -> Tensor:
        ctx.save_for_backward(by_feature, by_place, *layers)
        *hidden, (weight, bias) = _pairs(layers)
        outputs = by_feature.new_empty(len(by_feature), len(by_place), len(weight))
        for block, out in _blocks(len(by_place), by_feature, outputs):
            inputs = _hidden(block, by_place, hidden)[-1]
            out.copy_(product(inputs, weight.T, bias).view_as(out))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        by_feature, by_place, *layers = ctx.saved_tensors
        pairs = _pairs(layers)
        # Contiguous for the products with the gradients.
        weights = [weight.contiguous() for weight, _ in pairs]
        d_feature, d_place = torch.empty_like(by_feature), torch.zeros_like(by_place)
        d_layers = [torch.zeros_like(tensor) for tensor in layers]
        steps = list(enumerate(zip(weights, _pairs(d_layers), strict=True)))[::-1]
        for block, d_outputs, d_block in _blocks(len(by_place), by_feature, gradient, d_feature):
            values = _hidden(block, by_place, pairs[:-1])
            g = d_outputs.flatten(0, 1)
            for number, (weight, (d_weight, d_bias)) in steps:
                d_weight.addmm_(g.T, values[number])
                d_bias.add_(g.sum(dim=0))
                g = torch.ops.aten.threshold_backward(product(g, weight), values[number], 0)
            g = g.view(len(block), len(by_place), -1)
            torch.sum(g, dim=1, out=d_block)
            d_place.add_(g.sum(dim=0))
        return d_feature, d_place, *d_layers


def _pairs(layers: Any) -> list[tuple[Tensor, Tensor]]:
    """Pair the weights and biases of a flat sequence (weight, bias, weight, bias, ...)."""
    return list(zip(layers[::2], layers[1::2], strict=True))


def _blocks(places: int, *tensors: Tensor) -> Any:
    """Split tensors along LR pixels into blocks of at most ``BLOCK`` HR pixels, to fit in cache."""
    size = max(1, BLOCK // places)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


def _hidden(
    by_feature: Tensor, by_place: Tensor, layers: list[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Return the inputs of all layers after the first, each (pixels, width), like ``finish``.

    ``layers`` are the weights and biases between the first layer and the last.
    """
    values = [(by_feature[:, None] + by_place).relu_().flatten(0, 1)]
    for weight, bias in layers:
        values.append(product(values[-1], weight.T, bias, relu=True))
    return values
