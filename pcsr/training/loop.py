"""The training step, the same for every method and stage.

A step is a pure function of the weights, the optimiser's state and (seed, step). The batch and a
method's random draws depend on these two numbers alone, the learning rate on the step. Nothing in
a step waits for the device.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pcsr import distributed
from pcsr.config.models import StageConfig
from pcsr.data.batches import Batches
from pcsr.engine.cpu import blockwise
from pcsr.engine.deploy import deploy
from pcsr.errors import UserError
from pcsr.methods.base import Method, Stage

#: Optimiser state: parameter index -> name -> tensor.
Moments = Mapping[int, Mapping[str, Tensor]]


def learning_rate(stage: StageConfig, step: int) -> float:
    """Return a step's learning rate: a cosine that ends at ``learning_rate_end``."""
    share = 0.5 * (1 + math.cos(math.pi * step / stage.iterations))
    return stage.learning_rate_end + share * (stage.learning_rate - stage.learning_rate_end)


class Step(nn.Module):
    """The forward pass of a step, as a module that can be compiled and distributed.

    Everything but the modules that the stage trains is frozen, including BatchNorm statistics; so
    are those of its modules whose names are in ``freeze``.

    Raises:
        UserError: the stage does not train a module in ``freeze``, or would train nothing else.
    """

    def __init__(self, method: Method, part: Stage, freeze: Sequence[str] = ()) -> None:
        super().__init__()
        method.requires_grad_(False).eval()
        blockwise.accelerate(method)
        for module in part.modules:
            module.requires_grad_(True).train()
        for name in freeze:
            _freeze(method, name, part)
        self.method = method
        self._loss = part.loss(deploy)

    def forward(self, lr: Tensor, hr: Tensor, drawn: int | None) -> Mapping[str, Tensor]:
        """Return ``"loss"`` and its parts (``methods.base.Loss``)."""
        return self._loss(lr, hr, drawn)


def _freeze(method: Method, name: str, part: Stage) -> None:
    module = dict(method.named_modules()).get(name)
    if module is None or not any(p.requires_grad for p in module.parameters()):
        raise UserError(
            f"stages.{part.name}.freeze: {name} is no module that this stage of "
            f"{method.config.method} trains; it trains {', '.join(trained_modules(method, part))}."
        )
    module.requires_grad_(False).eval()
    if not any(p.requires_grad for p in method.parameters()):
        raise UserError(f"stages.{part.name}.freeze: nothing is left to train; leave out {name}.")


def trained_modules(method: Method, part: Stage) -> list[str]:
    """Return the names of the modules that a stage trains."""
    return [name for name, m in method.named_modules() if any(m is one for one in part.modules)]


class Loop:
    """Trains one stage of a method step by step, over all processes that ``torchrun`` started.

    Method and batches are on the same device; ``moments`` is an optimiser's state to resume from.
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
        step = Step(method, part, stage.freeze)
        trained = [p for p in method.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(
            trained, lr=stage.learning_rate, betas=stage.betas, fused=True
        )
        self._fill(moments or {})
        if stage.compile:
            # A captured step replays without Python. Sums over processes cannot be captured.
            recorded = self._device.type == "cuda" and distributed.place()[1] == 1
            step.compile(dynamic=False, mode="reduce-overhead" if recorded else None)
        self._model: nn.Module = distributed.across_processes(step, self._device)

    def step(self, number: int) -> Mapping[str, Tensor]:
        """Take a step and return its losses, on the device; the next step may overwrite them."""
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
        """Switch the method to eval mode; on exit, restore the modules that were training."""
        training = [module for module in self._method.modules() if module.training]
        self._method.eval()
        yield
        for module in training:
            module.training = True

    def moments(self) -> Moments:
        """Return the optimiser's state."""
        moments: Moments = self._optimiser.state_dict()["state"]
        return moments

    def _fill(self, moments: Moments) -> None:
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
        for parameter, values in self._optimiser.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:
                    # Fused Adam needs the parameter's memory layout, which files do not preserve.
                    values[name] = torch.empty_like(parameter).copy_(value)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round operands of float32 products to 10 bits of mantissa inside the context."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
