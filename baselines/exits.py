"""Networks with early exits: where an exit leaves each backbone, and what it consists of (ENAF)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from pcsr.backbones.base import Backbone, shuffle_steps
from pcsr.backbones.carn import GROUPS
from pcsr.backbones.fsrcnn import FSRCNN, MAPPING_WIDTH, enlarging
from pcsr.backbones.span import SPAN
from pcsr.errors import UserError
from pcsr.methods.base import MakeBackbone

EXITS = 2
SLOPE = 0.1  # of every LeakyReLU


@dataclass(frozen=True)
class Places:
    """Where exits leave a backbone.

    Attributes:
        features: (network, LR) -> the features at which each exit leaves, then those of the tail;
            lazy, so that an exit runs no layer after it.
        exit: (network, width of the exit, scale) -> its layers, features -> image.
        base: (network, LR, scale) -> what is added to the output of an exit.
    """

    features: Callable[[Any, Tensor], Iterator[Tensor]]
    exit: Callable[[Any, int, int], nn.Module]
    base: Callable[[Any, Tensor, int], Tensor | float]


class EarlyExits(nn.Module):
    """A backbone and the exits that leave it.

    Args:
        make_backbone: builds the backbone for a width.
        backbone: its name.
        widths: channels of each exit, then of the backbone.
        scale: HR size / LR size.

    Raises:
        UserError: it is not known where exits leave this backbone, or ``widths`` is not three long.
    """

    def __init__(
        self, make_backbone: MakeBackbone, backbone: str, widths: tuple[int, ...], scale: float
    ) -> None:
        super().__init__()
        if backbone not in PLACES:
            raise UserError(
                f"model.backbone: it is not known where exits leave {backbone}; use "
                f"{', '.join(PLACES)}, or add it to baselines/exits.py."
            )
        if len(widths) != EXITS + 1:
            raise UserError("model.options.widths: give three, of two exits and the network.")
        self.network: Backbone = make_backbone(width=widths[-1], scale=scale)
        self._places = PLACES[backbone]
        self._scale = int(scale)
        self.exits = nn.ModuleList(
            self._places.exit(self.network, width, self._scale) for width in widths[:-1]
        )

    def forward(self, lr: Tensor, number: int) -> Tensor:
        """Super-resolve (N, 3, h, w) in [0, 1] by one exit; number 2 is the whole network."""
        features = next(islice(self._places.features(self.network, lr), number, None))
        return self._leave(number, features, lr)

    def outputs(self, lr: Tensor) -> Iterator[Tensor]:
        """Yield the output of each exit, then of the whole network, of (N, 3, h, w) in [0, 1]."""
        for number, features in enumerate(self._places.features(self.network, lr)):
            yield self._leave(number, features, lr)

    def _leave(self, number: int, features: Tensor, lr: Tensor) -> Tensor:
        if number == EXITS:
            return self.network.upsample(features, lr)
        base = self._places.base(self.network, lr, self._scale)
        return self.exits[number](features) + base


def _along_fsrcnn(network: FSRCNN, lr: Tensor) -> Iterator[Tensor]:
    """Yield the features after two mapping layers, after all of them, and after the expansion."""
    half = network.map[:2](network.shrink(network.extract(lr)))
    yield half
    mapped = network.map[2:](half)
    yield mapped
    yield network.expand(mapped)


def _along_span(network: SPAN, lr: Tensor) -> Iterator[Tensor]:
    """Yield the features after two of the six blocks, after four, and those of the tail."""
    yield from islice(network.along(lr), 1, None, 2)


def _before_tail(network: Backbone, lr: Tensor) -> Iterator[Tensor]:
    """Yield the features before the tail, where all exits leave."""
    features = network.features(lr)
    for _ in range(EXITS + 1):
        yield features


def _fsrcnn_exit(network: FSRCNN, width: int, scale: int) -> nn.Module:
    convolution = nn.Conv2d(MAPPING_WIDTH, width, 3, padding=1)
    return nn.Sequential(convolution, nn.LeakyReLU(SLOPE), enlarging(width, scale))


def _shuffling_exit(network: Backbone, width: int, scale: int, groups: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = network.width
    for step in shuffle_steps(scale):
        convolution = nn.Conv2d(before, width * step**2, 3, padding=1, groups=groups)
        layers += [convolution, nn.LeakyReLU(SLOPE), nn.PixelShuffle(step)]
        before = width
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


def _bilinear(network: Backbone, lr: Tensor, scale: int) -> Tensor:
    return interpolate(lr, scale_factor=scale, mode="bilinear")


def _span_exit(network: SPAN, width: int, scale: int) -> nn.Module:
    """Build a convolution to ``width`` channels, and the layers of SPAN's own tail."""
    before = network.entry.out_channels
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(width, 3 * scale**2, 3, padding=1),
        nn.PixelShuffle(scale),
    )


# FSRCNN and CARN follow the release. It is not known where SRResNet's published exits leave; these
# are CARN's with plain convolutions. No paper has exits on SPAN; these are the suite's own.
PLACES = {
    "fsrcnn": Places(_along_fsrcnn, _fsrcnn_exit, lambda network, lr, scale: 0.0),
    "carn": Places(
        _before_tail,
        partial(_shuffling_exit, groups=GROUPS),
        lambda network, lr, scale: network.mean,
    ),
    "srresnet": Places(_before_tail, partial(_shuffling_exit, groups=1), _bilinear),
    "span": Places(_along_span, _span_exit, _bilinear),
}
