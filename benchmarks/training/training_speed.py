"""Measure training speed: the suite's loop beside the reference loop, on the same batches."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
from cyclopts import Parameter
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import profile

from pcsr import registry, runtime
from pcsr.benchmarks import timing
from pcsr.benchmarks.training.reference_loop import ReferenceLoop
from pcsr.benchmarks.training.training_speed_page import markdown
from pcsr.config.load import load_study
from pcsr.config.models import StageConfig
from pcsr.config.options import CORES, THREADS, Count, Device, Processes, Seconds, Suite, Threads
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.errors import UserError, log, require_name
from pcsr.methods.base import Method
from pcsr.storage import content, files, provenance
from pcsr.training.loop import Loop

#: Ways to train, and what each changes in a stage.
WAYS: Mapping[str, Mapping[str, Any] | None] = {
    "reference": None,
    "suite": {},
    "suite, compiled": {"compile": True},
    "suite, tf32": {"precision": "tf32"},
    "suite, bf16": {"precision": "bf16"},
    "suite, bf16, compiled": {"precision": "bf16", "compile": True},
}
AHEAD = 2  # batches that a worker prefetches
IDLE = 0.1  # seconds; CPU time of a busy process shows within them
PROFILED = 5  # steps, for the busy share of a GPU
ALIKE = 0.02  # relative tolerance of a loss: bf16 has 8 bits of precision

Step = Callable[[], Mapping[str, Tensor]]


def training_speed(
    experiments: Annotated[
        Sequence[str], Parameter(help="experiments of the suite; default: all")
    ] = (),
    /,
    *,
    suite: Suite,
    out: Annotated[Path, Parameter(help="JSON to write or to resume, with .md beside it")],
    data: Annotated[
        Path | None, Parameter(help="packed store to train on; default: the suite's own")
    ] = None,
    way: Annotated[
        Sequence[str], Parameter(help="loops: reference, suite; 'suite, tf32', 'suite, bf16'")
    ] = ("reference", "suite"),
    seconds: Annotated[
        float, Seconds, Parameter(help="least time that a loop runs in each round")
    ] = 3,
    rounds: Annotated[int, Count, Parameter(help="number of turns of each loop")] = 3,
    workers: Annotated[
        int, Processes, Parameter(help="processes that make the reference loop's batches")
    ] = min(CORES, 8),
    device: Device = "auto",
    threads: Threads = THREADS,
) -> None:
    """Measure training speed beside a reference loop, and project the suite's recipes.

    All loops train the same batches from the same weights, in turns. Nothing else should run on
    the machine. Stages already in the JSON are not measured again.

    Example: `pcsr training-speed fsrcnn-pcsr --suite configs/suites/paper.yaml --data
    data/prepared/embedded-train --out speed.json`.
    """
    plan = Plan(list(way), seconds, rounds, workers)
    measure(experiments, suite, data, plan, out, device, threads)


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        ways: keys of ``WAYS``, the reference loop first.
        seconds: least time that a way runs in each round.
        rounds: number of turns of each way.
        workers: number of processes that make the reference loop's batches.

    Raises:
        UserError: a way is unknown.
    """

    ways: Sequence[str]
    seconds: float
    rounds: int
    workers: int

    def __post_init__(self) -> None:
        for way in self.ways:
            require_name("way", way, WAYS, "--way")


@dataclass(frozen=True)
class Subject:
    """A stage of an experiment; ``build`` returns its method with fresh weights."""

    experiment: str
    stage_name: str
    stage: StageConfig
    build: Callable[[], Method]
    store: Store
    device: torch.device


def measure(
    experiments: Sequence[str],
    suite: Path,
    data: Path | None,
    plan: Plan,
    out: Path,
    device_name: str,
    threads: int,
    seconds: float = math.inf,
) -> int:
    """Measure the training speed of experiments; return how many stages are left unmeasured.

    Stages already in ``out`` are not measured again. No stage is started after ``seconds``.

    Raises:
        UserError: an experiment is unknown, there are no images to train on, or ``out`` was
            measured with other settings or on another device.
    """
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    files.check_outputs((suite, data), (out, out.with_suffix(".md")))
    started = time.monotonic()
    study = load_study(suite)
    for name in experiments:
        require_name("experiment", name, study.experiments, str(suite))
    if data is None and study.suite.train_set is None:
        raise UserError(f"{suite}: does not train, so it has no training images; give --data.")
    store = Store.open(data or Path(files.prepared(str(study.suite.train_set))))
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    how = {
        "device": runtime.describe(device),
        "threads": threads,
        "suite": study.suite.suite,
        "data": store.folder.name,
        "plan": asdict(plan),
    }
    facts = provenance.record(**how)
    rows = _before(out, how) if out.exists() else []
    measured_stages = {(row["experiment"], row["stage"]) for row in rows}
    commit = f"{facts['commit'] or 'unknown'}{' (modified)' if facts['modified'] else ''}"
    stages = [(n, s) for n in experiments or study.experiments for s in study.experiments[n].stages]
    todo = [stage for stage in stages if stage not in measured_stages]
    for number, (name, stage) in enumerate(todo):
        if time.monotonic() - started > seconds:
            return len(todo) - number
        setup = study.experiments[name]
        make = partial(registry.build, setup.model)
        subject = Subject(name, stage, setup.stages[stage], make, store, device)
        rows += [{**row, "commit": commit} for row in compare(subject, plan)]
        measured = {"rows": rows, "provenance": facts}
        files.write_json(out, measured)
        files.write_text(out.with_suffix(".md"), markdown(measured))
    return 0


def _before(out: Path, how: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that an earlier run of the same kind measured."""
    try:
        found = content.read_json(out)
        facts, rows = dict(found["provenance"]), [dict(row) for row in found["rows"]]
        named = all({"experiment", "stage"} <= row.keys() for row in rows)
    except (OSError, ValueError, KeyError, TypeError):
        named = False
    if not named:
        raise UserError(f"{out}: not made by `pcsr training-speed`; give another file as --out.")
    for key, value in how.items():
        if facts.get(key) != value:
            raise UserError(
                f"{out}: was measured with {key} {facts.get(key)}, but this run has {value}; give "
                "another file as --out."
            )
    return rows


def compare(subject: Subject, plan: Plan) -> list[dict[str, Any]]:
    """Measure all ways to train a stage, in turns; return one row per way.

    Raises:
        UserError: the first loss of a way differs from that of the first way.
    """
    # Code compiled for earlier stages would count against torch's recompilation limit.
    torch.compiler.reset()
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
            _wait_for_workers()
            if WAYS[way] is None:  # use up the batches prefetched during other ways' turns
                _take(step, AHEAD * plan.workers)
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
    """Return a function that takes the next training step, starting from fresh weights."""
    torch.manual_seed(0)
    method = subject.build()
    part = next(part for part in method.stages if part.name == subject.stage_name)
    changes = WAYS[way]
    if changes is None:
        method = method.to(subject.device)
        return ReferenceLoop(method, part, subject.stage, subject.store, workers).step
    stage = subject.stage.model_copy(update=dict(changes))
    method = runtime.move(method, subject.device)
    batches = Batches(subject.store, stage, method.config.scale, 0, subject.device)
    loop = Loop(method, part, stage, batches)
    numbers: Iterator[int] = iter(range(stage.iterations))
    return lambda: loop.step(next(numbers))


def _peak(step: Step, device: torch.device) -> int:
    """Return the peak bytes of a step, on top of what is allocated between steps."""
    return timing.peak(lambda: step()["loss"], device)[1]


def _count(step: Step, seconds: float, device: torch.device) -> int:
    """Return how many steps take ``seconds``; timed twice, because the first may compile."""
    count = 1
    while any(_timed(step, count, device)[0] < seconds for _ in range(2)):
        count *= 2
    return count


def _timed(step: Step, count: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds that ``count`` steps take, and the mean CPU seconds per core meanwhile."""
    before, started = _cpu_seconds([psutil.Process(), *_workers()]), time.perf_counter()
    _take(step, count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - started
    used = _cpu_seconds([psutil.Process(), *_workers()]) - before
    return wall, used / (psutil.cpu_count() or 1)


def _take(step: Step, count: int) -> None:
    for _ in range(count):
        step()


def _wait_for_workers() -> None:
    """Wait until all child processes are idle, because they would slow the next way down."""
    before = -1.0
    while (now := _cpu_seconds(_workers())) > before:
        before = now
        time.sleep(IDLE)


def _workers() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the total CPU time of processes in seconds."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it has just ended, as a compiler's does
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _kernel_seconds(step: Step) -> float:
    """Return the seconds that the kernels of a step run on a GPU."""
    with profile() as profiler:
        _take(step, PROFILED)
        torch.cuda.synchronize()
    return device_seconds(profiler.key_averages()) / PROFILED


def device_seconds(events: Iterable[FunctionEventAvg]) -> float:
    """Return the seconds of GPU kernels among profiled events.

    Each kernel appears on its own, and again in the operations and annotations that contain it;
    only the former is counted.
    """
    kernels = (e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation)
    return sum(float(kernel.self_device_time_total) for kernel in kernels) / 1e6
