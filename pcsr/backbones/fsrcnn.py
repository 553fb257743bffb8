"""FSRCNN (Dong et al., ECCV 2016): shrink, map, expand, one transposed convolution."""

from torch import Tensor, nn

from pcsr.backbones.base import Backbone, initialise, whole_scale

MAPPING_WIDTH = 12
MAPPING_LAYERS = 4


class FSRCNN(Backbone):
    """FSRCNN with d = ``width``, s = 12, m = 4.

    There is no activation between the mapping layers, only one PReLU after them, and every PReLU
    has a single parameter. Both follow the ClassSR and PCSR releases.
    """

    halo = 2 + MAPPING_LAYERS
    tail_halo = 2
    widens = True

    def __init__(self, width: int = 56, scale: float | None = 4) -> None:
        super().__init__()
        self.width = width
        self.scale = whole_scale(scale, (2, 3, 4), "fsrcnn")
        s = MAPPING_WIDTH
        self.extract = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.PReLU())
        self.shrink = nn.Sequential(nn.Conv2d(width, s, 1), nn.PReLU())
        self.map = nn.Sequential(
            *[nn.Conv2d(s, s, 3, padding=1) for _ in range(MAPPING_LAYERS)], nn.PReLU()
        )
        self.expand = nn.Sequential(nn.Conv2d(s, width, 1), nn.PReLU())
        if self.scale is not None:
            self.tail = enlarging(width, self.scale)
        initialise(self.modules())

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        return self.expand(self.map(self.shrink(self.extract(lr))))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        return self.tail(features)


def enlarging(width: int, scale: int) -> nn.ConvTranspose2d:
    """Return a transposed conv9: ``width`` features to an image, ``scale`` times as large."""
    # 9 - 2 * padding + output_padding = scale keeps LR pixels centred on their HR block.
    return nn.ConvTranspose2d(
        width, 3, 9, scale, padding=(10 - scale) // 2, output_padding=scale % 2 ^ 1
    )
