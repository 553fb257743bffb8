"""Reading and writing images: 8-bit RGB in, 8-bit RGB out, and no silent conversion.

Pixels are read as stored: EXIF orientation and colour profiles are not applied, and only the first
frame of a multi-frame file is read.
"""

import io
import re
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pcsr.data.bicubic import levels
from pcsr.errors import UserError
from pcsr.files import atomic

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 2**29  # twice a 16384 x 16384 image, 1.6 GB as 8-bit RGB

MODES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "P": "a palette image",
    "PA": "a palette image",
    "RGBA": "RGB with transparency (RGBA)",
    "I": "grey of more than 8 bits",
    "F": "grey of more than 8 bits",
}

_limit = threading.Lock()


def read(
    source: Path | bytes | BinaryIO, grey_to_rgb: bool = False, *, name: str = ""
) -> np.ndarray:
    """Read an image.

    Args:
        source: path, bytes, or open binary file.
        grey_to_rgb: repeat the channel of an 8-bit grey image instead of refusing it.
        name: what errors call the image; give it where ``source`` is not a path.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        UserError: the file is missing, empty, damaged, not an image, larger than ``MAX_PIXELS``,
            or not 8-bit RGB.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    data = _bytes(source, name)
    if not data:
        raise UserError(f"{name}: the file is empty; download or copy it again.")
    try:
        with _without_pillows_limit(), Image.open(io.BytesIO(data)) as image:
            _check(image, grey_to_rgb, name)
            array = np.array(image)
    except UnidentifiedImageError:
        formats = ", ".join(extension[1:] for extension in EXTENSIONS)
        raise UserError(
            f"{name}: not an image, or its header is damaged; get it again, as one of {formats}."
        ) from None
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error) as error:
        raise UserError(f"{name}: the image is damaged ({error}); get it again.") from None
    return array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)


def _bytes(source: Path | bytes | BinaryIO, name: str) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes() if isinstance(source, Path) else source.read()
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; check the path.") from None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); give a readable image file."
        ) from None


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Lift Pillow's own limit on the size of an image, which is below 16K.

    The limit is a module variable of Pillow, read when a file is opened and again when some formats
    are decoded. The lock keeps two threads from restoring each other's value.
    """
    with _limit:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check(image: Image.Image, grey_to_rgb: bool, name: str) -> None:
    """Refuse anything but 8-bit RGB, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS}; "
            "split the image."
        )
    # Pillow reports 16-bit RGB as "RGB" and drops the low byte; only the raw mode tells them apart.
    coding: Any = getattr(image, "tile", [])
    if image.mode.startswith("I;16") or any(";16" in str(tile[3]) for tile in coding):
        kind = "16 bits per channel"
    elif image.mode == "RGB" or (image.mode == "L" and grey_to_rgb):
        return
    else:
        kind = MODES.get(image.mode, image.mode)
    hint = " (or set grey_to_rgb for its data set)" if image.mode == "L" else ""
    raise UserError(f"{name}: the image is {kind}; convert it to 8-bit RGB{hint}.")


def write(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) RGB as PNG, atomically.

    Raises:
        ValueError: the array has another dtype or shape.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"not uint8 (H, W, 3): {image.dtype} {image.shape}")
    with atomic(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="PNG")


def to_tensor(image: np.ndarray) -> Tensor:
    """Convert uint8 (H, W, 3) to float32 (1, 3, H, W) in [0, 1]."""
    planes = np.divide(image.transpose(2, 0, 1), 255, dtype=np.float32, order="C")
    return torch.from_numpy(planes)[None]


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert (1, 3, H, W) to uint8 (H, W, 3): clamp to [0, 1], then round half up.

    Raises:
        ValueError: the tensor does not hold exactly one RGB image.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"not (1, 3, H, W): {tuple(image.shape)}")
    return levels(image[0].detach()).permute(1, 2, 0).contiguous().cpu().numpy()


def natural_key(name: str) -> list[int | str]:
    """Return a sort key that orders digits in names by value: img_2 before img_10."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def is_image(name: str) -> bool:
    """Tell from its name whether a file is an image; hidden files are not."""
    path = Path(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder (not of its subfolders) in natural order of their names.

    Raises:
        UserError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; check the path.")
    found = [path for path in folder.iterdir() if is_image(path.name) and path.is_file()]
    if not found:
        formats = ", ".join(extension[1:] for extension in EXTENSIONS)
        raise UserError(f"{folder}: holds no image; put images ({formats}) into it.")
    return sorted(found, key=lambda path: (natural_key(path.name), path.name))


def unique(names: list[str], where: str) -> list[str]:
    """Return ``names``, or raise a UserError that names the first duplicate."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise UserError(f"{where}: two images are called '{name}'; rename or remove one.")
    return names


def lr_images(folder: Path, names: Sequence[str], scale: float = 4) -> list[Path]:
    """Return the LR image of each name: the file whose stem is the name or ``<name>x<scale>``.

    Raises:
        UserError: the folder does not exist, or an image has no LR file; names the first.
    """
    found = {path.stem: path for path in list_images(folder)}
    suffix = f"x{scale:g}"
    paths = [found.get(name, found.get(f"{name}{suffix}")) for name in names]
    if None in paths:
        name = names[paths.index(None)]
        raise UserError(f"{folder}: no LR image '{name}' or '{name}{suffix}'; put it there.")
    return [path for path in paths if path is not None]
