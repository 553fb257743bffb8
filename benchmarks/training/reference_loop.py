"""A conventional training loop, the reference for the suite's training speed.

Worker processes read, flip and downscale crops one by one. The network runs as it is defined, with
the heads on one query per HR pixel. Adam and the scheduler are torch's defaults, and the loss is
read after every step. The batches are those of ``pcsr.training.loop``.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pcsr.config.models import StageConfig
from pcsr.data import bicubic
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.methods.base import Method, Stage
from pcsr.methods.heads import AllPixels, image
from pcsr.methods.pcsr import BALANCE_WEIGHT, L1_WEIGHT, PCSR, bilinear
from pcsr.training.loop import Step

EPOCH = 1 << 20  # steps; more than are ever measured


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """The LR and HR crops of ``Batches``, each cut and degraded on its own."""

    def __init__(self, store: Store, stage: StageConfig, batches: Batches) -> None:
        self._store = store
        self._stage = stage
        self._batches = batches

    def __len__(self) -> int:
        return EPOCH * self._stage.batch

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return LR (3, patch, patch) and HR (3, P, P) of one sample."""
        step, place = divmod(number, self._stage.batch)
        chosen, turns = self._batches.draw(step)
        at, y, x = self._batches.crops.table[chosen[place]]
        size = self._batches.crops.size
        crop = self._store.hr(at)[y : y + size, x : x + size]
        by_row, by_column, across = turns[place]
        crop = crop[::-1] if by_row else crop
        crop = crop[:, ::-1] if by_column else crop
        crop = crop.transpose(1, 0, 2) if across else crop
        hr = torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))).float() / 255
        return bicubic.degrade(hr, (self._stage.patch, self._stage.patch), self._stage.lr), hr


class ReferenceLoop:
    """Trains one stage of a method step by step.

    Args:
        method: with fresh weights, on its device.
        part: one of ``method.stages``.
        stage: the stage's configuration.
        store: prepared HR images.
        workers: number of processes that make batches.
    """

    def __init__(
        self, method: Method, part: Stage, stage: StageConfig, store: Store, workers: int
    ) -> None:
        self._method = method
        self._part = part
        self._device = next(method.parameters()).device
        # Crops stay on the CPU, where the workers cut them.
        self._batches = Batches(store, stage, method.config.scale, 0, torch.device("cpu"))
        samples = Samples(store, stage, self._batches)
        on_gpu = self._device.type == "cuda"
        self._loader = iter(
            DataLoader(samples, stage.batch, num_workers=workers, pin_memory=on_gpu)
        )
        self._loss = Step(method, part)
        trained = [p for p in method.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(trained, lr=stage.learning_rate, betas=stage.betas)
        self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimiser, stage.iterations, stage.learning_rate_end
        )
        self._number = 0

    def step(self) -> Mapping[str, Tensor]:
        """Take the next step and return its losses.

        Raises:
            UserError: the loss is not finite.
        """
        lr, hr = (crops.to(self._device) for crops in next(self._loader))
        draw = self._part.draw
        drawn = draw(self._batches.random(self._number)) if draw else None
        if isinstance(self._method, PCSR):
            losses = plain_losses(self._method, self._part.name, lr, hr)
        else:
            losses = self._loss(lr, hr, drawn)
        self._optimiser.zero_grad()
        losses["loss"].backward()
        self._optimiser.step()
        self._scheduler.step()
        self._number += 1
        if not math.isfinite(losses["loss"].item()):
            raise UserError(
                f"{self._part.name}: the loss is not finite at step {self._number}; lower "
                "learning_rate of this stage."
            )
        return losses


def plain_losses(method: PCSR, stage: str, lr: Tensor, hr: Tensor) -> Mapping[str, Tensor]:
    """Return the losses of a PCSR stage by its definition: one query per HR pixel."""
    size = (hr.shape[-2], hr.shape[-1])
    shape = (len(hr), *size)
    (query,) = AllPixels(method.encoder(lr), size).queries()
    base = bilinear(lr, size)
    heavy = method.heads[-1](query)
    if stage == "stage0":
        return {"loss": F.l1_loss(image([heavy], shape) + base, hr)}
    probability = method.classifier(query).softmax(dim=1)
    outputs = torch.stack([*(head(query) for head in method.heads[:-1]), heavy], dim=1)
    mixture = (probability[..., None] * outputs).sum(dim=1)
    l1 = F.l1_loss(image([mixture], shape) + base, hr)
    even = len(query) / method.branches
    balance = ((probability.sum(dim=0) - even).abs() / even).mean()
    return {"loss": L1_WEIGHT * l1 + BALANCE_WEIGHT * balance}
