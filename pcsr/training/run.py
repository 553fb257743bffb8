"""Training runs of every method and stage: resumable, logged, validated.

A step is a pure function of the saved state and its number (``loop``). A run that is killed at any
moment therefore resumes from its last saved state and ends with the same weights, bit for bit on a
CPU with the same number of threads.
"""

import hashlib
import json
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
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pcsr import distributed, runtime
from pcsr.config.load import fingerprint
from pcsr.config.models import StageConfig
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.errors import UserError, log
from pcsr.methods.base import Method, Stage
from pcsr.precision import warn_if_slower
from pcsr.storage import files
from pcsr.training.loop import Loop, Moments, learning_rate
from pcsr.weights import checkpoint

Validate = Callable[[], Mapping[str, float]]

CHECK_EVERY = 10  # steps; with several processes a reduction, so not at every step


@dataclass(frozen=True)
class Run:
    """One training run: what is trained, on what, and where its files go.

    Attributes:
        method: holds the initial weights (fresh, or of the previous stage).
        part: one of ``method.stages``.
        stage: the stage's configuration.
        out: the weights file; log, TensorBoard events and resumable state go beside it.
        facts: provenance, stored with the weights.
        only: indices of the training crops to use; None uses all.
    """

    method: Method
    part: Stage
    stage: StageConfig
    seed: int
    store: Store
    out: Path
    device: torch.device
    facts: Mapping[str, Any]
    only: np.ndarray | None = None

    @cached_property
    def identity(self) -> str:
        """Hash of configuration, data and initial weights; a run resumes only its own states.

        It is cached on first access, which must come before any training.
        """
        return fingerprint(
            self.method.config,
            self.part.name,
            self.stage.identity(),
            self.seed,
            self.store.digest,
            checkpoint.digest_tensors(self.method.state_dict()),
            None if self.only is None else hashlib.sha256(self.only.tobytes()).hexdigest(),
        )

    @property
    def states(self) -> list[Path]:
        """Files of the last state, and of the one before in case the last is damaged."""
        names = (f"{name}-{self.identity}.safetensors" for name in ("state", "previous"))
        return [self.out.with_name(name) for name in names]


def train(run: Run, validate: Validate) -> None:
    """Train one stage to its end, resuming an interrupted run with the same identity.

    Writes ``run.out`` (weights), its JSON, ``train-<identity>.jsonl`` (one line per log point) and
    TensorBoard events. The last state is not deleted: repeating a finished run (because its weights
    were removed, say) only writes the weights again.

    Raises:
        UserError: the loss is not finite, or the run was stopped by SIGTERM. The last saved state
            remains.
        KeyboardInterrupt: the run was stopped by SIGINT, and its state is saved.
    """
    log.info("%s is run %s", run.part.name, run.identity)
    rank, world = distributed.place()
    with ExitStack() as stack:
        if rank == 0:  # waiting here could block the other processes for days
            stack.enter_context(files.locked(run.out, wait=world == 1))
            _set_aside_damaged(run)
        distributed.barrier()  # rank 0 has cleaned up before the others read the state
        _train(run, validate, stack.enter_context(_Stop()))


def _train(run: Run, validate: Validate, stop: "_Stop") -> None:
    stage, device = run.stage, run.device
    rank, world = place = distributed.place()
    method = runtime.move(run.method, device)
    batches = Batches(run.store, stage, method.config.scale, run.seed, device, place, run.only)
    if stage.precision == "bf16":
        warn_if_slower(torch.bfloat16, device)
    start, elapsed, moments = _resume(run)
    loop = Loop(method, run.part, stage, batches, moments)
    journal = _Journal(run.out.parent, run.identity, start) if rank == 0 else None
    log.info("%s: steps %d to %d on %s", run.part.name, start, stage.iterations, device)
    began = time.perf_counter() - elapsed
    for step in runtime.progress(range(start, stage.iterations), run.part.name, done=start):
        losses = loop.step(step)
        done = step + 1
        last = done == stage.iterations
        validating = last or done % stage.validate_every == 0
        logging_now = validating or done % stage.log_every == 0
        checking = world == 1 or logging_now or done % CHECK_EVERY == 0
        stopping = checking and distributed.any_process(stop.signal is not None)
        saving = last or stopping or done % stage.save_every == 0
        if saving or logging_now:
            values = {name: float(distributed.mean(loss)) for name, loss in losses.items()}
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"{run.out}: the loss is {values['loss']} at step {done}; lower learning_rate "
                    f"of stage '{run.part.name}' (the last state is saved)."
                )
        if logging_now:
            values["learning_rate"] = learning_rate(stage, step)
            values["seconds"] = time.perf_counter() - began
            if validating:
                with loop.evaluating():
                    values |= {f"valid_{name}": value for name, value in validate().items()}
            if journal:
                journal.write(done, stage.iterations, values)
        if saving and rank == 0:
            _save_state(run, loop.moments(), done, time.perf_counter() - began)
        if stopping and not last:
            stopped = f"{run.out}: stopped at step {done}"
            if stop.signal == signal.SIGINT:
                raise KeyboardInterrupt(stopped)
            raise UserError(f"{stopped}; run again to resume from there.")
    if journal:
        journal.close()
        facts = {**run.facts, "seconds": round(time.perf_counter() - began, 1)}
        checkpoint.save_weights(run.out, method.eval(), facts)


def _save_state(run: Run, moments: Moments, step: int, seconds: float) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in run.method.state_dict().items()}
    for index, values in moments.items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in values.items()}
    last, before = run.states
    if last.exists():  # killed here, the run resumes from the one before
        last.replace(before)
    checkpoint.save(last, tensors, {"step": step, "seconds": seconds})


def _set_aside_damaged(run: Run) -> None:
    """Rename saved states that cannot be resumed from, with a warning."""
    for path in run.states:
        if path.exists():
            try:
                _read_state(path, run)
            except UserError as error:
                aside = path.with_name(f"{path.name}.damaged")
                path.replace(aside)
                log.warning("%s It is set aside as %s.", error, aside.name)


def _resume(run: Run) -> tuple[int, float, Moments]:
    """Load the last state; return its step, the seconds spent and the optimiser's state."""
    path = next((path for path in run.states if path.exists()), None)
    if path is None:
        return 0, 0.0, {}
    weights, moments, facts = _read_state(path, run)
    checkpoint.fill(run.method, weights, str(path))
    log.info("resuming from step %d (%s)", facts["step"], path.name)
    return facts["step"], facts["seconds"], moments


def _read_state(path: Path, run: Run) -> tuple[dict[str, Tensor], Moments, dict[str, Any]]:
    """Read a saved state: weights, the optimiser's state, and the step and seconds.

    Raises:
        UserError: it is damaged, or not one of this run.
    """
    tensors, facts = checkpoint.load(path)
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    checkpoint.require_fit(run.method, weights, str(path))
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        for name in tensors.keys() - {f"model.{name}" for name in weights}:
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensors[name]
        plausible = 0 < facts["step"] <= run.stage.iterations and 0 <= facts["seconds"] < math.inf
    except (LookupError, ValueError, TypeError):
        plausible = False
    if not plausible:
        raise UserError(f"{path}: not a state of this run.")
    return weights, moments, facts


class _Journal:
    """The JSONL log and TensorBoard events of a run; lines after the resumed step are dropped."""

    def __init__(self, folder: Path, identity: str, start: int) -> None:
        self._path = path = folder / f"train-{identity}.jsonl"
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if _is_up_to(start, line)]
        files.write_text(path, "".join(kept))
        self._board = SummaryWriter(str(folder / f"events-{identity}"), purge_step=start + 1)

    def write(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        files.append_line(self._path, json.dumps({"step": step, **values}))
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


def _is_up_to(step: int, line: str) -> bool:
    """Return whether a line of the log is complete and not of a later step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, LookupError, TypeError):
        return False


class _Stop:
    """Turns SIGTERM and SIGINT into a request to save and stop after the current step: ``signal``.

    With a single process, a second SIGINT stops at once. With several, each gets every signal
    twice, from its sender and from ``torchrun``, so a second one means nothing.
    """

    signal: int | None = None

    def __enter__(self) -> "_Stop":
        self._before = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: object) -> None:
        self.signal = number
        if number == signal.SIGINT and distributed.place()[1] == 1:
            signal.signal(number, self._before[signal.Signals(number)])
