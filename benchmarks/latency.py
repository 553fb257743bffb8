"""Measure latency side by side in one run: the original, reference PCSR and the engine.

On a shared CPU only ratios are meaningful, so all cases take turns. Outputs are compared with the
method's by its definition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor

from pcsr import metrics, registry, runtime
from pcsr.benchmarks import timing
from pcsr.benchmarks.cases import FORMATS, Case, Plan, Run, cases
from pcsr.benchmarks.growth import first_size, grow
from pcsr.benchmarks.peers import RuntimeName, require
from pcsr.benchmarks.timing import peak, profiled, seconds
from pcsr.config import options
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.errors import UserError, log
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import original_flops
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Method
from pcsr.precision import dtype_of
from pcsr.report.columns import COUNTS
from pcsr.storage import files, provenance
from pcsr.weights.load import load_method

LEAST = 3  # rounds: one says nothing of the spread
MOST, PATIENCE = 3, 60.0  # times as many rounds, or seconds more, as long as ratios are unsteady
QUIET = 0.1  # cores that others may use


def bench(
    *,
    weights: options.WeightsFiles,
    images: Annotated[list[Path], Parameter(help="HR images; --steps enlarges the last one")],
    out: Annotated[Path, Parameter(help="JSON to write")],
    fresh: Annotated[
        Sequence[str],
        Parameter(help="backbones to time with untrained weights, as an original and a pcsr"),
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
            help="times to run every case: at least 3, and for up to a minute more while "
            "ratios are unsteady; 0: only the sizes of --steps"
        ),
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
        Parameter(help="runtimes in which to time originals and PCSR as well, on a CPU"),
    ] = (),
    device: options.Device = "auto",
    threads: options.Threads = options.THREADS,
) -> None:
    """Time originals, reference PCSR, PCSR by the engine, and tile methods in one run.

    PCSR runs at the given operating points, tile methods at their default. With `--peers`,
    originals and PCSR are also exported and run in inference runtimes. Nothing else should run on
    the machine; the load of other work is measured and reported. All cases take turns; the result
    is the ratio of times within a turn, as median and quartiles.

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
        growing += grow(method, lr, knob, precisions, steps, limit)
    how: dict[str, Any] = {"threads": threads, "fresh": list(fresh), "rounds": plan.rounds}
    how["precision"] = precision[0]  # of the originals that ratios refer to
    if picked.type == "cpu":
        how["processor"] = runtime.processor()
    busy = {"others": round(others, 2), "cores": options.CORES}
    facts = provenance.record(device=runtime.describe(picked), load=busy, **how)
    files.write_json(out, {"cases": rows, "sizes": growing, "provenance": facts})


def warn_if_noisy(rows: Sequence[Mapping[str, Any]], others: float) -> None:
    """Warn that times are unreliable if other work ran or ratios are unsteady."""
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
class Timed:
    """Measurements of a case, in its faster memory format.

    Attributes:
        seconds: of each round.
        peak_bytes: of the tensors alive at once (on a GPU: of its allocator); None of a runtime.
        sr: uint8 (H, W, 3).
        profile: (operation, share of the time, calls), longest first; empty if not requested.
    """

    seconds: list[float]
    memory_format: str
    peak_bytes: int | None
    sr: metrics.Image
    profile: list[tuple[str, float, int]]


def time_all(
    subjects: Sequence[Case], networks: Sequence[torch.nn.Module], lr: Tensor, plan: Plan
) -> list[Timed]:
    """Run all cases in turns, in both memory formats; report the faster format.

    There are at least ``plan.rounds`` rounds, and more until the ratios to the original are steady
    (``MOST``, ``PATIENCE``). Reference PCSR and runtimes run in the contiguous format only.
    """
    runs: dict[str, list[tuple[int, Run]]] = {}
    for name in FORMATS:
        _lay_out(networks, name)
        runs[name] = [
            (number, case.ready()) for number, case in enumerate(subjects) if name in case.formats
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
        sr, most = peak(partial(run, lr), lr.device) if case.in_torch else (run(lr), None)
        spent = profiled(partial(run, lr), lr.device) if plan.profiled and case.in_torch else []
        results.append(Timed(times[best], best, most, to_uint8(sr), spent))
    return results


def _best(times: Mapping[str, Sequence[float]]) -> str:
    return min(times, key=lambda name: min(times[name]))


def _all_steady(subjects: Sequence[Case], found: Sequence[Mapping[str, Sequence[float]]]) -> bool:
    """Tell whether the ratios of all cases to their originals are steady by now."""
    chosen = [times[_best(times)] for times in found]
    ratios = [
        timing.ratio_quartiles(times, chosen[original])
        for times, original in zip(chosen, _originals(subjects), strict=True)
    ]
    return all(timing.steady(low, high) for low, _, high in ratios)


def _originals(subjects: Sequence[Case]) -> list[int]:
    """Return the number of each case's original, in the first of the precisions."""
    found: dict[str, int] = {}
    for number, case in enumerate(subjects):
        if case.path == "original":
            found.setdefault(case.backbone, number)
    return [found[case.backbone] for case in subjects]


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
    rows = []
    for case, result, number in zip(subjects, timed, _originals(subjects), strict=True):
        original, reference = subjects[number], timed[number]
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
            "precision": case.precision,
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
            "%s %s-%s %s %s %s: %.3f s, %.2f [%.2f, %.2f] of the original's time, "
            "%.2f of its FLOPs",
            *(pair.name, case.backbone, case.method, case.path, case.precision, case.knob),
            *(row["seconds"], ratio, low, high, row["flops_ratio"]),
        )
        rows.append(row)
    return rows
