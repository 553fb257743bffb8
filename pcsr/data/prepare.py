"""Pack the raw images of a data set into a store; an interrupted run resumes.

An unfinished store is ``hr.bin.part``, ``lr.bin.part`` and ``index.jsonl.part``. The index is a
journal that begins with the identity of the store, followed by one line per source image, written
only after the image's bytes are on disk. On a restart, everything after the last complete line is
dropped, as is everything from the first image whose bytes have changed.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter

from pcsr import escape, runtime
from pcsr.config.load import fingerprint, load_datasets
from pcsr.config.models import DatasetConfig
from pcsr.config.options import LogFile
from pcsr.data import images
from pcsr.data.bicubic import resize, whole_levels
from pcsr.data.sources import Source, choose, open_sources
from pcsr.data.store import FORMAT, HR, LR, MANIFEST, Store, Stored, intact, seal, sha256
from pcsr.errors import UserError, log, require_name
from pcsr.geometry import Tiles, lr_size, tile_crop
from pcsr.runtime import progress
from pcsr.storage import files, provenance
from pcsr.storage.journal import Journal

INDEX = "index.jsonl.part"
LOG_EVERY = 25  # images
TILES_SCALE = 4  # at which the tiles of published sets are counted


def prepare(
    name: Annotated[str, Parameter(help="a data set of configs/datasets.yaml")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="folder of the packed store")] = None,
    raw: Annotated[Path, Parameter(help="folder of downloads")] = Path("data/raw"),
    log_file: LogFile = None,
) -> None:
    """Pack the raw images of a data set into a store with a manifest.

    Example: `pcsr prepare embedded-train`. Set `PCSR_MIRROR` to use a local folder for downloads.
    """
    runtime.setup_logging(log_file)
    datasets = load_datasets()
    require_name("data set", name, datasets, "prepare")
    make_store(name, datasets[name], out or Path(files.prepared(name)), raw)


def make_store(name: str, config: DatasetConfig, out: Path, raw: Path = Path("data/raw")) -> None:
    """Make the store of a data set, or resume it; does nothing if it is already complete.

    Raises:
        UserError: images are missing or unreadable, or a fixed source has the wrong number.
        OSError: the disk is full; finished images stay, and a later call resumes after them.
    """
    with files.locked(out):
        packed = _prepared(name, config, out) or _make(name, config, out, raw)
    if config.expected in (None, len(packed)):  # of fewer images another warning has told
        _compare_tiles(name, config, packed)


def _compare_tiles(name: str, config: DatasetConfig, images: Sequence[Stored]) -> None:
    """Log whether the images can be the published set, by their number of tiles, if known."""
    if config.tiles is None:
        return
    sizes = [tile_crop(*lr_size((image.height, image.width), TILES_SCALE)) for image in images]
    found = sum(len(Tiles(1, size)) for size in sizes if 0 not in size)
    text = f"{name}: {len(images)} images, {found:,} tiles"
    if found == config.tiles:
        log.info("%s, as published", text)
    else:
        text += f", but the published set has {config.tiles:,}"
        log.warning("%s; results on this set are not comparable", text)


def _make(name: str, config: DatasetConfig, out: Path, raw: Path) -> list[Stored]:
    with open_sources(config, raw) as sources:
        chosen = choose(sources, config, name)
        images.unique([_copy_name(s.name, f) for s in chosen for f in config.reductions], name)
        head = {
            "format": FORMAT,
            "dataset": name,
            "config": config.identity(),
            "origin": sources.origin,
            "expected": config.expected,
            "complete": config.expected in (None, len(chosen)),
        }
        out.mkdir(parents=True, exist_ok=True)
        packed = _pack(name, chosen, config.reductions, head, out)
    _finish(packed, head, out)
    log.info("%s: %d images in %s", name, len(packed), out)
    return packed


def reduced(image: np.ndarray, factor: float) -> np.ndarray:
    """Downscale uint8 (H, W, 3) to ceil(factor H) x ceil(factor W) as MATLAB does; round once."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64))
    small = resize(planes, (math.ceil(factor * height), math.ceil(factor * width)))
    return whole_levels(small).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _copy_name(name: str, factor: float) -> str:
    # A manifest is UTF-8, which not every file system's names are.
    return escape.printable(name if factor == 1 else f"{name}@{factor:g}")


def _prepared(name: str, config: DatasetConfig, out: Path) -> list[Stored]:
    """Return the images of a store that is already complete, or none."""
    try:
        store = Store.open(out)
    except UserError as error:
        if (out / MANIFEST).exists():
            log.warning("%s", error)
        return []
    if store.manifest.get("config") != config.identity():
        return []
    log.info("%s: already prepared in %s", name, out)
    if not store.complete:
        log.warning("%s: it is not complete; remove %s to prepare it again", name, out)
    return store.images


def _pack(
    name: str,
    chosen: list[Source],
    reductions: tuple[float, ...],
    head: dict[str, Any],
    out: Path,
) -> list[Stored]:
    """Append the missing images to the part files; return the records of all images."""
    index = Journal(out / INDEX, fingerprint(head))
    finished = _kept(chosen, reductions, index.read(), out)
    index.restart([image.record() for image in line] for line in finished)
    images = [image for line in finished for image in line]
    ends = (images[-1].end, images[-1].lr_end) if images else (0, 0)
    with _appending(out / HR, ends[0]) as hr, _appending(out / LR, ends[1]) as lr:
        rest = progress(chosen[len(finished) :], name, done=len(finished))
        for done, source in enumerate(rest, len(finished) + 1):
            added = _append(source, reductions, hr, lr)
            index.append([image.record() for image in added])
            images += added
            if done % LOG_EVERY == 0 or done == len(chosen):
                log.info("%s: %d of %d images", name, done, len(chosen))
    return images


def _append(
    source: Source, reductions: tuple[float, ...], hr: IO[bytes], lr: IO[bytes]
) -> list[Stored]:
    """Write an image's downscaled copies and its LR image, and sync them to disk."""
    image = source.hr()
    lr_image = source.lr() if source.lr else None
    added = []
    for factor in reductions:
        at = _write(hr, reduced(image, factor))
        if lr_image is not None:
            at |= {f"lr_{key}": value for key, value in _write(lr, lr_image).items()}
        added.append(Stored(_copy_name(source.name, factor), **at))
    for file in (hr, lr):
        file.flush()
        os.fsync(file.fileno())
    return added


def _write(file: IO[bytes], image: np.ndarray) -> dict[str, Any]:
    height, width, _ = image.shape
    offset = file.tell()
    file.write(np.ascontiguousarray(image).data)
    return {"height": height, "width": width, "offset": offset, "sha256": sha256(image)}


def _part(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def _appending(file: Path, size: int) -> IO[bytes]:
    """Truncate the part of ``file`` to ``size`` bytes and open it for appending."""
    part = _part(file)
    part.touch()
    os.truncate(part, size)
    return part.open("ab")


def _kept(
    chosen: list[Source], reductions: tuple[float, ...], lines: list[Any], out: Path
) -> list[list[Stored]]:
    """Return the records of the source images that an interrupted run finished."""
    finished: list[list[Stored]] = []
    hr, lr = _content(out / HR), _content(out / LR)
    for source, line in zip(chosen, lines, strict=False):
        images = [Stored(**record) for record in line]
        same = images[0].name == _copy_name(source.name, reductions[0])
        if not same or intact(images, hr, lr) < len(images):
            break
        finished.append(images)
    return finished


def _content(file: Path) -> np.ndarray:
    part = _part(file)
    is_empty = not part.exists() or not part.stat().st_size  # of which there is no map
    return np.empty(0, np.uint8) if is_empty else np.memmap(part, np.uint8, mode="r")


def _finish(images: list[Stored], head: dict[str, Any], out: Path) -> None:
    """Give the files their final names; the manifest comes last."""
    manifest = {
        **head,
        "images": [image.record() for image in images],
        "bytes": images[-1].end + images[-1].lr_end,
        "made": provenance.record(),
    }
    (out / MANIFEST).unlink(missing_ok=True)  # it describes the old files
    files.rename(_part(out / HR), out / HR)
    if images[-1].lr_sha256:
        files.rename(_part(out / LR), out / LR)
    else:
        _part(out / LR).unlink()
        (out / LR).unlink(missing_ok=True)
    files.write_json(out / MANIFEST, seal(manifest))
    (out / INDEX).unlink()
