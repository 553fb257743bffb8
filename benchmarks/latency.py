"""Measure latency side by side in one run: the original, the definition and the engine.

On a shared CPU only ratios count, so all cases take turns. Outputs are held to the definition's.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor

from pcsr import flops, metrics, registry, runtime
from pcsr.benchmarks import reference_pcsr
from pcsr.benchmarks.growth import first_size, grow
from pcsr.benchmarks.peers import PRECISIONS, RuntimeName, peer, require
from pcsr.benchmarks.timing import peak, profiled, seconds
from pcsr.config import options
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import original_flops
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Exploration, Method
from pcsr.methods.pcsr import PCSR
from pcsr.precision import dtype_of
from pcsr.report.columns import COUNTS
from pcsr.routing import OperatingPoint
from pcsr.storage import files
from pcsr.weights.load import load_method

log = logging.getLogger("pcsr")

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Run = Callable[[Tensor], Tensor]


def bench(
    *,
    weights: options.WeightsFiles,
    images: Annotated[list[Path], Parameter(help="HR images; --steps enlarges the last one")],
    out: Annotated[Path, Parameter(help="JSON to write")],
    fresh: Annotated[
        Sequence[str],
        Parameter(help="backbones to time with fresh weights, as an original and a pcsr"),
    ] = (),
    knob: Annotated[Sequence[float], options.KnobValue, Parameter(help="values of PCSR's knob")] = (
        0.0,
    ),
    budget: Annotated[
        Sequence[float],
        options.Share,
        Parameter(help="operating points: shares of the original's FLOPs"),
    ] = (),
    steps: Annotated[
        int,
        options.Doublings,
        Parameter(help="number of sizes from 960x540 on, each doubling both sides"),
    ] = 0,
    rounds: Annotated[
        int,
        options.CountOrNone,
        Parameter(help="times to run every case; 0: only the growing image"),
    ] = 3,
    max_memory: options.MaxMemory = None,
    profile: Annotated[
        bool, options.Flag, Parameter(help="also profile which operations take the time")
    ] = False,
    precision: Annotated[
        Sequence[options.PrecisionName],
        Parameter(help="of the networks, one or several: bf16 is for CPUs, float16 for GPUs"),
    ] = ("float32",),
    peers: Annotated[
        Sequence[RuntimeName],
        Parameter(help="runtimes to time originals and PCSR in, too, on a CPU"),
    ] = (),
    device: options.Device = "auto",
    threads: options.Threads = options.CORES,
) -> None:
    """Time originals, PCSR (as published and by the engine) and tile methods in one run.

    PCSR runs at the given operating points, tile methods at their default. With `--peers`,
    originals and PCSR are exported and run in inference runtimes as well. Nothing else should run
    on the machine. All cases take turns; what counts are the ratios of their times.

    Example: `pcsr bench --weights carn.safetensors carn-pcsr.safetensors --images 1232.png --knob 0
    --out bench.json`.
    """
    if (max_memory is not None and not steps) or (profile and not rounds):
        raise UserError("--max-memory goes with --steps, and --profile with --rounds: drop it.")
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    files.check_outputs((*weights, *images), [out])
    require(list(peers))
    picked = runtime.pick_device(device)
    if peers and picked.type != "cpu":
        raise UserError("--peers: they run on a CPU; add --device cpu.")
    runtime.set_up(0, threads)
    precisions: dict[str, torch.dtype] = {name: dtype_of(name, picked) for name in precision}
    limit = runtime.read_bytes(max_memory)
    loaded = [load_method(path) for path in weights]
    methods = [method for method, _ in loaded]
    names = {method: facts.get("experiment") for method, facts in loaded}
    plan = Plan(knob, budget, rounds, precisions, peers, profile, names)
    for backbone in fresh:
        models = (ModelConfig(backbone=backbone, method=name) for name in ("original", "pcsr"))
        methods += [registry.build(model).eval() for model in models]
    methods = [runtime.move(method, picked) for method in methods]
    rows: list[dict[str, Any]] = []
    growing: list[dict[str, Any]] = []
    for path in images if plan.rounds else ():
        for group in _by_backbone(methods):
            scale = group[0].config.scale
            pair = make_pair(open_images(path)[0], scale, ProtocolConfig(crop="none"))
            pair = replace(pair, lr=pair.lr.to(picked))
            rows += compare(group, pair, scale, original_flops(group[0], scale), plan)
    for method in methods if steps else ():
        lr = first_size(open_images(images[-1])[0].hr, method.config.scale).to(picked)
        growing += grow(method, lr, knob, precisions, steps, limit)
    how = {"threads": threads, "fresh": list(fresh), "rounds": plan.rounds}
    how["precision"] = precision[0]  # of the originals that ratios refer to
    facts = files.provenance(device=runtime.describe(picked), **how)
    files.write_json(out, {"cases": rows, "sizes": growing, "provenance": facts})


def _by_backbone(methods: Sequence[Method]) -> list[list[Method]]:
    names = dict.fromkeys(method.config.backbone for method in methods)
    return [[m for m in methods if m.config.backbone == name] for name in names]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        knobs: operating points, as values of the knob.
        budgets: operating points, as shares of the original's FLOPs.
        rounds: how many times each case is run.
        precisions: of the networks, by name; the definition always runs in float32.
        peers: runtimes that originals and PCSR run in, too.
        profiled: whether to profile which operations take the time.
        names: the experiments that weights are of, where they tell.
    """

    knobs: Sequence[float] = (0.0,)
    budgets: Sequence[float] = ()
    rounds: int = 3
    precisions: Mapping[str, torch.dtype] = field(
        default_factory=lambda: {"float32": torch.float32}
    )
    peers: Sequence[RuntimeName] = ()
    profiled: bool = False
    names: Mapping[Method, str | None] = field(default_factory=dict)

    def points(self, original_flops: float) -> dict[str, OperatingPoint]:
        """Return the operating points by name; ``original_flops`` is per LR pixel."""
        knobs = {f"{k:g}": OperatingPoint(knob=k, refine=True) for k in self.knobs}
        return knobs | {
            f"budget {s:g}": OperatingPoint(budget=s * original_flops, refine=True)
            for s in self.budgets
        }


@dataclass(frozen=True)
class Case:
    """One way to super-resolve: its names, and what runs it.

    Attributes:
        backbone, method: of the model.
        weights: their experiment, if they tell.
        path: "original", "definition" or "engine"; "tiles" for tile methods, as published; or the
            name of a runtime.
        precision: of the networks.
        knob: operating point, as text.
        ready: lays out the weights and returns a function LR (1, 3, h, w) -> SR (1, 3, H, W).
        flops: cost of one image at this operating point.
        share: share of units that the most expensive branch computes.
        exact: uint8 (H, W, 3) by the method's definition, with every branch computed everywhere.
        formats: memory formats of the weights to try; the faster one counts.
    """

    backbone: str
    method: str
    weights: str | None
    path: str
    precision: str
    knob: str
    ready: Callable[[], Run]
    flops: flops.Flops
    share: float
    exact: metrics.Image
    formats: Sequence[str] = tuple(FORMATS)

    @property
    def in_torch(self) -> bool:
        """Whether torch runs it, so that its memory and operations can be measured."""
        return self.path not in PRECISIONS


def cases(
    methods: Sequence[Method], pair: Pair, scale: float, original_flops: float, plan: Plan
) -> Iterator[Case]:
    """Yield the cases to measure on an image.

    Tile methods have knobs with other meanings, so they run at their default.
    """
    points = plan.points(original_flops)
    for method in methods:
        explored = method.explore(pair.lr, scale)
        own = {"default" if method.knobs else "": method.points[0]}
        for text, point in (points if method.unit == "pixel" else own).items():
            try:
                yield from _cases(method, pair, explored, scale, text, point, plan)
            except UserError as error:  # an unsupported budget or precision, no export
                log.info("%s at %s: left out, because %s", method.config.method, text, error)


def _cases(
    method: Method,
    pair: Pair,
    explored: Exploration,
    scale: float,
    text: str,
    point: OperatingPoint,
    plan: Plan,
) -> Iterator[Case]:
    restored = runner(method).run(pair.lr, scale, point)
    units = torch.bincount(restored.labels.flatten(), minlength=method.branches).tolist()
    cost = method.costs((pair.lr.shape[-2], pair.lr.shape[-1]), scale).total(units)
    names = method.config.backbone, method.config.method, plan.names.get(method)
    share = units[-1] / sum(units)
    labels = method.route(explored.scores, point, scale)
    exact = to_uint8(method.compose(explored, labels, point))

    def fast(precision: torch.dtype) -> Run:
        fastest = runner(method, precision)
        return lambda lr: fastest.run(lr, scale, point).sr

    def slow() -> Run:
        return lambda lr: reference_pcsr.restore(method, lr, scale, point)  # type: ignore[arg-type]

    path = {"tile": "tiles", "pixel": "engine", "image": "original"}[method.unit]
    what = cost, share, exact
    for name, dtype in plan.precisions.items():
        if method.unit != "tile" or dtype == torch.float32:
            yield Case(*names, path, name, text, partial(fast, dtype), *what)
    once = ("contiguous",)
    if isinstance(method, PCSR) and point.budget is None:
        yield Case(*names, "definition", "float32", text, slow, *what, once)
    if method.unit != "tile" and point.budget is None:
        for program in plan.peers:
            load = partial(peer, program, method, scale, point)
            yield Case(*names, program, PRECISIONS[program], text, load, *what, once)


@dataclass(frozen=True)
class Timed:
    """Measurements of a case, in its faster memory format.

    Attributes:
        seconds: time of the fastest round; ``median`` is over all rounds.
        peak_bytes: of the tensors alive at once (on a GPU: of its allocator); None of a runtime.
        sr: uint8 (H, W, 3).
        profile: (operation, share of the time, calls), longest first; empty if not requested.
    """

    seconds: float
    median: float
    memory_format: str
    peak_bytes: int | None
    sr: metrics.Image
    profile: list[tuple[str, float, int]]


def time_all(
    subjects: Sequence[Case], networks: Sequence[torch.nn.Module], lr: Tensor, plan: Plan
) -> list[Timed]:
    """Run all cases in turns, ``rounds`` times per memory format; report the faster format.

    The definition runs in the contiguous format only, as it was published, and so do runtimes.
    """
    found: list[dict[str, list[float]]] = [{} for _ in subjects]
    for name in FORMATS:
        _lay_out(networks, name)
        runs = [
            (case.ready(), found[number])
            for number, case in enumerate(subjects)
            if name in case.formats
        ]
        for turn in range(plan.rounds + 1):
            for run, times in runs:
                taken = seconds(partial(run, lr), lr.device)
                if turn:  # the first turn is a warm-up
                    times.setdefault(name, []).append(taken)
    results = []
    for case, times in zip(subjects, found, strict=True):
        best = min(times, key=lambda name: min(times[name]))
        _lay_out(networks, best)
        run = case.ready()
        sr, most = peak(partial(run, lr), lr.device) if case.in_torch else (run(lr), None)
        spent = profiled(partial(run, lr), lr.device) if plan.profiled and case.in_torch else []
        fastest, median = min(times[best]), statistics.median(times[best])
        results.append(Timed(fastest, median, best, most, to_uint8(sr), spent))
    return results


def _lay_out(networks: Sequence[torch.nn.Module], name: str) -> None:
    for network in networks:
        network.to(memory_format=FORMATS[name])  # type: ignore[call-overload]


@torch.no_grad()
def compare(
    methods: Sequence[Method], pair: Pair, scale: float, original_flops: float, plan: Plan
) -> list[dict[str, Any]]:
    """Measure every method on an image, with refinement; return one row per case.

    Ratios are to the original of the same backbone. ``max_levels`` and ``identical`` compare the
    8-bit image with ``Case.exact``, ``psnr_rgb`` compares it with HR.

    Args:
        methods: the models, including the original of every backbone.
        pair: HR, and LR on the methods' device.
        scale: HR size / LR size.
        original_flops: FLOPs that the original executes per LR pixel.
        plan: what is measured.

    Raises:
        UserError: a backbone's original is not among the methods.
    """
    with_original = {m.config.backbone for m in methods if m.config.method == "original"}
    for method in methods:
        backbone = method.config.backbone
        if backbone not in with_original:
            raise UserError(f"--weights: no original of {backbone}; ratios need one.")
    subjects = list(cases(methods, pair, scale, original_flops, plan))
    timed = time_all(subjects, methods, pair.lr, plan)
    originals = {
        case.backbone: (case, result)
        for case, result in reversed([*zip(subjects, timed, strict=True)])
        if case.path == "original"  # in the first of the precisions
    }
    rows = []
    for case, result in zip(subjects, timed, strict=True):
        original, reference = originals[case.backbone]
        difference = abs(result.sr.astype(int) - case.exact)
        row = {
            "image": pair.name,
            "lr_height": pair.lr.shape[-2],
            "lr_width": pair.lr.shape[-1],
            "backbone": case.backbone,
            "method": case.method,
            "weights": case.weights,
            "path": case.path,
            "precision": case.precision,
            "knob": case.knob,
            "heavy_share": case.share,
            "seconds": result.seconds,
            "seconds_median": result.median,
            "memory_format": result.memory_format,
            "peak_bytes": result.peak_bytes,
            **{f"flops_{count}": getattr(case.flops, count) for count in COUNTS},
            "time_ratio": result.seconds / reference.seconds,
            "flops_ratio": case.flops.algorithmic / original.flops.algorithmic,
            "flops_ratio_engine": case.flops.engine / original.flops.engine,
            "psnr_rgb": metrics.psnr_rgb(result.sr, pair.hr, metrics.shave_for(scale)),
            "max_levels": int(difference.max()),
            "identical": float((difference == 0).mean()),
            "profile": result.profile,
        }
        log.info(
            "%s %s-%s %s %s %s: %.3f s, %.2f of the original's time, %.2f of its FLOPs",
            *(pair.name, case.backbone, case.method, case.path, case.precision, case.knob),
            *(row["seconds"], row["time_ratio"], row["flops_ratio"]),
        )
        rows.append(row)
    return rows
