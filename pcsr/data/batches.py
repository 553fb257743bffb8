"""Training batches: a pure function of (store, seed, step), assembled on the device."""

import numpy as np
import torch
from torch import Tensor

from pcsr import geometry
from pcsr.config.models import LRBits, StageConfig
from pcsr.data import bicubic
from pcsr.data.store import Crops, Store
from pcsr.errors import UserError
from pcsr.images.levels import round_8bit


class Batches:
    """Training batches, each cut, flipped and degraded as a whole.

    Args:
        store: prepared HR images.
        stage: batch size, crop size and LR bits.
        scale: HR size / LR size.
        seed: the experiment's seed.
        device: where batches are assembled.
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
        size = geometry.hr_size((stage.patch, stage.patch), scale)[0]
        self.crops = Crops(store, size, device)
        self._reduce = Degradation((size, stage.patch), stage.lr, device)
        self._batch = stage.batch
        self._seed = seed
        self._only = only
        self._share = slice(rank, None, world)

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the crop indices (n,) of one step, and their augmentation (n, 3), boolean.

        The three columns are: flip rows, flip columns, transpose.
        """
        random = np.random.default_rng((self._seed, step))
        available = len(self.crops) if self._only is None else len(self._only)
        chosen = random.integers(available, size=self._batch)[self._share]
        turns = random.random((self._batch, 3))[self._share] < 0.5
        return chosen if self._only is None else self._only[chosen], turns

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the LR (n, 3, patch, patch) and HR (n, 3, P, P) crops of a step, in [0, 1]."""
        hr = self.crops.cut(self.crops.places(*self.draw(step))).float() / 255
        return self._reduce(hr), hr

    def random(self, step: int) -> np.random.Generator:
        """Return the random generator a method may draw from in one step."""
        return np.random.default_rng((self._seed, step, 1))


class Degradation:
    """``bicubic.degrade`` for batches of square crops of one size, as two small matrix products.

    Args:
        sizes: side of the HR crops, side of the LR crops.
        bits: see ``bicubic.degrade``.
        device: where the crops are.
    """

    def __init__(self, sizes: tuple[int, int], bits: LRBits, device: torch.device) -> None:
        self._rows = bicubic.matrix(*sizes).to(device, torch.float32)
        self._bits = bits

    def __call__(self, hr: Tensor) -> Tensor:
        """Degrade HR (..., H, H) in [0, 1] to float32 LR (..., h, h)."""
        lr = self._rows @ hr @ self._rows.T
        return round_8bit(lr) if self._bits == "8bit" else lr
