"""Measuring: one dense pass per picture, then every knob value as a routing decision.

Every method is measured here and by the same pictures, degradation, PSNR and FLOP count; a method
never scores itself.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsr import files, geometry, metrics, runtime
from pcsr.config.load import fingerprint
from pcsr.config.models import ProtocolConfig
from pcsr.data import bicubic, images
from pcsr.data.test_images import TestImage, TestImages
from pcsr.errors import UserError
from pcsr.methods.base import Knob, Method
from pcsr.metrics import Metric

Row = dict[str, Any]
ROWS = 3  # raised when rows of a cut sweep no longer mean what new ones do
log = logging.getLogger("pcsr")


@dataclass(frozen=True)
class Pair:
    """A test picture: LR (1, 3, h, w) float32 in [0, 1], HR uint8 (H, W, 3) of scale times that."""

    name: str
    lr: Tensor
    hr: metrics.Picture


def make_pair(image: TestImage, scale: float, protocol: ProtocolConfig) -> Pair:
    """Degrade (or take the ready LR picture) and crop, as the protocol says.

    HR is first cut to a multiple of the scale, then degraded as a whole; ``crop: tiles`` cuts LR
    to whole tiles and HR to match, all from the top left. ``lr: float`` always degrades HR,
    because a ready LR picture is 8 bit.

    Raises:
        UserError: names the picture that is too small, or whose LR picture has another size.
    """
    height, width = image.hr.shape[:2]
    size = geometry.lr_size((height, width), scale)
    whole = geometry.hr_size(size, scale)
    hr = image.hr[: whole[0], : whole[1]]
    if image.lr is None or protocol.lr == "float":
        exact = torch.from_numpy(hr.transpose(2, 0, 1).astype(np.float64))[None] / 255
        lr = bicubic.degrade(exact, size, protocol.lr).float()
    elif image.lr.shape[:2] != size:
        found = f"{image.lr.shape[1]}x{image.lr.shape[0]}"
        raise UserError(
            f"{image.name}: the LR picture is {found}, but HR {width}x{height} at x{scale:g} needs "
            f"{size[1]}x{size[0]}; give the LR picture of this scale."
        )
    else:
        lr = images.to_tensor(image.lr)
    if protocol.crop == "tiles":
        size = geometry.tile_crop(*size)
        if 0 in size:
            raise UserError(
                f"{image.name}: {width}x{height} is smaller than one tile of {geometry.TILE} LR "
                f"pixels a side at x{scale:g}; use a larger picture, or measure with --crop none."
            )
        whole = geometry.hr_size(size, scale)
    if min(whole) < metrics.smallest_side(scale):
        raise UserError(
            f"{image.name}: {width}x{height} is too small to be measured; at x{scale:g} a side "
            f"needs {metrics.smallest_side(scale)} pixels."
        )
    return Pair(image.name, lr[..., : size[0], : size[1]], hr[: whole[0], : whole[1]])


def knobs_of(method: Method, values: Sequence[float], adaptive: bool) -> list[Knob]:
    """Return the operating points at which a method is measured; no values: its own choice."""
    if not method.knobs:
        return [None]
    chosen: list[Knob] = [*(values or sorted(method.knobs))]
    return [*chosen, "adaptive"] if adaptive and method.has_adaptive else chosen


@torch.no_grad()
def measure(
    method: Method,
    pair: Pair,
    scale: float,
    knobs: Sequence[Knob],
    protocols: Sequence[ProtocolConfig],
    measures: Mapping[str, Metric],
    own: ProtocolConfig | None = None,
) -> Iterator[Row]:
    """Yield one row per operating point of one picture and protocol.

    The protocols share the pair, so they differ in refinement alone, and share one dense pass.
    With ``own``, all measures are taken under that protocol, and PSNR-RGB alone under others.
    ``seconds`` is the time of the dense pass, which all rows of the picture share; it is no
    latency. ``share_j`` is the share of units that branch j computes, ``lr_pixels`` the number of
    LR pixels that are processed: more than the picture has, where tiles overlap.
    """
    device = next(method.parameters()).device
    started = time.perf_counter()
    lr = pair.lr.to(device)
    exploration = method.explore(lr, scale)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    height, width = pair.lr.shape[-2:]
    costs = method.costs((height, width), scale)
    for knob in knobs:
        labels = method.route(exploration.scores, knob, scale)
        units = torch.bincount(labels.flatten(), minlength=method.branches).tolist()
        flops = costs.total(units)
        for protocol in protocols:
            sr = images.to_uint8(method.compose(exploration, labels, protocol.refine))
            every = own in (None, protocol)
            yield {
                "image": pair.name,
                "method": method.config.method,
                "backbone": method.config.backbone,
                "scale": scale,
                "knob": knob if isinstance(knob, int | float) else None,
                "adaptive": knob == "adaptive",
                **protocol.model_dump(),
                **{
                    name: metric(sr, pair.hr, metrics.shave_for(scale))
                    if every or name == "psnr_rgb"
                    else None
                    for name, metric in measures.items()
                },
                "flops_paper": flops.paper,
                "flops_algorithmic": flops.algorithmic,
                "flops_engine": flops.engine,
                **{f"share_{j}": count / sum(units) for j, count in enumerate(units)},
                "units": sum(units),
                "lr_pixels": method.lr_pixels((height, width)),
                "lr_height": height,
                "lr_width": width,
                "seconds": seconds,
            }


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
        knobs: operating points; empty for each method's own choice.
        adaptive: whether the adaptive decision is measured, too, where a method has it.
        protocol: how pictures are measured.
        both_ways: choices of the protocol that are also measured the other way; those joined by a
            comma in all combinations.
        scale: if not the trained one.
    """

    knobs: tuple[float, ...]
    adaptive: bool
    protocol: ProtocolConfig
    both_ways: tuple[str, ...] = ()
    scale: float | None = None


def sweep(
    subjects: Sequence[Subject],
    pictures: TestImages,
    options: SweepOptions,
    measures: Mapping[str, Metric],
    out: Path,
    facts: Mapping[str, Any],
) -> None:
    """Measure every subject on every picture and write one CSV, with its provenance beside it.

    Rows are kept in ``<out>.part`` as they come, so that a sweep that was cut goes on where it was;
    the CSV appears whole at the end.
    """
    import pandas as pd  # noqa: PLC0415 - heavy, and only writing the table needs it

    identity = fingerprint(
        [(subject.name, subject.digest) for subject in subjects],
        [pictures.names, pictures.digest],
        [options.knobs, options.adaptive, options.scale],
        options.protocol.also(options.both_ways),
        sorted(measures),
        ROWS,
    )
    part = out.with_name(f"{out.name}.part")
    rows = _resume(part, identity)
    if not rows:
        part.unlink(missing_ok=True)
    done = {(row["weights"], row["image"]) for row in rows}
    for measured in _measure_all(subjects, pictures, options, measures, done):
        if not part.exists():
            files.append_line(part, identity)
        files.append_line(part, json.dumps(measured))
        rows.extend(measured)
    rows = _in_order(rows, subjects, pictures)
    # The table comes last: it says that the sweep is done.
    files.write_json(files.sidecar(out), {**facts, "images": len(pictures)})
    with files.atomic(out) as temporary:
        pd.DataFrame(rows, columns=_columns(rows)).to_csv(temporary, index=False)
    part.unlink()


def _measure_all(
    subjects: Sequence[Subject],
    pictures: TestImages,
    options: SweepOptions,
    measures: Mapping[str, Metric],
    done: set[tuple[str, str]],
) -> Iterator[list[Row]]:
    """Yield all rows of one subject on one picture at a time."""
    for number, name in enumerate(runtime.progress(pictures.names, "sweep")):
        waiting = [subject for subject in subjects if (subject.name, name) not in done]
        image = pictures[number] if waiting else None
        for subject in waiting:
            method = subject.method
            rows = list(_measure_one(method, image, options, measures))  # type: ignore[arg-type]
            log.info(
                "%d/%d %s %s-%s: %.2f dB, %.2f s",
                number + 1,
                len(pictures),
                name,
                method.config.backbone,
                method.config.method,
                max(row["psnr_rgb"] for row in rows),
                rows[0]["seconds"],
            )
            yield [{**row, "weights": subject.name} for row in rows]


def _measure_one(
    method: Method, image: TestImage, options: SweepOptions, measures: Mapping[str, Metric]
) -> Iterator[Row]:
    """Yield all rows of one method on one picture, under every protocol that makes a difference."""
    scale = options.scale or method.config.scale
    knobs = knobs_of(method, options.knobs, options.adaptive)
    sharing: dict[tuple[str, str], list[ProtocolConfig]] = {}
    own = options.protocol
    for protocol in own.also(options.both_ways):
        refinable = method.has_refinement or protocol.refine == own.refine
        uncropped = not method.by_tiles or protocol.crop == own.crop
        if refinable and uncropped:
            sharing.setdefault((protocol.lr, protocol.crop), []).append(protocol)
    for protocols in sharing.values():
        pair = make_pair(image, scale, protocols[0])
        yield from measure(method, pair, scale, knobs, protocols, measures, own)


def _resume(part: Path, identity: str) -> list[Row]:
    """Return the rows a cut sweep has left, if it measured the same things; start afresh if not."""
    lines = part.read_text(encoding="utf-8").split("\n") if part.exists() else []
    if not lines or lines[0] != identity:
        return []
    whole = lines[1:-1]  # what follows the last line end was cut while it was written
    if whole:
        files.write_text(part, "\n".join([identity, *whole, ""]))
        log.info("going on after %d measured pictures of a cut run", len(whole))
    return [row for line in whole for row in json.loads(line)]


def _in_order(rows: Iterable[Row], subjects: Sequence[Subject], pictures: TestImages) -> list[Row]:
    """Sort rows by subject, then picture, as if they had been measured in one go."""
    subject_order = {subject.name: i for i, subject in enumerate(subjects)}
    picture_order = {name: i for i, name in enumerate(pictures.names)}
    return sorted(rows, key=lambda r: (subject_order[r["weights"]], picture_order[r["image"]]))


def _columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns of all rows; a row of the method with most branches has them all."""
    widest = max(len(row) for row in rows)
    return next(list(row) for row in rows if len(row) == widest)


@torch.no_grad()
def validate(
    method: Method, stage: str, pairs: Sequence[Pair], scale: float, refine: bool
) -> dict[str, float]:
    """Return the mean PSNR-RGB and the mean share of the dearest branch, as a stage is validated.

    Every branch is run: stages train branches that the finished method may not choose.
    """
    device = next(method.parameters()).device
    psnr, heavy = [], []
    for pair in pairs:
        exploration = method.explore(pair.lr.to(device), scale)
        labels = method.validation_labels(stage, exploration.scores, scale)
        sr = images.to_uint8(method.compose(exploration, labels, refine))
        psnr.append(metrics.psnr_rgb(sr, pair.hr, metrics.shave_for(scale)))
        heavy.append(float((labels == method.branches - 1).double().mean()))
    return {"psnr_rgb": float(np.mean(psnr)), "heavy_share": float(np.mean(heavy))}
