"""Write images, with their colour description; the suffix of the path selects the format."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from pcsr.errors import UserError
from pcsr.images.decoding import Encoded, Pixels
from pcsr.images.header import PNG_SIGNATURE, Colour, png_chunks
from pcsr.storage.files import atomic

# Ending -> format, and the longest side that it can have.
WRITABLE = {
    ".png": ("PNG", 2**31 - 1),
    ".jpg": ("JPEG", 65500),
    ".jpeg": ("JPEG", 65500),
    ".webp": ("WEBP", 16383),
    ".tif": ("TIFF", 2**31 - 1),
    ".tiff": ("TIFF", 2**31 - 1),
}
LOSSES: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "WEBP": {"lossless": True, "exact": True},
}
HEADER = len(PNG_SIGNATURE) + 25  # bytes of a PNG before the first chunk that may describe colours


def ending(path: Path) -> str:
    """Return the ending of a file to write, in lower case.

    Raises:
        UserError: no format is written under this ending.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        endings = ", ".join(WRITABLE)
        raise UserError(f"{path}: images are written as {endings}; give it one of these endings.")
    return suffix


def require_room_in_format(path: Path, image: Encoded, size: tuple[int, int]) -> None:
    """Refuse an output of a (height, width) and format that cannot hold what the image has.

    Raises:
        UserError: names what would be lost, and the formats that hold it.
    """
    kind, longest = WRITABLE[ending(path)]
    if max(size) > longest:
        lost = f"more than {longest} pixels on a side"
    elif image.bits == 16 and kind in ("JPEG", "WEBP"):
        lost = "16 bits per channel"
    elif image.alpha and kind == "JPEG":
        lost = "transparency"
    elif image.colour.grey_profile and kind == "WEBP":
        lost = "the colour profile of a grey image"
    elif image.colour.needs_png and kind != "PNG":
        raise UserError(
            f"{path}: the colours of {image.name} are described by {image.colour.needs_png}, which "
            "only PNG holds; write a .png."
        )
    else:
        return
    raise UserError(f"{path}: {kind} cannot hold {lost}, as {image.name} has; write .png or .tif.")


def save(path: Path, image: Pixels) -> None:
    """Write an image atomically, in the format of the ending of ``path``.

    JPEG is written at quality 95 without chroma subsampling; the other formats are lossless.

    Raises:
        UserError: no format is written under this ending.
        OSError: the file cannot be written; names it.
    """
    kind, _ = WRITABLE[ending(path)]
    one_plane = image.values.shape[2] == 1
    values = np.ascontiguousarray(image.values[:, :, 0] if one_plane else image.values)
    with atomic(path) as temporary:
        if kind == "PNG":
            data = memoryview(imagecodecs.png_encode(values))
            with temporary.open("wb") as file:
                file.writelines((data[:HEADER], png_chunks(image.colour), data[HEADER:]))
        elif kind == "TIFF":
            _save_tiff(temporary, values, image.colour)
        else:
            options = {"icc_profile": image.colour.icc or None, **LOSSES[kind]}
            Image.fromarray(values).save(temporary, kind, **options)


def _save_tiff(path: Path, values: np.ndarray, colour: Colour) -> None:
    planes = values.shape[2] if values.ndim == 3 else 1
    tifffile.imwrite(
        path,
        values,
        photometric="minisblack" if planes < 3 else "rgb",
        planarconfig="contig" if planes > 1 else None,
        extrasamples=["unassalpha"] if planes in (2, 4) else None,
        iccprofile=colour.icc or None,
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
    )
