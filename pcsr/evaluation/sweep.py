"""Sweeps: weights measured on every image, operating point and protocol; resumable, one CSV."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pcsr import escape, registry, runtime
from pcsr.config import options
from pcsr.config.load import fingerprint, parse
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import TestImage, TestImages, open_images
from pcsr.errors import UserError, log
from pcsr.evaluation.measure import Row, make_pair, measure, points_of
from pcsr.methods.base import Method
from pcsr.metrics import Metric
from pcsr.storage import files, provenance
from pcsr.storage.journal import Journal
from pcsr.weights import checkpoint
from pcsr.weights.load import load_all

ROWS = 5  # version of the rows; raised when those of an unfinished sweep become incompatible


def sweep(
    *,
    weights: options.WeightsFiles,
    images: options.HRImages,
    out: Annotated[Path, Parameter(help="CSV to write, one row per image and operating point")],
    lr_images: Annotated[Path | None, Parameter(help="folder of ready-made LR images")] = None,
    knob: Annotated[
        Sequence[float],
        options.KnobValue,
        Parameter(help="values of the knob; default: each method's own sweep"),
    ] = (),
    adaptive: options.Adaptive = False,
    lr: options.LR = "8bit",
    degradation: options.Degradation = "matlab",
    crop: options.Crop = "tiles",
    refine: options.Refine = True,
    also: Annotated[
        Sequence[str],
        Parameter(
            help="further protocols to measure, each as a list of changes: lr=float, "
            "refine=false, lr=float,refine=false"
        ),
    ] = (),
    scale: options.Scale = None,
    device: options.Device = "auto",
    threads: options.Threads = options.THREADS,
    log_file: options.LogFile = None,
) -> None:
    """Measure weights on images over knob values; one dense pass gives the whole curve.

    Example: `pcsr sweep --weights carn.safetensors --images Urban100/HR --knob 0 1 2 --out u.csv`.
    """
    files.require_suffix(out, ".csv", "--out")
    inputs = (*weights, images, lr_images)
    files.check_outputs(inputs, (out, files.sidecar(out), log_file))
    runtime.setup_logging(log_file)
    protocol = ProtocolConfig(lr=lr, degradation=degradation, crop=crop, refine=refine)
    protocols = [protocol]
    for changes in also:
        other = _changed(protocol, changes)
        if other in protocols:
            raise UserError(f"--also {changes}: is measured already; drop it.")
        protocols.append(other)
    plan = SweepOptions(tuple(knob), adaptive, tuple(protocols), scale)
    if lr_images is not None and not protocol.takes_ready_lr:
        raise UserError(
            f"--lr-images {lr_images}: ready-made LR images are 8 bit, by a bicubic of their own; "
            "use --lr 8bit --degradation matlab, or drop it."
        )
    subjects: list[Subject] = []
    described: dict[str, dict[str, Any]] = {}
    picked, loaded = load_all(weights, device, threads)
    for path, (method, facts) in zip(weights, loaded, strict=True):
        name = _name(path, facts, described)
        # Of the tensors, not the file, because a release may consist of two files.
        digest = checkpoint.digest_tensors(method.state_dict())
        subjects.append(Subject(method, name, digest))
        described[name] = {key: facts.get(key) for key in ("model", "iterations", "released")}
    if knob and not any(subject.method.knobs for subject in subjects):
        raise UserError("--knob: none of these weights has a knob; drop it.")
    test = open_images(images, lr_images, scale or subjects[0].method.config.scale)
    facts = provenance.record(
        protocol=protocol.model_dump(mode="json"),
        other_protocols=[other.model_dump(mode="json") for other in plan.protocols[1:]],
        weights=described,
        iterations=next(iter(described.values()))["iterations"],
        released=any(facts["released"] is not None for facts in described.values()),
        complete=test.complete,
        data={str(images): test.digest},
        device=runtime.describe(picked),
        threads=threads,
    )
    with files.locked(out):
        measure_all(subjects, test, plan, out, facts)


def _name(path: Path, facts: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    """Return a name for a weights file that is unique within a sweep."""
    generic = path.stem in ("weights", "iter_last")
    name = str(facts.get("experiment") or (path.parent.name if generic else path.stem))
    return escape.printable(name if name not in taken else str(path))


def _changed(own: ProtocolConfig, changes: str) -> ProtocolConfig:
    """Return a protocol with the given changes, as ``lr=float,refine=false``."""
    pairs = [change.partition("=") for change in changes.split(",")]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    if len(values) < len(pairs):
        raise UserError(f"--also {changes}: changes something twice; give each key once.")
    return parse(ProtocolConfig, {**dict(own), **values}, f"--also {changes}")


@dataclass(frozen=True)
class Subject:
    """A method to measure, and what identifies its weights."""

    method: Method
    name: str
    digest: str


@dataclass(frozen=True)
class SweepOptions:
    """What is measured.

    Attributes:
        knobs: values of the knob; empty for each method's default sweep.
        adaptive: whether to measure the adaptive decision as well, where a method has it.
        protocols: how images are measured; the first is the sweep's own.
        scale: HR size / LR size; None for the trained one.
        measures: column -> metric.
    """

    knobs: tuple[float, ...]
    adaptive: bool
    protocols: tuple[ProtocolConfig, ...]
    scale: float | None = None
    measures: Mapping[str, Metric] = field(default_factory=registry.metrics)


def measure_all(
    subjects: Sequence[Subject],
    images: TestImages,
    plan: SweepOptions,
    out: Path,
    facts: Mapping[str, Any],
) -> None:
    """Measure every subject on every image and write one CSV, with its provenance beside it.

    Rows are saved to ``<out>.part`` as they come, so that an interrupted sweep resumes; damaged
    rows are measured again. The CSV is written at once at the end.
    """
    # Heavy, and only writing the table needs them.
    import pandas as pd  # noqa: PLC0415

    from pcsr.report.tidy import write_csv  # noqa: PLC0415

    identity = fingerprint(
        [(subject.name, subject.digest) for subject in subjects],
        [images.names, images.digest],
        [plan.knobs, plan.adaptive, plan.scale],
        plan.protocols,
        sorted(plan.measures),
        ROWS,
    )
    journal = Journal(out.with_name(f"{out.name}.part"), identity)
    saved: list[list[Row]] = journal.read()
    if saved:
        log.info("resuming after %d measured images", len(saved))
    journal.restart(saved)
    found = {(rows[0]["weights"], rows[0]["image"]): rows for rows in saved}
    for subject, name, measured in _measured(subjects, images, plan, set(found)):
        journal.append(measured)
        found[subject, name] = measured
    # In the order of an uninterrupted sweep, each subject's images together.
    places = itertools.product((subject.name for subject in subjects), images.names)
    rows = [row for place in places for row in found[place]]
    widest = max(rows, key=len)  # of the method with the most branches: it has all columns
    # The table comes last: its existence marks the sweep as done.
    files.write_json(files.sidecar(out), {**facts, "images": len(images)})
    write_csv(pd.DataFrame(rows, columns=list(widest)), out)
    journal.remove()


def _measured(
    subjects: Sequence[Subject],
    images: TestImages,
    plan: SweepOptions,
    done: set[tuple[str, str]],
) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield the names of a subject and an image, and their rows, one pair at a time."""
    for number, name in enumerate(runtime.progress(images.names, "sweep")):
        waiting = [subject for subject in subjects if (subject.name, name) not in done]
        if not waiting:
            continue
        image = images[number]
        for subject in waiting:
            method = subject.method
            rows = list(_measure_one(method, image, plan))
            log.info(
                "%d/%d %s %s-%s: %.2f dB, %.2f s",
                number + 1,
                len(images),
                name,
                method.config.backbone,
                method.config.method,
                max(row["psnr_rgb"] for row in rows),
                rows[0]["seconds"],
            )
            yield subject.name, name, [{**row, "weights": subject.name} for row in rows]


def _measure_one(method: Method, image: TestImage, plan: SweepOptions) -> Iterator[Row]:
    """Yield the rows of one method on one image, under every protocol that matters to it."""
    scale = plan.scale or method.config.scale
    points = points_of(method, plan.knobs, plan.adaptive)
    sharing: dict[tuple[str, ...], list[ProtocolConfig]] = {}
    own = plan.protocols[0]
    for protocol in plan.protocols:
        refinable = method.refines or protocol.refine == own.refine
        uncropped = method.unit != "tile" or protocol.crop == own.crop
        if refinable and uncropped:
            same_pair = (protocol.lr, protocol.degradation, protocol.crop)
            sharing.setdefault(same_pair, []).append(protocol)
    for protocols in sharing.values():
        pair = make_pair(image, scale, protocols[0])
        yield from measure(method, pair, scale, points, protocols, plan.measures, own)
