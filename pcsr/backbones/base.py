"""What every backbone shares: its interface and the initialisation of the originals."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
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
        halo: radius in LR pixels of a feature's receptive field; with ``whole_image``, the margin
            of tiles of an image that does not fit in memory.
        tail_halo: radius in features of the tail's receptive field.
        whole_image: whether a feature depends on the whole image, as with attention or statistics
            over all of it. The engine then runs images whole where memory allows it, and FLOPs are
            counted at the size that runs.
        least_side: smallest side of an LR image in pixels.
        widens: whether channels may be padded with zeros at their end, because no layer joins or
            splits them.
    """

    Options: ClassVar[type[Config]] = Config
    whole_image: ClassVar[bool] = False
    least_side: ClassVar[int] = 1
    widens: ClassVar[bool] = False
    width: int
    scale: int | None
    halo: int
    tail_halo: int

    @abstractmethod
    def features(self, lr: Tensor) -> Tensor:
        """Map LR images (N, 3, h, w) in [0, 1] to features (N, width, h, w).

        Raises:
            UserError: a side of the images is shorter than ``least_side``.
        """

    @abstractmethod
    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """Map features and their LR images to HR images (N, 3, h*scale, w*scale)."""

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve, or encode if built without a tail.

        The output has the data type of ``lr``, whatever that of the weights.
        """
        x = lr.to(next(self.parameters()).dtype)
        features = self.features(x)
        return (features if self.scale is None else self.upsample(features, x)).to(lr.dtype)

    def require_sides(self, lr: Tensor) -> None:
        """Refuse LR images (N, 3, h, w) that are smaller than ``least_side``.

        Raises:
            UserError: a side is too short.
        """
        height, width = lr.shape[-2:]
        if min(height, width) < self.least_side:
            raise UserError(
                f"{type(self).__name__} needs LR images, and training crops (patch), of at least "
                f"{self.least_side} pixels a side, and this one is {width}x{height}; give a larger "
                "one."
            )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile features and tail separately, because the engine runs them on different parts."""
        self.features = torch.compile(self.features, *args, **kwargs)  # type: ignore[method-assign]
        self.upsample = torch.compile(self.upsample, *args, **kwargs)  # type: ignore[method-assign]


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


def shuffle_steps(scale: int) -> list[int]:
    """Return the factors of the pixel shuffles that make up an integer scale: x4 is twice x2."""
    return [2, 2] if scale == 4 else [scale]


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
