"""What the verbs of the command line do: put the catalog's classes to work on files."""

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ByteSize, TypeAdapter
from torch import Tensor

from benchmarks import latency as benchmark
from benchmarks import training_speed
from benchmarks import training_speed_page as pages
from benchmarks.latency import Plan
from pcsr import distributed, files, geometry, metrics, registry, runtime
from pcsr.config.load import RELEASED, find_released, load_experiment, load_released, load_study
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data import bicubic
from pcsr.data.images import to_tensor
from pcsr.data.store import Store
from pcsr.data.test_images import open_images
from pcsr.errors import UserError, unknown_name
from pcsr.evaluation import knob_table
from pcsr.evaluation import show as demos
from pcsr.evaluation import sweep as evaluate
from pcsr.evaluation import upscale as upscaling
from pcsr.methods.base import Knob, Method
from pcsr.routing import Budget
from pcsr.training import crop_classes
from pcsr.training import run as training
from pcsr.weights import available, checkpoint
from pcsr.weights.released import Released
from pcsr.weights.released import read as read_release

log = logging.getLogger("pcsr")


def train(
    experiment: str,
    stage: str,
    suite: Path,
    out: Path,
    init: Path | None,
    calibration: Path | None,
    device_name: str,
    log_file: Path | None,
) -> None:
    """Train one stage of an experiment of a suite and write its weights to ``out``."""
    files.require_suffix(out, ".safetensors", "--out")
    study = load_study(suite)
    registry.check_names(study)
    if experiment not in study.experiments:
        raise unknown_name("experiment", experiment, study.experiments, str(suite))
    setup = study.experiments[experiment]
    if study.suite.train_set is None or study.suite.valid_set is None:
        raise UserError(
            f"{suite}: weights: {study.suite.weights} ones are not trained; use a suite that "
            "trains, such as configs/suites/train-quick.yaml."
        )
    if stage not in setup.stages:
        raise unknown_name("stage", stage, setup.stages, f"configs/experiments/{experiment}.yaml")
    before = setup.stage_before(stage)
    if (before is None) != (init is None):
        need = (
            f"starts from stage '{before}': give its weights as"
            if before
            else "starts afresh: drop"
        )
        raise UserError(f"{experiment}: stage '{stage}' {need} --init.")
    of_class = setup.stages[stage].crop_class
    if (of_class is None) != (calibration is None):
        need = "trains on all crops: drop" if of_class is None else "trains on one class: give"
        raise UserError(f"{experiment}: stage '{stage}' {need} --calibration.")
    device = runtime.pick_device(device_name)
    runtime.set_up(setup.seed, study.suite.threads)
    method = registry.build(setup.model, f"configs/experiments/{experiment}.yaml: model")
    if tuple(setup.stages) != method.stages:
        raise UserError(
            f"configs/experiments/{experiment}.yaml: stages: {setup.model.method} is trained in "
            f"{', '.join(method.stages)}; list these, in this order."
        )
    if setup.table != method.has_table:
        need = "set it to true" if method.has_table else "drop it"
        raise UserError(
            f"configs/experiments/{experiment}.yaml: table: {setup.model.method} "
            f"{'needs' if method.has_table else 'keeps no'} table; {need}."
        )
    if init is not None:
        checkpoint.fill(method, checkpoint.load(init)[0], str(init))
    store = Store.open(Path(files.prepared(study.suite.train_set)))
    scale = setup.model.scale
    only = None
    if calibration is not None and of_class is not None:
        patch = setup.stages[stage].patch
        size = geometry.hr_size((patch, patch), scale)[0]
        only = crop_classes.crops_of_class(calibration, of_class, store, size)
    valid = open_images(Path(files.prepared(study.suite.valid_set)))
    protocol = study.suite.protocol.model_copy(update={"lr": setup.stages[stage].lr})
    wanted = range(min(len(valid), study.suite.valid_images))
    pairs = [evaluate.make_pair(valid[i], scale, protocol) for i in wanted]

    def validate() -> dict[str, float]:
        return evaluate.validate(method, stage, pairs, scale, protocol.refine)

    with distributed.processes(device) as (rank, world):
        runtime.setup_logging(log_file if rank == 0 else None, quiet=rank > 0)
        facts = {
            "model": method.config.model_dump(mode="json"),
            "experiment": experiment,
            "stage": stage,
            "iterations": setup.iterations_up_to(stage),
            "initial_weights": checkpoint.digest(init) if init else None,
            "calibration": checkpoint.digest(calibration) if calibration else None,
            "provenance": files.provenance(
                stages={name: s.model_dump(mode="json") for name, s in setup.stages.items()},
                seed=setup.seed,
                data={study.suite.train_set: store.digest},
                device=runtime.describe(device),
                processes=world,
                threads=study.suite.threads,
            ),
        }
        run = training.Run(
            method, stage, setup.stages[stage], setup.seed, store, out, device, facts, only
        )
        training.train(run, validate, rank, world)


def calibrate_crops(
    weights: Path,
    data: Path,
    patch: int,
    classes: int,
    out: Path,
    device_name: str,
    threads: int,
    log_file: Path | None,
) -> None:
    """Sort the training crops of a prepared data set into classes."""
    runtime.setup_logging(log_file)
    files.require_suffix(out, ".safetensors", "--out")
    (method,) = _methods([weights], device_name, threads)
    store = Store.open(data)
    facts = {
        "weights": checkpoint.digest(weights),
        "model": method.config.model_dump(mode="json"),
        "provenance": files.provenance(data={str(data): store.digest}),
    }
    with files.locked(out):
        crop_classes.calibrate(method, store, patch, classes, out, facts)


def tabulate(
    weights: Path, images: Path, out: Path, device_name: str, threads: int, log_file: Path | None
) -> None:
    """Fill a method's tables from validation pictures and write its weights with them."""
    runtime.setup_logging(log_file)
    files.require_suffix(out, ".safetensors", "--out")
    if out.resolve() == weights.resolve():
        raise UserError(f"--out {out}: give another file than --weights, which is kept.")
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    method, facts = registry.load_method(weights)
    runtime.move(method, device)
    test = open_images(images)
    scale = method.config.scale

    def pictures() -> Iterator[tuple[Tensor, Tensor]]:
        for number in runtime.progress(range(len(test)), "tabulate"):
            pair = evaluate.make_pair(test[number], scale, ProtocolConfig())
            log.info("%d/%d %s", number + 1, len(test), pair.name)
            yield pair.lr.to(device), to_tensor(pair.hr).to(device)

    with files.locked(out):
        recorded = method.tabulate(pictures())
        # The facts of the training stay: they describe the weights.
        table = {"weights": checkpoint.digest(weights), "images": test.digest, **recorded}
        provenance = files.provenance(device=runtime.describe(device))
        model = method.config.model_dump(mode="json")
        facts = {**facts, "model": model, "table": {**table, "provenance": provenance}}
        checkpoint.save_weights(out, method, facts)


def sweep(
    weights: Sequence[Path],
    images: Path,
    lr_images: Path | None,
    options: evaluate.SweepOptions,
    out: Path,
    device_name: str,
    threads: int,
    log_file: Path | None,
) -> None:
    """Measure weights on pictures and write ``out`` with its provenance."""
    runtime.setup_logging(log_file)
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    files.require_suffix(out, ".csv", "--out")
    if not all(math.isfinite(k) for k in options.knobs):
        raise UserError("--knob: not a finite number; give values such as 0 0.5 1.")
    if lr_images is not None and options.protocol.lr == "float":
        raise UserError(
            f"--lr-images {lr_images}: ready LR pictures are 8 bit; use --lr 8bit, or drop it."
        )
    subjects: list[evaluate.Subject] = []
    known: dict[str, dict[str, Any]] = {}
    for path in weights:
        method, facts = registry.load_method(path)
        name = _name(path, facts, known)
        # By its tensors, because a release may be in two files.
        digest = checkpoint.digest_tensors(method.state_dict())
        subjects.append(evaluate.Subject(runtime.move(method, device), name, digest))
        known[name] = {key: facts.get(key) for key in ("model", "iterations", "released")}
    scale = options.scale or subjects[0].method.config.scale
    test = open_images(images, lr_images, scale)
    facts = files.provenance(
        protocol=options.protocol.model_dump(mode="json"),
        both_ways=options.both_ways,
        weights=known,
        iterations=next(iter(known.values()))["iterations"],
        released=any(facts["released"] is not None for facts in known.values()),
        complete=test.complete,
        data={str(images): test.digest},
        device=runtime.describe(device),
        threads=threads,
    )
    with files.locked(out):
        evaluate.sweep(subjects, test, options, registry.metrics(), out, facts)


def _name(path: Path, facts: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Return a name for a weights file that tells it from the others of a sweep."""
    generic = path.stem in ("weights", "iter_last")
    name = str(facts.get("experiment") or (path.parent.name if generic else path.stem))
    return name if name not in taken else str(path)


def _methods(weights: Sequence[Path], device_name: str, threads: int) -> list[Method]:
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    return [runtime.move(registry.load_method(path)[0], device) for path in weights]


def demo(
    image: Path,
    weights: Sequence[Path],
    out: Path,
    knob: Knob,
    protocol: ProtocolConfig,
    scale: float | None,
    device: str,
    threads: int,
) -> list[str]:
    """Write the demo's pictures; returns its log lines."""
    methods = _methods(weights, device, threads)
    scale = scale or methods[0].config.scale
    pair = evaluate.make_pair(open_images(image)[0], scale, protocol)
    shown = [demos.show(method, pair, scale, knob, protocol.refine) for method in methods]
    return demos.write_demo(pair, shown, out)


@dataclass(frozen=True)
class Wanted:
    """How much is to be computed, in one of several ways.

    Attributes:
        knob: a value of the method's knob, or "adaptive".
        budget: share of the original's FLOPs.
        psnr_drop: dB below the dearest branch everywhere.
    """

    knob: Knob = None
    budget: float | None = None
    psnr_drop: float | None = None


def upscale(
    source: Path,
    target: Path,
    weights: Path,
    wanted: Wanted,
    refine: bool,
    scale: float | None,
    max_memory: str | None,
    precision: str,
    device: str,
    threads: int,
) -> None:
    """Super-resolve pictures that have no HR."""
    runtime.setup_logging()
    limit = _bytes(max_memory)
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    method, facts = registry.load_method(weights)
    scale = scale or method.config.scale
    knob = _knob(wanted, method, facts, scale, weights)
    runtime.move(method, picked)
    wide = _precision(precision, picked)
    upscaling.upscale(method, source, target, scale, knob, refine, limit, wide)


def _knob(
    wanted: Wanted, method: Method, facts: Mapping[str, Any], scale: float, where: Path
) -> Knob:
    ways = [way for way in (wanted.knob, wanted.budget, wanted.psnr_drop) if way is not None]
    if len(ways) > 1:
        raise UserError("give one of --k, --adaptive, --budget and --psnr-drop, not several.")
    if wanted.budget is not None:
        if not wanted.budget > 0:
            raise UserError(f"--budget {wanted.budget:g}: give a share above 0, such as 0.5.")
        return Budget(wanted.budget * _original_flops(method, scale))
    if wanted.psnr_drop is not None:
        return knob_table.for_drop(knob_table.read(facts, str(where)), wanted.psnr_drop)
    return wanted.knob


def _original_flops(method: Method, scale: float) -> float:
    """Return what the original of a method's backbone executes per LR pixel."""
    model = ModelConfig(
        backbone=method.config.backbone,
        method="original",
        scale=scale,
        batch_norm=method.config.batch_norm,
    )
    original = registry.build(model, "--budget: the original that it is a share of")
    return original.costs((1, 1), scale).total([1]).engine


def _precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of a precision.

    Raises:
        UserError: the device is slower in it.
    """
    if name == "float32":
        return torch.float32
    if device.type == "cpu":
        raise UserError(f"--precision {name}: it is for GPUs; a CPU computes in float32.")
    return torch.float16


def _bytes(text: str | None) -> int | None:
    """Read a number of bytes such as 2GiB.

    Raises:
        UserError: it is none.
    """
    if text is None:
        return None
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValueError:
        raise UserError(f"--max-memory {text}: give a size such as 2GiB or 800MiB.") from None


def calibrate_knob(
    weights: Path,
    images: Path,
    values: Sequence[float],
    out: Path,
    device_name: str,
    threads: int,
    log_file: Path | None,
) -> list[str]:
    """Measure what a method's knob costs in PSNR, and keep it with its weights."""
    runtime.setup_logging(log_file)
    files.require_suffix(out, ".safetensors", "--out")
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    method, facts = registry.load_method(weights)
    runtime.move(method, device)
    pictures = open_images(images)
    with files.locked(out):
        points = knob_table.measure(method, pictures, values or method.calibrated or method.knobs)
        table = {
            "points": [point.model_dump() for point in points],
            "images": pictures.digest,
            "provenance": files.provenance(device=runtime.describe(device)),
        }
        model = method.config.model_dump(mode="json")
        checkpoint.save_weights(out, method, {**facts, "model": model, "knob_table": table})
    return [f"{p.knob:g}: -{p.drop:.3f} dB, {100 * p.share:.1f} % of the FLOPs" for p in points]


def bench(
    weights: Sequence[Path],
    fresh: Sequence[str],
    pictures: Sequence[Path],
    plan: Plan,
    precision: str,
    max_memory: str | None,
    out: Path,
    device_name: str,
    threads: int,
) -> None:
    """Time methods beside their originals on pictures, and write what came out as JSON."""
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    device = runtime.pick_device(device_name)
    runtime.set_up(0, threads)
    plan = replace(plan, precision=_precision(precision, device), limit=_bytes(max_memory))
    methods = [registry.load_method(path)[0] for path in weights]
    for backbone in fresh:
        models = (ModelConfig(backbone=backbone, method=name) for name in ("original", "pcsr"))
        methods += [registry.build(model).eval() for model in models]
    methods = [runtime.move(method, device) for method in methods]
    rows: list[dict[str, Any]] = []
    growing: list[dict[str, Any]] = []
    for path in pictures if plan.rounds else ():
        for group in _by_backbone(methods):
            scale = group[0].config.scale
            pair = evaluate.make_pair(open_images(path)[0], scale, ProtocolConfig(crop="none"))
            pair = replace(pair, lr=pair.lr.to(device))
            rows += benchmark.compare(group, pair, scale, _original_flops(group[0], scale), plan)
    for method in methods if plan.steps else ():
        lr = _sixteenth(open_images(pictures[-1])[0].hr, method.config.scale).to(device)
        growing += benchmark.grow(method, lr, method.config.scale, plan)
    facts = files.provenance(
        device=runtime.describe(device),
        threads=threads,
        fresh=list(fresh),
        rounds=plan.rounds,
        precision=precision,
    )
    files.write_json(out, {"cases": rows, "sizes": growing, "provenance": facts})


def _by_backbone(methods: Sequence[Method]) -> list[list[Method]]:
    names = dict.fromkeys(method.config.backbone for method in methods)
    return [[m for m in methods if m.config.backbone == name] for name in names]


def _sixteenth(hr: metrics.Picture, scale: float) -> Tensor:
    """Return a picture of 240 x 135 pixels, whose SR is an eighth of 8K in each direction."""
    size = (135, 240)
    whole = geometry.hr_size(size, scale)
    if min(have - want for have, want in zip(hr.shape, whole, strict=False)) < 0:
        raise UserError(f"--images: the last one must have {whole[1]} x {whole[0]} pixels or more.")
    lr = bicubic.resize(to_tensor(hr).double(), size)
    return lr.clamp(0, 1).float()


def measure_pace(
    experiments: Sequence[str],
    suite: Path,
    data: Path | None,
    plan: training_speed.Plan,
    out: Path,
    device_name: str,
    threads: int,
    seconds: float = math.inf,
) -> int:
    """Measure how fast experiments are trained; returns how many stages there was no time for.

    What ``out`` holds is not measured again. ``seconds``: after which no stage is begun.

    Raises:
        UserError: what ``out`` holds was measured in another way or elsewhere.
    """
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    started = time.monotonic()
    study = load_study(suite)
    for name in experiments:
        if name not in study.experiments:
            raise unknown_name("experiment", name, study.experiments, str(suite))
    if data is None and study.suite.train_set is None:
        raise UserError(f"{suite}: trains nothing, so it names no pictures; give --data.")
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
    facts = files.provenance(**how)
    rows: list[dict[str, Any]] = []
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        for key, value in how.items():
            if (found := before["provenance"].get(key)) != value:
                raise UserError(
                    f"{out}: was measured with {key} {found}, and this would be {value}; name "
                    "another file as --out."
                )
        rows = before["rows"]
    known = {(row["experiment"], row["stage"]) for row in rows}
    commit = f"{facts['commit'] or 'unknown'}{' (modified)' if facts['modified'] else ''}"
    stages = [(n, s) for n in experiments or study.experiments for s in study.experiments[n].stages]
    todo = [one for one in stages if one not in known]
    for number, (name, stage) in enumerate(todo):
        if time.monotonic() - started > seconds:
            return len(todo) - number
        setup = study.experiments[name]
        make = partial(registry.build, setup.model)
        subject = training_speed.Subject(name, stage, setup.stages[stage], make, store, device)
        rows += [{**row, "commit": commit} for row in training_speed.compare(subject, plan)]
        measured = {"rows": rows, "provenance": facts}
        files.write_json(out, measured)
        files.write_text(out.with_suffix(".md"), pages.markdown(measured))
    return 0


def import_released(file: Path, out: Path) -> str:
    """Convert a published checkpoint; returns what was recognised."""
    files.require_suffix(out, ".safetensors", "--out")
    return _convert(file, read_release(file), out, file.name)


def fetch_released(experiment: str, out: Path, raw: Path, log_file: Path | None) -> str:
    """Get the published weights of an experiment and convert them; returns what was recognised."""
    runtime.setup_logging(log_file)
    files.require_suffix(out, ".safetensors", "--out")
    weights = find_released(experiment, load_released())
    wanted = load_experiment(experiment).model
    file = available.obtain(weights, raw)
    release = read_release(file)
    for key in ("backbone", "method", "scale"):
        found = getattr(release.model, key)
        if found != getattr(wanted, key):
            raise UserError(
                f"{file}: is no {experiment}: its {key} is {found} ({release.recognised}); mend "
                f"{RELEASED}, or put the right file there."
            )
    with files.locked(out):
        return _convert(file, release, out, weights.files[0].path, experiment=experiment)


def _convert(file: Path, release: Released, out: Path, called: str, **known: Any) -> str:
    method = registry.build(release.model, str(file))
    checkpoint.fill(method, release.tensors, str(file))
    facts = {
        **known,
        "model": method.config.model_dump(mode="json"),
        "released": release.recognised,
        "iterations": release.iterations,
        "source": {"file": called, "sha256": checkpoint.sha256(file)},
        "provenance": files.provenance(),
    }
    checkpoint.save_weights(out, method, facts)
    return f"{release.recognised} -> {out}"


def showcase(
    images: Path,
    picture: int,
    weights: Sequence[Path],
    knob: Knob,
    protocol: ProtocolConfig,
    routing: Path,
    comparison: Path,
    threads: int,
) -> None:
    """Draw the routing map and the comparison of the report; no knob: the method's own choice."""
    if len(weights) != 2:
        raise UserError(
            f"--weights: give two files, the original's and the method's, not {len(weights)}."
        )
    original, method = _methods(weights, "cpu", threads)
    scale = method.config.scale
    test = open_images(images)
    if not 0 <= picture < len(test):
        raise UserError(f"--picture {picture}: {images} has pictures 0 to {len(test) - 1}.")
    pair = evaluate.make_pair(test[picture], scale, protocol)
    first, shown = (demos.show(m, pair, scale, knob, protocol.refine) for m in (original, method))
    demos.draw(pair, first, shown, routing, comparison)
