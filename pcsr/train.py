"""The one training loop, for every method and stage.

A step is a pure function of the weights and of (seed, step): batches, crops and flips are drawn
from these two numbers alone and the learning rate is computed from the step. A run that is killed
at any moment therefore goes on from its last saved state and ends with the same weights, to the
bit on a CPU with the same number of threads.
"""

import hashlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from pcsr import artefacts, checkpoint, config, resize, runtime
from pcsr.config import StageConfig
from pcsr.datasets import Crops, Store
from pcsr.errors import UserError
from pcsr.methods.base import Method

log = logging.getLogger("pcsr")
Validate = Callable[[], Mapping[str, float]]


def learning_rate(stage: StageConfig, step: int) -> float:
    """Cosine from ``learning_rate`` at step 0 to ``learning_rate_end`` after the last step."""
    share = 0.5 * (1 + math.cos(math.pi * step / stage.iterations))
    return stage.learning_rate_end + share * (stage.learning_rate - stage.learning_rate_end)


class Batches:
    """Training batches: batch i is a function of (seed, i) and the store alone.

    Args:
        store: prepared HR pictures.
        stage: batch size, crop size and LR bits.
        scale: HR size / LR size.
        seed: of the experiment.
        rank: of this process; each takes every ``world``-th sample of the same whole batch.
        world: number of processes.
        only: numbers of the crops that are drawn from; None is all.
    """

    def __init__(
        self,
        store: Store,
        stage: StageConfig,
        scale: float,
        seed: int,
        rank: int,
        world: int,
        only: np.ndarray | None = None,
    ) -> None:
        if stage.batch % world:
            raise UserError(
                f"stages: batch {stage.batch} cannot be shared evenly by {world} processes; give a "
                "multiple, or another number of processes."
            )
        self.stage = stage
        self.lr_size = (stage.patch, stage.patch)
        self.crops = Crops(store, resize.hr_size(self.lr_size, scale)[0])
        self.only = only
        self.seed = seed
        self.mine = slice(rank, None, world)

    def batch(self, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return LR (n, 3, patch, patch) and HR (n, 3, P, P) crops in [0, 1] of one step."""
        random = np.random.default_rng((self.seed, step))
        available = len(self.crops) if self.only is None else len(self.only)
        chosen = random.integers(available, size=self.stage.batch)[self.mine]
        chosen = chosen if self.only is None else self.only[chosen]
        turns = random.random((self.stage.batch, 3))[self.mine] < 0.5
        hr = torch.from_numpy(self.crops.batch(chosen)).to(device).permute(0, 3, 1, 2)
        hr = _augment(hr.float() / 255, torch.from_numpy(turns).to(device))
        return resize.degrade(hr, self.lr_size, self.stage.lr), hr

    def random(self, step: int) -> np.random.Generator:
        """Return the source of chance that the method's losses may use in one step."""
        return np.random.default_rng((self.seed, step, 1))


def _augment(x: Tensor, turns: Tensor) -> Tensor:
    """Flip rows, flip columns, transpose each square sample where its three booleans say so."""
    for column, change in enumerate((lambda t: t.flip(-2), lambda t: t.flip(-1), lambda t: t.mT)):
        x = torch.where(turns[:, column, None, None, None], change(x), x)
    return x.contiguous()


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, on what, and where its files go.

    Attributes:
        method: with initial weights (fresh, or of the stage before).
        stage_name: one of ``method.stages``.
        out: the weights file; log, TensorBoard events and resumable state go beside it.
        facts: provenance, stored with the weights.
        only: numbers of the training crops that are used; None is all.
    """

    method: Method
    stage_name: str
    stage: StageConfig
    seed: int
    store: Store
    out: Path
    device: torch.device
    facts: Mapping[str, Any]
    only: np.ndarray | None = None

    @cached_property
    def identity(self) -> str:
        """Changes when a state of this run may not go on as another's.

        It covers configuration, data and initial weights, so it is read before any training.
        """
        return config.fingerprint(
            self.method.config,
            self.stage_name,
            self.stage.identity(),
            self.seed,
            self.store.digest,
            checkpoint.digest_tensors(self.method.state_dict()),
            None if self.only is None else hashlib.sha256(self.only.tobytes()).hexdigest(),
        )

    @property
    def state(self) -> Path:
        """File of the resumable state."""
        return self.out.with_name(f"state-{self.identity}.safetensors")


def train(run: Run, validate: Validate, rank: int = 0, world: int = 1) -> None:
    """Train one stage to its end, resuming where a run with the same identity was cut.

    Writes ``run.out`` (weights), its JSON, ``train-<identity>.jsonl`` (one line per log point) and
    TensorBoard events. The last state stays: a finished run that is asked for again (because its
    weights were removed, say) only writes them once more.

    Raises:
        UserError: the loss stopped being finite, or the run was asked to stop (its state is kept).
    """
    log.info("%s is run %s", run.stage_name, run.identity)
    with ExitStack() as stack:
        if rank == 0:  # the other processes must not wait for one that waits for days
            stack.enter_context(artefacts.locked(run.out, wait=world == 1))
            artefacts.remove_leftovers(run.state)
        runtime.barrier()  # what rank 0 found is whole before the others read it
        _train(run, validate, rank, stack.enter_context(_Stop()))


def _train(run: Run, validate: Validate, rank: int, stop: "_Stop") -> None:
    method, stage, device = run.method.to(run.device), run.stage, run.device
    batches = Batches(run.store, stage, method.config.scale, run.seed, *runtime.place(), run.only)
    method.start_stage(run.stage_name)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=stage.learning_rate, betas=stage.betas)
    start, elapsed = _resume(run.state, method, optimiser)
    model = runtime.across_processes(method, device)
    journal = _Journal(run.out.parent, run.identity, start) if rank == 0 else None
    log.info("%s: steps %d to %d on %s", run.stage_name, start, stage.iterations, device)
    began = time.perf_counter() - elapsed
    for step in runtime.progress(range(start, stage.iterations), run.stage_name, done=start):
        rate = learning_rate(stage, step)
        batch = (*batches.batch(step, device), batches.random(step))
        losses = _step(model, optimiser, rate, run.stage_name, *batch)
        done = step + 1
        stopping = runtime.any_process(stop.asked)
        last = done == stage.iterations
        saving = last or stopping or done % stage.save_every == 0
        validating = last or done % stage.validate_every == 0
        logging_now = validating or done % stage.log_every == 0
        if saving or logging_now:
            values = {name: float(runtime.mean(loss)) for name, loss in losses.items()}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"{run.out}: the loss is {values['loss']} at step {done}; lower learning_rate "
                    f"of stage '{run.stage_name}' (the last state is kept)."
                )
        if logging_now:
            values |= {"learning_rate": rate, "seconds": time.perf_counter() - began}
            if validating:
                method.eval()
                values |= {f"valid_{name}": value for name, value in validate().items()}
                method.start_stage(run.stage_name)
            if journal:
                journal.write(done, stage.iterations, values)
        if saving and rank == 0:
            _save_state(run.state, method, optimiser, done, time.perf_counter() - began)
        if stopping and not last:
            raise UserError(f"{run.out}: stopped at step {done}; run again to go on from there.")
    if journal:
        journal.close()
        facts = {**run.facts, "seconds": round(time.perf_counter() - began, 1)}
        checkpoint.save_weights(run.out, method.eval(), facts)


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rate: float,
    stage_name: str,
    lr: Tensor,
    hr: Tensor,
    random: np.random.Generator,
) -> Mapping[str, Tensor]:
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses: Mapping[str, Tensor] = model(stage_name, lr, hr, random)
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    optimiser.step()
    return losses


def _save_state(
    path: Path, method: Method, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in method.state_dict().items()}
    for index, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
    checkpoint.save(path, tensors, {"step": step, "seconds": seconds})


def _resume(path: Path, method: Method, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    """Put a saved state back; returns its step and the seconds spent so far."""
    if not path.exists():
        return 0, 0.0
    tensors, facts = checkpoint.load(path)
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    checkpoint.fill(method, weights, str(path))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    log.info("going on from step %d (%s)", facts["step"], path.name)
    return facts["step"], facts["seconds"]


class _Journal:
    """The JSONL log and TensorBoard events of a run; a resumed run drops what it will log again."""

    def __init__(self, folder: Path, identity: str, start: int) -> None:
        self._path = path = folder / f"train-{identity}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
        artefacts.write_text(path, "".join(kept))
        self._board = SummaryWriter(str(folder / f"events-{identity}"), purge_step=start + 1)

    def write(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        artefacts.append_line(self._path, json.dumps({"step": step, **values}))
        try:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._board.log_dir) from error
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        remaining = values["seconds"] / step * (steps - step)
        log.info("step %d/%d: %s, %.0f s to go", step, steps, shown, remaining)

    def close(self) -> None:
        self._board.close()


class _Stop:
    """Turns the first SIGTERM or SIGINT into a request to save and stop after the current step."""

    asked = False

    def __enter__(self) -> "_Stop":
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked = True
        signal.signal(number, self._before[signal.Signals(number)])  # a second one stops at once
