"""Backbones laid out for inference: the same output for less work.

BatchNorm is folded, CARN's concatenations become sums, on a CPU convolutions take activations and
sums of blocks into their pass, and in float16 channels are padded for tensor cores.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pcsr.backbones.base import Backbone
from pcsr.backbones.carn import CARN, Cascade, EfficientResidual
from pcsr.backbones.fsrcnn import FSRCNN
from pcsr.backbones.srresnet import ResidualBlock
from pcsr.engine.cpu.onednn import Enlarging, Residual, Summed, fused


def deploy(network: Backbone, precision: torch.dtype = torch.float32) -> Backbone:
    """Return a network in eval mode with the same output for less work.

    It shares nothing with ``network``; deploy again after weights have changed. In float16
    ``features`` may have more channels than ``width``, the added ones zero.

    Args:
        network: as defined.
        precision: of weights and features.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    if isinstance(fast, CARN) and isinstance(fast.body, Cascade):
        fast.body = _summed(fast.body)
    if next(fast.parameters()).device.type == "cpu":
        _fuse(fast)
        if isinstance(fast, FSRCNN) and fast.scale is not None:
            fast.tail = Enlarging(fast.tail)  # type: ignore[assignment]
    if precision == torch.float32:
        return fast
    # float16 is for GPUs. A CPU gains nothing from added channels.
    wide = widened(fast) if fast.widens and precision == torch.float16 else fast
    return wide.to(precision, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fuse(network: nn.Module) -> None:
    """Let convolutions do what follows them, in place: activations and the sums of blocks."""
    for name, child in network.named_children():
        if isinstance(child, EfficientResidual | ResidualBlock):
            relu = isinstance(child, EfficientResidual)
            setattr(network, name, Residual(child.body, relu))
        else:
            _fuse(child)
            if type(child) is nn.Sequential:
                setattr(network, name, fused(child))


def folded(network: Backbone) -> Backbone:
    """Return a copy in eval mode with BatchNorm folded, made of plain layers like ``network``."""
    plain = copy.deepcopy(network).eval().requires_grad_(False)
    for layers in [module for module in plain.modules() if isinstance(module, nn.Sequential)]:
        for number, (layer, after) in enumerate(pairwise(layers)):
            if isinstance(layer, nn.Conv2d) and isinstance(after, _BatchNorm):
                layers[number] = fuse_conv_bn_eval(layer, after)
                layers[number + 1] = nn.Identity()
    return plain


def widened(network: Backbone) -> Backbone:
    """Return a copy with ungrouped convolutions and channels padded to multiples of 16.

    Tensor cores are underused on few channels, and faster with the added zeros. Images keep their 3
    channels.
    """
    wide = copy.deepcopy(network)
    for module in wide.modules():
        if isinstance(module, nn.Conv2d):
            weight = _dense(module.weight, module.groups)
            outer, inner = (sixteens(n, network.width) for n in weight.shape[:2])
            module.weight = nn.Parameter(padded(weight, (outer, inner)))
            if module.bias is not None:
                module.bias = nn.Parameter(padded(module.bias, (outer,)))
            module.out_channels, module.in_channels, module.groups = outer, inner, 1
        elif isinstance(module, nn.ConvTranspose2d):
            module.in_channels = sixteens(module.in_channels, network.width)
            module.weight = nn.Parameter(padded(module.weight, (module.in_channels,)))
        elif isinstance(module, Summed):
            width = sixteens(network.width, network.width)
            for weights in module.steps:
                for number, values in enumerate(weights):
                    weights[number] = nn.Parameter(padded(values, (width,) * values.ndim))
    return wide


def sixteens(channels: int, width: int) -> int:
    """Round channels up to a multiple of 16, in whole widths: a shuffle by r has r^2 of them.

    The 3 channels of an image are left as they are.
    """
    if channels == 3:
        return channels
    unit = width if channels % width == 0 else channels
    return channels // unit * (-(-unit // 16) * 16)


def padded(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return detached values, their first axes padded with zeros at the end to ``shape``."""
    missing = [(0, to - n) for n, to in zip(values.shape, shape, strict=False)]
    missing += [(0, 0)] * (values.ndim - len(missing))
    return F.pad(values.detach(), [n for pair in reversed(missing) for n in pair])


def _dense(weight: Tensor, groups: int) -> Tensor:
    """Return the weights of a grouped convolution as those of an ungrouped one."""
    if groups == 1:
        return weight
    blocks = [torch.block_diag(*tap.chunk(groups)) for tap in weight.flatten(2).unbind(dim=2)]
    return torch.stack(blocks, dim=2).unflatten(2, weight.shape[2:])


def _summed(cascade: Cascade) -> Summed:
    """Return a cascade for inference: BatchNorm is folded, and nothing is concatenated."""
    units = [_summed(unit) if isinstance(unit, Cascade) else unit for unit in cascade.units]
    return Summed(units, [_folded(*fuse) for fuse in cascade.fuse])


def _folded(convolution: nn.Conv2d, *after: nn.Module) -> list[nn.Parameter]:
    """Split a fusing conv1 into its bias and the weights (width, width) of its parts."""
    if isinstance(after[0], _BatchNorm):  # SyncBatchNorm, too
        convolution = fuse_conv_bn_eval(convolution, after[0])
    weight = convolution.weight.detach()[:, :, 0, 0]
    values = convolution.bias.detach(), *weight.T.contiguous().split(len(weight))  # type: ignore[union-attr]
    return [nn.Parameter(each, requires_grad=False) for each in values]
