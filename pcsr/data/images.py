"""Images to measure or train on: 8-bit RGB in, 8-bit RGB out, and folders of images.

Images are rotated upright by their EXIF orientation; colour profiles are not applied.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pcsr.errors import UserError, log
from pcsr.images.decoding import Encoded, Pixels, read_header
from pcsr.images.encoding import save
from pcsr.images.header import Colour

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
NAMED = 10  # files that are left out of a folder


def read(
    source: Path | bytes | BinaryIO, grey_to_rgb: bool | None = None, *, name: str = ""
) -> np.ndarray:
    """Read an image to measure or to train on, which must be 8-bit RGB.

    Args:
        source: path, bytes, or open binary file.
        grey_to_rgb: repeat the channel of an 8-bit grey image instead of refusing it. None, for
            images outside data sets, refuses it with another remedy.
        name: what errors call the image; give it if ``source`` is not a path.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        UserError: the file is missing, empty, damaged, not an image, larger than the memory, or
            not 8-bit RGB.
    """
    image = read_header(source, name=name)
    if kind := _not_rgb(image, bool(grey_to_rgb)):
        remedy = "convert it to 8-bit RGB"
        if kind == "grey":
            remedy += (
                ", or make it a data set of configs/datasets.yaml with grey_to_rgb: true"
                if grey_to_rgb is None
                else " or set grey_to_rgb: true for its data set"
            )
        raise UserError(f"{image.name}: the image is {kind}; {remedy}.")
    image.require_memory()
    values = image.decode().values
    return values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)


def _not_rgb(image: Encoded, grey_to_rgb: bool) -> str:
    """Return what kind an image is if it is not 8-bit RGB, else ""."""
    mode = image.image.mode
    if image.bits == 16:
        return "of 16 bits per channel"
    if mode in ("P", "PA"):
        return "a palette image"
    if image.alpha:
        return "grey with transparency" if image.grey else "RGB with transparency (RGBA)"
    if mode == "1":
        return "black and white"
    return "grey" if image.grey and not grey_to_rgb else ""


def write(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, atomically.

    Raises:
        ValueError: the array has another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"not uint8 (H, W, 3): {image.dtype} {image.shape}")
    save(path, Pixels(image, Colour()))


def natural_key(name: str) -> list[int | str]:
    """Return a sort key that orders digits in names by value: img_2 before img_10."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def is_image(name: str) -> bool:
    """Tell from its name whether a file is an image; hidden files are not."""
    path = Path(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder (not of its subfolders) in natural order of their names.

    Files that are left out are named in the log, except hidden ones. A link to a missing image
    counts as an image; reading it fails.

    Raises:
        UserError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path.")
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    entries.sort(key=lambda entry: (natural_key(entry.name), entry.name))
    found, left_out = [], []
    for entry in entries:
        if is_image(entry.name) and (entry.is_file() or not Path(entry).exists()):
            found.append(Path(entry))
        else:
            left_out.append(entry.name + "/" * entry.is_dir())
    if left_out:
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        names = ", ".join(left_out[:NAMED])
        log.warning("%s: left out %d that are not images: %s%s", folder, len(left_out), names, more)
    if not found:
        formats = ", ".join(extension[1:] for extension in EXTENSIONS)
        raise UserError(f"{folder}: holds no image; put images ({formats}) into it.")
    return found


def unique(names: list[str], where: str) -> list[str]:
    """Return ``names``, or raise a UserError that names the first duplicate."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{where}: two images are called '{name}'; rename or remove one.")
    return names


def lr_images(folder: Path, names: Sequence[str], scale: float = 4) -> list[Path]:
    """Return the LR image of each name: the file whose stem is the name or ``<name>x<scale>``.

    Raises:
        UserError: the folder does not exist, or an image has no LR file or several; names the
            first.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path in list_images(folder):
        by_stem[path.stem].append(path)
    found = []
    for name in names:
        scaled = f"{name}x{scale:g}"
        fitting = by_stem[name] + by_stem[scaled]
        if not fitting:
            raise UserError(f"{folder}: no LR image '{name}' or '{scaled}'; put it there.")
        if len(fitting) > 1:
            both = " and ".join(path.name for path in fitting)
            raise UserError(f"{folder}: {both} may both be the LR image of '{name}'; remove one.")
        found += fitting
    return found
