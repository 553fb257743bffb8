"""What every backbone shares: its interface and the initialisation of the originals."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from pcsr.errors import UserError


class Backbone(nn.Module, ABC):
    """A super-resolution network split into features and tail.

    Attributes:
        width: channels of the features.
        scale: integer HR size / LR size of the tail, or None for an encoder.
    """

    width: int
    scale: int | None

    @property
    @abstractmethod
    def halo(self) -> int:
        """LR pixels on each side of a place that its feature (with a tail, its SR) depends on."""

    @abstractmethod
    def features(self, lr: Tensor) -> Tensor:
        """Map LR pictures (N, 3, h, w) in [0, 1] to features (N, width, h, w)."""

    @abstractmethod
    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """Map features and their LR pictures to HR pictures (N, 3, h*scale, w*scale)."""

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve, or encode when built without a tail."""
        features = self.features(lr)
        return features if self.scale is None else self.upsample(features, lr)

    def inference(self) -> "Backbone":
        """Return a network in eval mode that gives the same with less work; by default itself.

        It may share weights with this one, and is made anew whenever these have changed.
        """
        return self


def whole_scale(scale: float | None, supported: Iterable[int], backbone: str) -> int | None:
    """Return the scale as the integer a tail needs.

    Raises:
        UserError: the backbone's tail does not exist at this scale.
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
    """Kaiming-normal weights (fan-in) x 0.1 and zero biases (docs/protocol.md, backbones)."""
    for module in convolutions:
        if type(module) is nn.Conv2d:
            nn.init.kaiming_normal_(module.weight)
            module.weight.data.mul_(0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
