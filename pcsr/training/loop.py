"""The step that every method and stage is trained by.

A step is a pure function of the weights, the optimiser's state and (seed, step): the batch and what
a method draws come from these two numbers alone, and the learning rate from the step. Nothing in it
waits for the device.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pcsr import distributed
from pcsr.config.models import StageConfig
from pcsr.data.batches import Batches
from pcsr.methods.base import Method, Stage

#: What an optimiser keeps, by number of the parameter and name.
Moments = Mapping[int, Mapping[str, Tensor]]


def learning_rate(stage: StageConfig, step: int) -> float:
    """Cosine from ``learning_rate`` at step 0 to ``learning_rate_end`` after the last step."""
    share = 0.5 * (1 + math.cos(math.pi * step / stage.iterations))
    return stage.learning_rate_end + share * (stage.learning_rate - stage.learning_rate_end)


class Step(nn.Module):
    """The forward pass of a step, as a module: so it can be shared by processes, and compiled.

    Everything but what the stage trains is frozen, BatchNorm statistics too.

    Args:
        method: with the weights that the stage starts from.
        part: one of ``method.stages``.
    """

    def __init__(self, method: Method, part: Stage) -> None:
        super().__init__()
        method.requires_grad_(False).eval()
        for module in part.modules:
            module.requires_grad_(True).train()
        self.method = method
        self._loss = part.loss()

    def forward(self, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """Return ``"loss"`` and its parts (``methods.base.Loss``)."""
        return self._loss(lr, hr, drawn)


class Loop:
    """One stage of a method, step by step, shared with all processes that ``torchrun`` started.

    Args:
        method: on its device, with the weights to start or to go on from.
        part: one of ``method.stages``.
        stage: how it is trained.
        batches: made on the same device.
        moments: of an optimiser that is resumed.
    """

    def __init__(
        self,
        method: Method,
        part: Stage,
        stage: StageConfig,
        batches: Batches,
        moments: Moments | None = None,
    ) -> None:
        self._method = method
        self._part = part
        self._stage = stage
        self._batches = batches
        self._device = next(method.parameters()).device
        step = Step(method, part)
        trained = [p for p in method.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(
            trained, lr=stage.learning_rate, betas=stage.betas, fused=True
        )
        self._fill(moments or {})
        if stage.compile:
            # A recorded step replays without Python. Sums over processes cannot be recorded.
            recorded = self._device.type == "cuda" and distributed.place()[1] == 1
            step.compile(dynamic=False, mode="reduce-overhead" if recorded else None)
        self._model: nn.Module = distributed.across_processes(step, self._device)

    def step(self, number: int) -> Mapping[str, Tensor]:
        """Take a step; returns the losses, on the device, which the next step may write over."""
        lr, hr = self._batches.batch(number)
        draw = self._part.draw
        drawn = draw(self._batches.random(number)) if draw else None
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._stage, number)
        if self._stage.compile:
            torch.compiler.cudagraph_mark_step_begin()
        half = self._stage.precision == "bf16"
        with _tf32(self._stage.precision == "tf32"):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
                losses: Mapping[str, Tensor] = self._model(lr, hr, drawn)
            self._optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
        self._optimiser.step()
        return losses

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the method into eval mode; afterwards only what was in training mode is again."""
        training = [module for module in self._method.modules() if module.training]
        self._method.eval()
        yield
        for module in training:
            module.training = True

    def moments(self) -> Moments:
        """Return what the optimiser keeps."""
        kept: Moments = self._optimiser.state_dict()["state"]
        return kept

    def _fill(self, moments: Moments) -> None:
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
        for parameter, values in self._optimiser.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:
                    # A fused step needs them in the parameter's order in memory, which no file has.
                    values[name] = torch.empty_like(parameter).copy_(value)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let float32 products of a GPU round what they multiply to 10 bits; elsewhere none does."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
