"""Sort training crops into classes by the PSNR that a trained model reaches, for ClassSR."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from pcsr import geometry, metrics, runtime
from pcsr.config.load import fingerprint
from pcsr.config.options import THREADS, Classes, Device, LogFile, Patch, Threads, WeightsFile
from pcsr.data.batches import Crops, degradation
from pcsr.data.store import Store
from pcsr.engine.runners import runner
from pcsr.errors import UserError, log
from pcsr.images.levels import levels
from pcsr.methods.base import Method
from pcsr.storage import files, provenance
from pcsr.storage.journal import Journal
from pcsr.weights import checkpoint
from pcsr.weights.load import load_all

BATCH = 64  # crops per forward pass
LINES = 20  # log lines over a whole run


def classify_crops(
    *,
    weights: WeightsFile,
    data: Annotated[Path, Parameter(help="packed store of training images")],
    out: Annotated[Path, Parameter(help="safetensors file to write, with a JSON beside it")],
    patch: Annotated[int, Patch, Parameter(help="side of a crop in LR pixels")] = 32,
    classes: Annotated[int, Classes, Parameter(help="classes of equal size")] = 3,
    device: Device = "auto",
    threads: Threads = THREADS,
    log_file: LogFile = None,
) -> None:
    """Sort all training crops into classes by the PSNR that a trained model reaches on them.

    ClassSR trains each of its networks on one class. An interrupted run is resumed.

    Example: `pcsr classify-crops --weights srresnet.safetensors --data data/prepared/div2k-train
    --out classes.safetensors`.
    """
    files.require_suffix(out, ".safetensors", "--out")
    files.check_outputs((weights, data), (out, files.sidecar(out), log_file))
    runtime.setup_logging(log_file)
    _, ((method, _),) = load_all([weights], device, threads)
    store = Store.open(data)
    facts = {
        "weights": checkpoint.digest(weights),
        "model": method.config.model_dump(mode="json"),
        "provenance": provenance.record(data={str(data): store.digest}),
    }
    with files.locked(out):
        classify(method, store, patch, classes, out, facts)


@torch.no_grad()
def classify(
    method: Method, store: Store, patch: int, classes: int, out: Path, facts: Mapping[str, Any]
) -> None:
    """Measure every training crop of a store and split the crops into classes of equal size.

    Class 0 holds the crops with the highest PSNR. LR crops are 8 bit; PSNR is the suite's. Writes
    ``out`` (tensors ``psnr`` in dB and ``class``, in the order of the crop table) and, beside it, a
    JSON with the thresholds in dB and the counts. An interrupted run is resumed.

    ``patch`` is the side of a crop in LR pixels; ``facts["weights"]`` identifies the weights.
    """
    size = geometry.hr_size((patch, patch), method.config.scale)[0]
    device = next(method.parameters()).device
    crops = Crops(store, size, device)
    degrade = degradation((size, patch), "8bit", device)
    identity = fingerprint(facts["weights"], store.digest, size, BATCH)
    journal = Journal(out.with_name(f"{out.name}.part"), identity)
    saved: list[list[float]] = journal.read()
    if saved:
        log.info("resuming after %d measured crops", sum(map(len, saved)))
    journal.restart(saved)
    psnr = np.empty(len(crops), np.float32)
    done = len(saved) * BATCH
    psnr[:done] = [value for batch in saved for value in batch]
    starts = range(done, len(crops), BATCH)
    for number, start in enumerate(runtime.progress(starts, "classify-crops", len(saved))):
        indices = np.arange(start, min(start + BATCH, len(crops)))
        levels = crops.cut(crops.places(indices))
        psnr[indices] = _measure(method, degrade(levels.float() / 255), levels)
        journal.append(psnr[indices].tolist())
        if number % max(1, len(starts) // LINES) == 0:
            log.info("%d of %d crops measured", indices[-1] + 1, len(crops))
    of_crop, cuts = part_evenly(psnr, classes)
    counts = np.bincount(of_crop, minlength=classes).tolist()
    log.info("thresholds at %s dB; %s crops per class", ", ".join(f"{c:.3f}" for c in cuts), counts)
    facts = {**facts, "data": store.digest, "crop": size, "cuts_db": cuts, "counts": counts}
    tensors = {"psnr": torch.from_numpy(psnr), "class": torch.from_numpy(of_crop)}
    files.write_json(files.sidecar(out), facts)
    checkpoint.save(out, tensors, facts)
    journal.remove()


def part_evenly(psnr: np.ndarray, classes: int) -> tuple[np.ndarray, list[float]]:
    """Split crops by their PSNR (n,) in dB into classes of equal size; class 0 has the highest.

    Returns:
        The class of each crop, uint8 (n,), and the thresholds in dB in ascending order: the lowest
        PSNR of every class but the hardest.
    """
    easiest_first = np.argsort(-psnr, kind="stable")
    of_crop = np.empty(len(psnr), np.uint8)
    of_crop[easiest_first] = np.arange(len(psnr)) * classes // len(psnr)
    cuts = [float(psnr[of_crop == c].min(initial=np.inf)) for c in range(classes - 1)]
    return of_crop, cuts[::-1]


def crops_of_class(path: Path, number: int, store: Store, size: int) -> np.ndarray:
    """Return the indices of the crops of one class; crops have ``size`` HR pixels a side.

    Raises:
        UserError: the file of classes is missing, damaged, made for other images or crops, or has
            no crop of this class.
    """
    tensors, facts = checkpoint.load(path)
    if facts.get("data") != store.digest or facts.get("crop") != size:
        raise UserError(
            f"{path}: was made for other images or crops than these ({store.folder}, {size} "
            "pixels a side); run `pcsr classify-crops` again."
        )
    numbers = np.flatnonzero(tensors["class"].numpy() == number)
    if not len(numbers):
        raise UserError(f"{path}: no crop is of class {number}; use more training images.")
    return numbers


def _measure(method: Method, lr: Tensor, hr: Tensor) -> np.ndarray:
    """Return the PSNR-RGB (n,) in dB of super-resolved LR crops; ``hr`` holds 8-bit levels."""
    scale = method.config.scale
    sr = runner(method).run(lr, scale, replace(method.points[0], refine=False)).sr
    return metrics.psnr_rgb_each(levels(sr), hr, metrics.shave_for(scale)).cpu().numpy()
