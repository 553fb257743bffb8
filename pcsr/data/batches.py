"""Training batches: a function of (seed, step) and the store alone, made on the device."""

import numpy as np
import torch
from torch import Tensor

from pcsr import geometry
from pcsr.config.models import StageConfig
from pcsr.data import bicubic
from pcsr.data.store import Crops, Store
from pcsr.errors import UserError


class Batches:
    """Training batches; all work on pixels is done for a whole batch at once.

    Args:
        store: prepared HR images.
        stage: batch size, crop size and LR bits.
        scale: HR size / LR size.
        seed: of the experiment.
        device: on which batches are made.
        share: rank of this process and their number; each takes every ``world``-th sample of the
            same whole batch.
        only: numbers of the crops that are drawn from; None is all.

    Raises:
        UserError: the batch cannot be shared evenly.
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
                f"stages: batch {stage.batch} cannot be shared evenly by {world} processes; give a "
                "multiple, or another number of processes."
            )
        size = geometry.hr_size((stage.patch, stage.patch), scale)[0]
        self.crops = Crops(store, size, device)
        self._reduce = bicubic.Degradation((size, stage.patch), stage.lr, device)
        self._batch = stage.batch
        self._seed = seed
        self._only = only
        self._mine = slice(rank, None, world)

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers (n,) of the crops of one step, and how they are turned (n, 3)."""
        random = np.random.default_rng((self._seed, step))
        available = len(self.crops) if self._only is None else len(self._only)
        chosen = random.integers(available, size=self._batch)[self._mine]
        turns = random.random((self._batch, 3))[self._mine] < 0.5
        return chosen if self._only is None else self._only[chosen], turns

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return LR (n, 3, patch, patch) and HR (n, 3, P, P) crops in [0, 1] of one step."""
        hr = self.crops.cut(self.crops.places(*self.draw(step))).float() / 255
        return self._reduce(hr), hr

    def random(self, step: int) -> np.random.Generator:
        """Return the source of chance that a method may use in one step."""
        return np.random.default_rng((self._seed, step, 1))
