"""What every backbone shares: its interface and the initialisation of the originals."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.config.models import Config
from pcsr.errors import UserError


class Backbone(nn.Module, ABC):
    """A super-resolution network split into features and tail.

    Attributes:
        Options: model of the backbone's own options, ``model.backbone_options`` in an experiment;
            they are passed to the constructor.
        width: channels of the features.
        scale: integer HR size / LR size of the tail, or None for an encoder.
        halo: radius in LR pixels of a feature's receptive field.
        tail_halo: radius in features of the tail's receptive field.
    """

    Options: ClassVar[type[Config]] = Config
    width: int
    scale: int | None
    halo: int
    tail_halo: int

    @abstractmethod
    def features(self, lr: Tensor) -> Tensor:
        """Map LR images (N, 3, h, w) in [0, 1] to features (N, width, h, w)."""

    @abstractmethod
    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """Map features and their LR images to HR images (N, 3, h*scale, w*scale)."""

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve, or encode if built without a tail.

        The output has the data type of ``lr``, also if the weights have another.
        """
        x = lr.to(next(self.parameters()).dtype)
        features = self.features(x)
        return (features if self.scale is None else self.upsample(features, x)).to(lr.dtype)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile features and tail separately, because the engine runs them on different parts."""
        self.features = torch.compile(self.features, *args, **kwargs)  # type: ignore[method-assign]
        self.upsample = torch.compile(self.upsample, *args, **kwargs)  # type: ignore[method-assign]

    def inference(self) -> "Backbone":
        """Return a network with the same output for less work, in eval mode; by default ``self``.

        It may share weights with this network. Call this again after the weights have changed.
        """
        return self

    def deployed(self, precision: torch.dtype) -> "Backbone":
        """Return ``inference()`` in a precision; in half precision, laid out for tensor cores.

        In half precision ``features`` may have more channels than ``width``; the added ones are
        zero.
        """
        network = self.inference()
        if precision == torch.float32:
            return network
        return network.widened().to(precision, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def widened(self) -> "Backbone":
        """Return a copy with ungrouped convolutions and channels padded to multiples of 16.

        Tensor cores are underused on few channels: computing the added zeros takes them less time
        than doing without. Images keep their 3 channels.
        """
        wide = copy.deepcopy(self)
        for module in wide.modules():
            if isinstance(module, nn.Conv2d):
                weight = _dense(module.weight, module.groups)
                outer, inner = (sixteens(n, self.width) for n in weight.shape[:2])
                module.weight = nn.Parameter(padded(weight, (outer, inner)))
                if module.bias is not None:
                    module.bias = nn.Parameter(padded(module.bias, (outer,)))
                module.out_channels, module.in_channels, module.groups = outer, inner, 1
            elif isinstance(module, nn.ConvTranspose2d):
                module.in_channels = sixteens(module.in_channels, self.width)
                module.weight = nn.Parameter(padded(module.weight, (module.in_channels,)))
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


def whole_scale(scale: float | None, supported: Iterable[int], backbone: str) -> int | None:
    """Return the scale as the integer that a tail needs; None, for an encoder, stays None.

    Raises:
        UserError: the backbone has no tail for this scale.
    """
    if scale is None:
        return None
    supported = list(supported)
    if scale not in supported:
        tails = ", ".join(f"x{one}" for one in supported)
        raise UserError(
            f"model.scale: {backbone} has no tail for x{scale:g}; it has {tails}. Fractional "
            "scales need a method with per-pixel heads, such as pcsr."
        )
    return int(scale)


def initialise(convolutions: Iterable[nn.Module]) -> None:
    """Draw Kaiming-normal weights (fan-in) x 0.1 and zero biases (docs/protocol.md, backbones).

    Only plain ``nn.Conv2d`` modules are initialised; all others are left as they are.
    """
    for module in convolutions:
        if type(module) is nn.Conv2d:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
