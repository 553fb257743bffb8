"""How fast training runs: the suite's loop beside a textbook loop, on the same batches.

The *textbook* loop is what one writes first. Worker processes read crops, turn them and shrink each
by itself; the network runs as it is defined, heads on a query per HR pixel; Adam and the scheduler
are torch's defaults, and the loss is read after every step. The *suite*'s loop is ``pcsr.loop``.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import profile
from torch.utils.data import DataLoader, Dataset

from pcsr import bench, resize, runtime
from pcsr.batches import Batches
from pcsr.config import StageConfig
from pcsr.datasets import Store
from pcsr.errors import UserError, unknown_name
from pcsr.loop import Loop
from pcsr.methods.base import Method
from pcsr.methods.pcsr import BALANCE_WEIGHT, L1_WEIGHT, PCSR, Queries, bilinear, picture

log = logging.getLogger("pcsr")

#: Ways to train, and what each changes in a stage.
WAYS: Mapping[str, Mapping[str, Any] | None] = {
    "textbook": None,
    "suite": {},
    "suite, compiled": {"compile": True},
    "suite, tf32": {"precision": "tf32"},
    "suite, bf16": {"precision": "bf16"},
    "suite, bf16, compiled": {"precision": "bf16", "compile": True},
}
PROFILED = 5  # steps, for the busy share of a GPU
ALIKE = 0.02  # of a loss: bf16 keeps 8 bits
EPOCH = 1 << 20  # steps, more than are ever measured

Step = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        ways: keys of ``WAYS``, the textbook loop first.
        seconds: that a way runs at least in each round.
        rounds: how often all ways take turns.
        workers: processes of the textbook loop that make batches.
    """

    ways: Sequence[str]
    seconds: float
    rounds: int
    workers: int


@dataclass(frozen=True)
class Subject:
    """A stage of an experiment, of which any number of fresh methods can be had."""

    experiment: str
    stage_name: str
    stage: StageConfig
    build: Callable[[], Method]
    store: Store
    device: torch.device


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """LR and HR crops one by one, each made by itself: the same as those of ``Batches``."""

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
        return resize.degrade(hr, (self._stage.patch, self._stage.patch), self._stage.lr), hr


class Textbook:
    """The loop that is usually written.

    Args:
        method: fresh, on its device.
        subject: what is trained.
        workers: processes that make batches.
    """

    def __init__(self, method: Method, subject: Subject, workers: int) -> None:
        self._method = method
        self._subject = subject
        stage, scale = subject.stage, method.config.scale
        # Crops stay on the CPU: workers cut them there.
        self._batches = Batches(subject.store, stage, scale, 0, torch.device("cpu"))
        samples = Samples(subject.store, stage, self._batches)
        on_gpu = subject.device.type == "cuda"
        self._loader = iter(
            DataLoader(samples, stage.batch, num_workers=workers, pin_memory=on_gpu)
        )
        method.start_stage(subject.stage_name)
        trained = [p for p in method.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(trained, lr=stage.learning_rate, betas=stage.betas)
        self._scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimiser, stage.iterations, stage.learning_rate_end
        )
        self._number = 0

    def step(self) -> Mapping[str, Tensor]:
        """Take the next step."""
        lr, hr = (crops.to(self._subject.device) for crops in next(self._loader))
        name = self._subject.stage_name
        drawn = self._method.draw(name, self._batches.random(self._number))
        losses = plain_losses(self._method, name, lr, hr, drawn)
        self._optimiser.zero_grad()
        losses["loss"].backward()
        self._optimiser.step()
        self._scheduler.step()
        self._number += 1
        if not math.isfinite(losses["loss"].item()):
            raise UserError(f"{self._subject.experiment}: the loss is not finite")
        return losses


def plain_losses(
    method: Method, stage: str, lr: Tensor, hr: Tensor, drawn: int | None
) -> Mapping[str, Tensor]:
    """Return ``Method.losses``, for PCSR by a query for every HR pixel as it is defined."""
    if not isinstance(method, PCSR):
        return method.losses(stage, lr, hr, drawn)
    size = (hr.shape[-2], hr.shape[-1])
    queries = Queries(method.encoder(lr), size)
    (pixels,) = queries.blocks(len(queries))
    query = queries.at(pixels)
    base = bilinear(lr, size)
    heavy = method.heads[-1](query)
    if stage == "stage0":
        return {"loss": F.l1_loss(picture([heavy], queries.shape) + base, hr)}
    probability = method.classifier(query).softmax(dim=1)
    outputs = torch.stack([*(head(query) for head in method.heads[:-1]), heavy], dim=1)
    mixture = (probability[..., None] * outputs).sum(dim=1)
    l1 = F.l1_loss(picture([mixture], queries.shape) + base, hr)
    even = len(query) / method.branches
    balance = ((probability.sum(dim=0) - even).abs() / even).mean()
    return {"loss": L1_WEIGHT * l1 + BALANCE_WEIGHT * balance}


def compare(subject: Subject, plan: Plan) -> list[dict[str, Any]]:
    """Measure all ways to train a stage, in turns; returns one row per way.

    Raises:
        UserError: there is no such way, or one trains something else than the first.
    """
    for way in plan.ways:
        if way not in WAYS:
            raise unknown_name("way", way, WAYS, "--way")
    steps = {way: _start(subject, way, plan.workers) for way in plan.ways}
    first = {way: float(step()["loss"].detach()) for way, step in steps.items()}
    expected = first[plan.ways[0]]
    for way, loss in first.items():
        if not math.isclose(loss, expected, rel_tol=ALIKE):
            raise UserError(
                f"{subject.experiment} {subject.stage_name}: the first loss is {loss:.5g} by the "
                f"way '{way}', but {expected:.5g} by '{plan.ways[0]}'."
            )
    peaks = {way: _peak(step, subject.device) for way, step in steps.items()}
    counts = {way: _count(step, plan.seconds, subject.device) for way, step in steps.items()}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in steps}
    for _ in range(plan.rounds):
        for way, step in steps.items():
            taken[way].append(_timed(step, counts[way], subject.device))
    rows = []
    for way, step in steps.items():
        seconds = statistics.median(wall for wall, _ in taken[way]) / counts[way]
        busy = statistics.median(used / wall for wall, used in taken[way])
        if subject.device.type == "cuda":
            busy = _kernel_seconds(step) / seconds
        rows.append(
            {
                "experiment": subject.experiment,
                "stage": subject.stage_name,
                "batch": subject.stage.batch,
                "patch": subject.stage.patch,
                "iterations": subject.stage.iterations,
                "way": way,
                "steps_per_second": 1 / seconds,
                "busy": busy,
                "peak_bytes": peaks[way],
                "first_loss": first[way],
                "steps": counts[way] * plan.rounds,
            }
        )
        log.info("%s %s, %s: %.3g steps/s", *list(rows[-1].values())[:2], way, 1 / seconds)
    return rows


def _start(subject: Subject, way: str, workers: int) -> Step:
    """Return what takes one step after the other, from fresh weights."""
    torch.manual_seed(0)
    method = subject.build()
    changes = WAYS[way]
    if changes is None:
        return Textbook(method.to(subject.device), subject, workers).step
    stage = subject.stage.model_copy(update=dict(changes))
    method = runtime.move(method, subject.device)
    batches = Batches(subject.store, stage, method.config.scale, 0, subject.device)
    loop = Loop(method, subject.stage_name, stage, batches)
    numbers: Iterator[int] = iter(range(stage.iterations))
    return lambda: loop.step(next(numbers))


def _peak(step: Step, device: torch.device) -> int:
    """Return the bytes that a step takes beside what stays."""
    return bench.peak(lambda: step()["loss"], device)[1]


def _count(step: Step, seconds: float, device: torch.device) -> int:
    """Return how many steps take so long."""
    count = 1
    while _timed(step, count, device)[0] < seconds:
        count *= 2
    return count


def _timed(step: Step, count: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds that some steps take, and those of all cores at work in them on average.

    Workers go on making batches while another way has its turn, so that the textbook loop finds a
    few of them made.
    """
    before, started = _cpu_seconds(), time.perf_counter()
    for _ in range(count):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - started
    return wall, (_cpu_seconds() - before) / (psutil.cpu_count() or 1)


def _cpu_seconds() -> float:
    """Return the time that this process and its workers have computed."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _kernel_seconds(step: Step) -> float:
    """Return how long the kernels of a step run on a GPU."""
    with profile() as profiler:
        for _ in range(PROFILED):
            step()
        torch.cuda.synchronize()
    spent = sum(event.self_device_time_total for event in profiler.key_averages())
    return float(spent) / 1e6 / PROFILED
