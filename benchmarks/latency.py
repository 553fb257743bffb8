"""Measure latency side by side in one run: the original, the definition and the engine.

On a shared CPU only ratios count, so all cases take turns. Outputs are held to the definition's.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor

from pcsr import flops, metrics, registry, runtime
from pcsr.benchmarks import reference_pcsr, timing
from pcsr.benchmarks.growth import first_size, grow
from pcsr.benchmarks.timing import peak, profiled, seconds
from pcsr.config import options
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data import images
from pcsr.data.test_images import open_images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import original_flops
from pcsr.methods.base import Exploration, Method
from pcsr.methods.pcsr import PCSR
from pcsr.report.tidy import COUNTS
from pcsr.routing import OperatingPoint
from pcsr.storage import files
from pcsr.weights.load import load_method

log = logging.getLogger("pcsr")

LEAST = 3  # rounds: one says nothing of the spread
MOST, PATIENCE = 3, 60.0  # times as many rounds, or seconds more, as long as ratios are unsteady
QUIET = 0.1  # cores that others may use
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
        Parameter(
            help="times to run every case: 3 at least, and for up to a minute more as long as "
            "ratios are unsteady; 0: only the growing image"
        ),
    ] = 3,
    max_memory: options.MaxMemory = None,
    profile: Annotated[
        bool, options.Flag, Parameter(help="also profile which operations take the time")
    ] = False,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    threads: options.Threads = options.CORES,
) -> None:
    """Time originals, PCSR (as published and by the engine) and tile methods in one run.

    PCSR runs at the given operating points, tile methods at their default. Nothing else should run
    on the machine; what did is measured and stated. All cases take turns, and what counts are the
    ratios of the times of a turn: their median, with the quartiles.

    Example: `pcsr bench --weights carn.safetensors carn-pcsr.safetensors --images 1232.png --knob 0
    --out bench.json`.
    """
    if (max_memory is not None and not steps) or (profile and not rounds):
        raise UserError("--max-memory goes with --steps, and --profile with --rounds: drop it.")
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    files.refuse_overwriting((*weights, *images), [out])
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    dtype, limit = runtime.dtype_of(precision, picked), runtime.read_bytes(max_memory)
    loaded = [load_method(path) for path in weights]
    methods = [method for method, _ in loaded]
    names = {method: facts.get("experiment") for method, facts in loaded}
    plan = Plan(knob, budget, rounds, dtype, profile, names)
    for backbone in fresh:
        models = (ModelConfig(backbone=backbone, method=name) for name in ("original", "pcsr"))
        methods += [registry.build(model).eval() for model in models]
    methods = [runtime.move(method, picked) for method in methods]
    rows: list[dict[str, Any]] = []
    growing: list[dict[str, Any]] = []
    load = timing.Load()
    for path in images if plan.rounds else ():
        for group in _by_backbone(methods):
            scale = group[0].config.scale
            pair = make_pair(open_images(path)[0], scale, ProtocolConfig(crop="none"))
            pair = replace(pair, lr=pair.lr.to(picked))
            rows += compare(group, pair, scale, original_flops(group[0], scale), plan)
    others = load.others()
    warn_if_noisy(rows, others)
    for method in methods if steps else ():
        lr = first_size(open_images(images[-1])[0].hr, method.config.scale).to(picked)
        growing += grow(method, lr, knob, dtype, steps, limit)
    how = {"threads": threads, "fresh": list(fresh), "rounds": plan.rounds, "precision": precision}
    busy = {"others": round(others, 2), "cores": options.CORES}
    facts = files.provenance(device=runtime.describe(picked), load=busy, **how)
    files.write_json(out, {"cases": rows, "sizes": growing, "provenance": facts})


def warn_if_noisy(rows: Sequence[Mapping[str, Any]], others: float) -> None:
    """Say that times are not to be trusted, and why, where other work took a part of them."""
    unsteady = [row for row in rows if not timing.steady(*row["time_ratio_quartiles"])]
    if others > QUIET:
        log.warning(
            "noisy machine: other work took %.1f of %d cores; measure again when nothing else runs",
            *(others, options.CORES),
        )
    if unsteady:
        log.warning(
            "%d of %d ratios are unsteady: their quartiles are more than %.0f %% apart",
            *(len(unsteady), len(rows), 100 * timing.STEADY),
        )


def _by_backbone(methods: Sequence[Method]) -> list[list[Method]]:
    names = dict.fromkeys(method.config.backbone for method in methods)
    return [[m for m in methods if m.config.backbone == name] for name in names]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        knobs: operating points, as values of the knob.
        budgets: operating points, as shares of the original's FLOPs.
        rounds: how many times each case is run at least.
        precision: of the networks; the definition always runs in float32.
        profiled: whether to profile which operations take the time.
        names: the experiments that weights are of, where they tell.
    """

    knobs: Sequence[float] = (0.0,)
    budgets: Sequence[float] = ()
    rounds: int = 3
    precision: torch.dtype = torch.float32
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
        path: "original", "definition" or "engine"; "tiles" for tile methods, as published.
        knob: operating point, as text.
        ready: lays out the weights and returns a function LR (1, 3, h, w) -> SR (1, 3, H, W).
        flops: cost of one image at this operating point.
        share: share of units that the most expensive branch computes.
        exact: uint8 (H, W, 3) by the method's definition, with every branch computed everywhere.
    """

    backbone: str
    method: str
    weights: str | None
    path: str
    knob: str
    ready: Callable[[], Run]
    flops: flops.Flops
    share: float
    exact: metrics.Image


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
            except UserError as error:  # an unsupported budget or precision
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
    restored = runner(method, plan.precision).run(pair.lr, scale, point)
    units = torch.bincount(restored.labels.flatten(), minlength=method.branches).tolist()
    cost = method.costs((pair.lr.shape[-2], pair.lr.shape[-1]), scale).total(units)
    names = method.config.backbone, method.config.method, plan.names.get(method)
    share = units[-1] / sum(units)
    labels = method.route(explored.scores, point, scale)
    exact = images.to_uint8(method.compose(explored, labels, point))

    def fast() -> Run:
        fastest = runner(method, plan.precision)
        return lambda lr: fastest.run(lr, scale, point).sr

    path = {"tile": "tiles", "pixel": "engine", "image": "original"}[method.unit]
    yield Case(*names, path, text, fast, cost, share, exact)
    if isinstance(method, PCSR) and point.budget is None:

        def slow() -> Run:
            return lambda lr: reference_pcsr.restore(method, lr, scale, point)

        yield Case(*names, "definition", text, slow, cost, share, exact)


@dataclass(frozen=True)
class Timed:
    """Measurements of a case, in its faster memory format.

    Attributes:
        seconds: of each round.
        peak_bytes: of the tensors alive at once (on a GPU: of its allocator).
        sr: uint8 (H, W, 3).
        profile: (operation, share of the time, calls), longest first; empty if not requested.
    """

    seconds: list[float]
    memory_format: str
    peak_bytes: int
    sr: metrics.Image
    profile: list[tuple[str, float, int]]


def time_all(
    subjects: Sequence[Case], networks: Sequence[torch.nn.Module], lr: Tensor, plan: Plan
) -> list[Timed]:
    """Run all cases in turns, in both memory formats; report the faster format.

    There are at least ``plan.rounds`` rounds, and more until the ratios to the original are steady
    (``MOST``, ``PATIENCE``). The definition runs in the contiguous format only, as published.
    """
    runs: dict[str, list[tuple[int, Run]]] = {}
    for name in FORMATS:
        _lay_out(networks, name)
        runs[name] = [
            (number, case.ready())
            for number, case in enumerate(subjects)
            if case.path != "definition" or name == "contiguous"
        ]
    found: list[dict[str, list[float]]] = [{} for _ in subjects]
    rounds, last = max(plan.rounds, LEAST), inf
    for turn in range(MOST * rounds + 1):
        for name, of_format in runs.items():
            _lay_out(networks, name)
            for number, run in of_format:
                taken = seconds(partial(run, lr), lr.device)
                if turn:  # the first turn is a warm-up
                    found[number].setdefault(name, []).append(taken)
        if turn == rounds:
            last = perf_counter() + PATIENCE
        if turn >= rounds and (perf_counter() > last or _all_steady(subjects, found)):
            break
    results = []
    for case, times in zip(subjects, found, strict=True):
        best = _best(times)
        _lay_out(networks, best)
        run = case.ready()
        sr, most = peak(partial(run, lr), lr.device)
        spent = profiled(partial(run, lr), lr.device) if plan.profiled else []
        results.append(Timed(times[best], best, most, images.to_uint8(sr), spent))
    return results


def _best(times: Mapping[str, Sequence[float]]) -> str:
    return min(times, key=lambda name: min(times[name]))


def _all_steady(subjects: Sequence[Case], found: Sequence[Mapping[str, Sequence[float]]]) -> bool:
    """Tell whether the ratios of all cases to their originals are steady by now."""
    chosen = [times[_best(times)] for times in found]
    paired = list(zip(subjects, chosen, strict=True))
    originals = {case.backbone: times for case, times in paired if case.path == "original"}
    ratios = [timing.ratio_quartiles(times, originals[case.backbone]) for case, times in paired]
    return all(timing.steady(low, high) for low, _, high in ratios)


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
        for case, result in zip(subjects, timed, strict=True)
        if case.path == "original"
    }
    rows = []
    for case, result in zip(subjects, timed, strict=True):
        original, reference = originals[case.backbone]
        difference = abs(result.sr.astype(int) - case.exact)
        low, ratio, high = timing.ratio_quartiles(result.seconds, reference.seconds)
        row = {
            "image": pair.name,
            "lr_height": pair.lr.shape[-2],
            "lr_width": pair.lr.shape[-1],
            "backbone": case.backbone,
            "method": case.method,
            "weights": case.weights,
            "path": case.path,
            "knob": case.knob,
            "heavy_share": case.share,
            "seconds": min(result.seconds),
            "seconds_quartiles": timing.quartiles(result.seconds),
            "rounds": len(result.seconds),
            "memory_format": result.memory_format,
            "peak_bytes": result.peak_bytes,
            **{f"flops_{count}": getattr(case.flops, count) for count in COUNTS},
            "time_ratio": ratio,
            "time_ratio_quartiles": (low, high),
            "flops_ratio": case.flops.algorithmic / original.flops.algorithmic,
            "flops_ratio_engine": case.flops.engine / original.flops.engine,
            "psnr_rgb": metrics.psnr_rgb(result.sr, pair.hr, metrics.shave_for(scale)),
            "max_levels": int(difference.max()),
            "identical": float((difference == 0).mean()),
            "profile": result.profile,
        }
        log.info(
            "%s %s-%s %s %s: %.3f s, %.2f [%.2f, %.2f] of the original's time, %.2f of its FLOPs",
            *(pair.name, case.backbone, case.method, case.path, case.knob),
            *(row["seconds"], ratio, low, high, row["flops_ratio"]),
        )
        rows.append(row)
    return rows
