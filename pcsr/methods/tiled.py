"""What tile methods share: cut into tiles, route each, run by branch, assemble."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pcsr.flops import Costs, Flops
from pcsr.geometry import TILE, Mosaic, Tiles
from pcsr.images.levels import levels
from pcsr.methods.base import Exploration, Method
from pcsr.methods.checks import require_scale
from pcsr.routing import OperatingPoint

# Tiles per batch. On a CPU, few enough for CARN's activations to stay near the caches, which is
# fastest. On a GPU, few enough for SRResNet's activations to take 1.7 GB.
BATCH = {"cpu": 8, "cuda": 128}


def batches(tiles: Tiles, device: torch.device) -> Sequence[Tensor]:
    """Return the numbers of all tiles, (n,) each, in batches for a device."""
    return torch.arange(len(tiles)).split(BATCH[device.type])


class Tiled(Method):
    """A method whose unit is a tile of 32x32 LR pixels, step 28 (protocol section 6).

    Every tile is rounded to 8 bit before the overlap is averaged, as the releases of ClassSR and
    ARM do. A subclass scores tiles, super-resolves them by each branch, and routes.
    """

    unit = "tile"

    @abstractmethod
    def score(self, tiles: Tensor) -> Tensor:
        """Return the scores of LR tiles in [0, 1]: (n, 3, 32, 32) -> (n, M)."""

    @abstractmethod
    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """Super-resolve by one branch: (n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale)."""

    def outputs(self, lr: Tensor) -> Iterator[Tensor]:
        """Yield the output of every branch in order; a subclass may share work between them."""
        return (self.upscale(branch, lr) for branch in range(self.branches))

    @abstractmethod
    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """Count the FLOPs per LR tile: of its scores, and of each branch."""

    @cached_property
    def _tile_flops(self) -> tuple[Flops, tuple[Flops, ...]]:
        return self.tile_costs()

    @property
    def branch_costs(self) -> list[float]:
        """Paper FLOPs of a tile in each branch, for a router that weighs them."""
        return [cost.paper for cost in self._tile_flops[1]]

    def explore(self, lr: Tensor, scale: float) -> Exploration:
        """See ``Method.explore``.

        Candidates are 8-bit levels (M, tiles, 3, 32 * scale, 32 * scale), the tiles of all images
        in order. Scores are (N, M, rows, columns) of tiles.
        """
        side = TILE * require_scale(self.config, scale)
        tiles = Tiles(len(lr), (lr.shape[-2], lr.shape[-1]))
        shape = (self.branches, len(tiles), 3, side, side)
        candidates = torch.empty(shape, dtype=torch.uint8, device=lr.device)
        scores = []
        for numbers in batches(tiles, lr.device):
            cut = tiles.cut(lr, numbers)
            scores.append(self.score(cut))
            for branch, sr in enumerate(self.outputs(cut)):
                candidates[branch, numbers] = levels(sr)
        return Exploration(candidates, grid(scores, tiles), tiles.lr_size)

    def compose(self, exploration: Exploration, labels: Tensor, point: OperatingPoint) -> Tensor:
        """Assemble the images from the chosen tiles; there are no pixels to refine."""
        tiles = Tiles(len(labels), exploration.lr_size)
        numbers = torch.arange(len(tiles))
        chosen = exploration.candidates[labels.flatten(), numbers.to(labels.device)]
        mosaic = Mosaic(tiles, chosen.shape[-1] // TILE, chosen.device)
        mosaic.add(numbers, chosen)
        return mosaic.images()

    def costs(self, lr_size: tuple[int, int], scale: float) -> Costs:
        """See ``Method.costs``: scoring every tile, then one branch per tile."""
        score, branches = self._tile_flops
        return Costs(score * len(Tiles(1, lr_size)), branches)

    def lr_pixels(self, lr_size: tuple[int, int]) -> int:
        """See ``Method.lr_pixels``: the pixels of all tiles."""
        return len(Tiles(1, lr_size)) * TILE**2

    def pixel_labels(self, labels: Tensor, lr_size: tuple[int, int], scale: float) -> Tensor:
        """See ``Method.pixel_labels``: where tiles overlap, the branch of the nearest tile."""
        tiles = Tiles(len(labels), lr_size)
        rows, columns = tiles.nearest((round(lr_size[0] * scale), round(lr_size[1] * scale)))
        return labels[:, rows.to(labels.device)][:, :, columns.to(labels.device)]


class Tabulated(ABC):
    """A method that routes by a table, which is filled from validation images after training."""

    @abstractmethod
    def tabulate(self, images: Iterable[tuple[Tensor, Tensor]]) -> Mapping[str, Any]:
        """Fill the table and return facts to record about it.

        Args:
            images: validation images, LR (1, 3, h, w) and HR (1, 3, H, W) in [0, 1].
        """


def grid(rows: list[Tensor], tiles: Tiles) -> Tensor:
    """Arrange values per tile, [(n, M), ...] in order, as (N, M, rows, columns)."""
    return torch.cat(rows).view(*tiles.shape, -1).permute(0, 3, 1, 2)
