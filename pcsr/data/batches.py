"""Training batches: a pure function of (store, seed, step), cut and assembled on the device."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pcsr import runtime
from pcsr.config.models import LRBits, StageConfig
from pcsr.data import bicubic
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.geometry import crop_origins, hr_size
from pcsr.images.levels import round_8bit


class Batches:
    """Training batches, each cut, flipped and degraded as a whole.

    Args:
        scale: HR size / LR size.
        share: (rank, world size). Each process takes every ``world``-th sample of the same global
            batch.
        only: indices of the crops to draw from; None draws from all.

    Raises:
        UserError: the batch cannot be split evenly between the processes.
    """

    def __init__(
        self,
        store: Store,
        stage: StageConfig,
        scale: float,
        seed: int,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        only: np.ndarray | None = None,
    ) -> None:
        rank, world = share
        if stage.batch % world:
            raise UserError(
                f"stages: batch {stage.batch} cannot be shared evenly by {world} processes; use a "
                "multiple of that, or another number of processes."
            )
        size = hr_size((stage.patch, stage.patch), scale)[0]
        self.crops = Crops(store, size, device)
        self._degrade = degradation((size, stage.patch), stage.lr, device)
        self._batch = stage.batch
        self._seed = seed
        self._available = np.arange(len(self.crops)) if only is None else only
        self._share = slice(rank, None, world)

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the crop indices (n,) of one step, and their augmentation (n, 3), boolean.

        The three columns are: flip rows, flip columns, transpose.
        """
        random = np.random.default_rng((self._seed, step))
        chosen = random.integers(len(self._available), size=self._batch)[self._share]
        turns = random.random((self._batch, 3))[self._share] < 0.5
        return self._available[chosen], turns

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the LR (n, 3, patch, patch) and HR (n, 3, P, P) crops of a step, in [0, 1]."""
        hr = self.crops.cut(self.crops.places(*self.draw(step))).float() / 255
        return self._degrade(hr), hr

    def random(self, step: int) -> np.random.Generator:
        """Return the random generator a method may draw from in one step."""
        return np.random.default_rng((self._seed, step, 1))


def degradation(
    sizes: tuple[int, int], bits: LRBits, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return ``bicubic.degrade`` for square crops of one size, as two small matrix products.

    It degrades HR (..., H, H) in [0, 1] to float32 LR (..., h, h), where ``sizes`` is (H, h).
    """
    rows = bicubic.matrix(*sizes).to(device, torch.float32)

    def degrade(hr: Tensor) -> Tensor:
        lr = rows @ hr @ rows.T
        return round_8bit(lr) if bits == "8bit" else lr

    return degrade


class Crops:
    """All training crops of a store, cut from its packed pixels a batch at a time.

    The bytes of a crop are at ``start + row * down + column * right + channel``. Flips and
    transposes only change the start and the steps, so augmentation is free.

    Args:
        size: side of a crop in HR pixels.
        device: where the crops are needed. The store is copied there if it fits in half of the
            free memory; otherwise it stays memory-mapped, and the crops are copied.
    """

    def __init__(self, store: Store, size: int, device: torch.device) -> None:
        self.table = crop_table(store.sizes, size)
        self.size = size
        self.device = device
        self._offsets = np.array([image.offset for image in store.images])
        self._widths = np.array([image.width for image in store.images])
        self._bytes = store.packed()
        if device.type != "cpu" and len(self._bytes) < runtime.free_memory(device) / 2:
            self._bytes = self._bytes.to(device)
        self._along = torch.arange(size, device=self._bytes.device)
        self._channels = torch.arange(3, device=self._bytes.device)[:, None, None]

    def __len__(self) -> int:
        return len(self.table)

    def places(self, index: np.ndarray, turns: np.ndarray | None = None) -> Tensor:
        """Return where crops are in the packed bytes.

        Args:
            index: (B,) indices of crops.
            turns: (B, 3) bool: flip rows, then flip columns, then transpose.

        Returns:
            int64 (3, B): start, and the steps to the next row and to the next column, in bytes.
        """
        image, y, x = self.table[index].T.astype(np.int64)
        down, right = 3 * self._widths[image], np.full(len(index), 3)
        start = self._offsets[image] + y * down + x * right
        if turns is not None:
            by_row, by_column, across = turns.T
            last = self.size - 1
            start = start + last * (down * by_row + right * by_column)
            down, right = np.where(by_row, -down, down), np.where(by_column, -right, right)
            down, right = np.where(across, right, down), np.where(across, down, right)
        return torch.from_numpy(np.stack([start, down, right]))

    def cut(self, places: Tensor) -> Tensor:
        """Return the crops at ``places``, uint8 (B, 3, size, size), on the device."""
        # Pinned, so that the copy does not wait for the device to finish its queue.
        here = places.pin_memory() if self._along.is_cuda else places
        start, down, right = here.to(self._along.device, non_blocking=True)[:, :, None, None, None]
        inside = down * self._along[:, None] + right * self._along
        return self._bytes[start + self._channels + inside].to(self.device)


def crop_table(sizes: Sequence[tuple[int, int]], size: int) -> np.ndarray:
    """Return the grid of training crops: int32 (n, 3), rows (image, y, x) of the top-left corner.

    This is the protocol's grid for 128-pixel crops (step 64, and a crop at the border where more
    than 48 pixels remain), scaled to crops of ``size`` HR pixels.

    Args:
        sizes: (height, width) of each image.
        size: side of a crop in HR pixels.

    Raises:
        UserError: every image is smaller than a crop.
    """
    step, keep_over = size // 2, 48 * size // 128
    parts = [np.empty((0, 3), np.int32)]
    for i, (height, width) in enumerate(sizes):
        ys = crop_origins(height, size, step, keep_over)
        xs = crop_origins(width, size, step, keep_over)
        grid = np.meshgrid(i, ys, xs, indexing="ij")
        parts.append(np.stack(grid, axis=-1).reshape(-1, 3).astype(np.int32))
    table = np.concatenate(parts)
    if not len(table):
        raise UserError(
            f"no image holds a crop of {size} x {size} pixels; use larger images, or a "
            "smaller patch in the experiment."
        )
    return table
