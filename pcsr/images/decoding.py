"""Read image files: the format by content, facts from the header, then the pixels.

Nothing is decoded before the header has been accepted and enough memory is known to be free.
Decoding changes no value; an image that cannot be read as it is stored is refused.
"""

import io
import logging
import stat
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from pcsr import runtime
from pcsr.errors import UserError, log, one_line
from pcsr.images import header
from pcsr.images.header import ADOBE_RGB, ADOBE_RGB_INDEX, Colour, of_png

# Bytes that decoding takes for each pixel at 8 bits: a decoder's planes and frames, Pillow's four
# bytes, and the array. Twice that at 16 bits.
DECODING = 20
FREE_SHARE = 0.7  # of the free memory to use where no limit is given
METADATA = 2**26  # bytes of a PNG's text or profile; Pillow stops at a sixty-fourth of it

_pillow = threading.Lock()


@dataclass(frozen=True)
class Pixels:
    """An image as it is displayed: upright, palettes resolved.

    Attributes:
        values: uint8 or uint16 (H, W, 1 to 4): grey, grey and alpha, RGB, or RGB and alpha.
        colour: the file's description of its colours.
    """

    values: np.ndarray
    colour: Colour

    @property
    def colours(self) -> int:
        """Number of channels without alpha: 1 or 3."""
        return 1 if self.values.shape[2] < 3 else 3


@dataclass(frozen=True)
class Encoded:
    """An image file whose header has been read and accepted; made by ``read_header``.

    Attributes:
        name: what errors call the image.
        data: the file's content.
        image: the file as Pillow has opened it, not decoded.
        size: (width, height) that is decoded; for a tiled TIFF at least one tile.
        bits: per channel, 8 or 16; fewer are widened to 8.
        grey: whether it has one colour channel.
        alpha: whether it has transparency, in whatever form.
        colour: the file's description of its colours.
    """

    name: str
    data: bytes
    image: Image.Image
    size: tuple[int, int]
    bits: int
    grey: bool
    alpha: bool
    colour: Colour

    @property
    def planes(self) -> int:
        """Number of channels with alpha, 1 to 4."""
        return (1 if self.grey else 3) + self.alpha

    def require_memory(self, room: float | None = None, per_pixel: float = 0) -> None:
        """Refuse the image if reading it takes more memory than there is.

        Args:
            room: bytes that may be used; None allows most of the free memory.
            per_pixel: bytes that the caller needs for each pixel once it is decoded.

        Raises:
            UserError: the memory does not suffice; says how much would.
        """
        room = _room(room)
        width, height = self.size
        levels = self.bits // 8
        peak = max(DECODING * levels, self.planes * levels + per_pixel)
        need = len(self.data) + width * height * peak
        if need > room:
            raise _too_large(f"{self.name}: {width} x {height} pixels need", need, room)

    def decode(self) -> Pixels:
        """Decode the pixels.

        Raises:
            UserError: the image is damaged.
        """
        try:
            with _at_ease():
                values = _values(self)  # first, because Pillow rotates a TIFF by decoding it
                values = _UPRIGHT[_orientation(self.image)](values)
        except Exception as error:  # whatever decoders raise on broken bytes
            raise _damaged(self.name, error) from None
        return Pixels(np.ascontiguousarray(values), self.colour)


def read_header(
    source: Path | bytes | BinaryIO, *, name: str = "", room: float | None = None
) -> Encoded:
    """Read an image file and its header, without decoding it.

    Args:
        source: path, bytes, or open binary file.
        name: what errors call the image; give it if ``source`` is not a path.
        room: bytes that may be used; None allows most of the free memory.

    Raises:
        UserError: the file is missing, empty, not an image of a known format, damaged, larger than
            the memory, or of a kind that cannot be read without changing its values.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    data = _bytes(source, name, _room(room))
    try:
        with _at_ease():
            image = Image.open(io.BytesIO(data), formats=header.READ)
            return _accepted(image, data, name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: {header.what_is(data)}") from None
    except Exception as error:  # as above
        raise _damaged(name, error) from None


def split(image: Image.Image) -> np.ndarray:
    """Return the values of a decoded Pillow image as (H, W, 1 to 4); see ``Pixels``."""
    transparent = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        plain = image.mode == "P" and transparent is None
        image, transparent = image.convert("RGB" if plain else "RGBA"), None
    elif image.mode in ("1", "La"):
        image = image.convert({"1": "L", "La": "LA"}[image.mode])
    values = np.asarray(image)
    values = values[:, :, None] if values.ndim == 2 else values
    if transparent is None or image.mode not in ("L", "RGB", "I;16"):
        return values
    top = np.iinfo(values.dtype).max
    clear = (values == (np.asarray(transparent) & top)).all(axis=2, keepdims=True)
    return np.concatenate([values, np.where(clear, 0, top).astype(values.dtype)], axis=2)


def _accepted(image: Image.Image, data: bytes, name: str) -> Encoded:
    if why := header.refusal(image, data):
        raise UserError(f"{name}: the image {why}.")
    if image.format == "MPO":
        log.info("%s: holds several images; the first one is read", name)
    return Encoded(
        name,
        data,
        image,
        header.stored_size(image),
        header.bits_of(image),
        image.mode in header.GREY or header.coding(image) == "LA;16B",
        image.mode in header.ALPHA or "transparency" in image.info,
        _colour(image, data),
    )


def _colour(image: Image.Image, data: bytes) -> Colour:
    profile = image.info.get("icc_profile")
    icc = profile if isinstance(profile, bytes) else b""
    chunks = of_png(data) if image.format == "PNG" else ()
    # To find EXIF data after the pixels of a PNG, Pillow decodes them, and they may be a bomb.
    at_hand = image.format != "PNG" or "exif" in image.info
    named = _exif(image, ExifTags.IFD.Interop).get(1) if at_hand else None
    if named == ADOBE_RGB_INDEX and not icc and not chunks:
        chunks = ADOBE_RGB
    return Colour(icc, chunks)


def _bytes(source: Path | bytes | BinaryIO, name: str, room: float) -> bytes:
    try:
        if isinstance(source, Path):
            found = source.stat()
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{name}: cannot be read (not a file); give an image file.")
            if found.st_size > room:
                raise _too_large(f"{name}: the file needs", found.st_size, room)
            data = source.read_bytes()
        else:
            data = source if isinstance(source, bytes) else source.read()
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; check the path.") from None
    except OSError as error:
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); give a readable image file."
        ) from None
    if not data:
        raise UserError(f"{name}: the file is empty; download or copy it again.")
    return data


def _room(room: float | None) -> float:
    return FREE_SHARE * runtime.free_memory(torch.device("cpu")) if room is None else room


def _too_large(what: str, need: float, room: float) -> UserError:
    return UserError(
        f"{what} {need / 2**20:.0f} MiB, and {max(room, 0) / 2**20:.0f} MiB are left; give more "
        "memory, or split the image."
    )


def _damaged(name: str, error: Exception) -> UserError:
    if isinstance(error, MemoryError):
        return UserError(
            f"{name}: too little memory is free; give more memory, or split the image."
        )
    if "MAX_TEXT" in str(error):
        return UserError(
            f"{name}: its metadata has more than {METADATA // 2**20} MiB; remove it from the file."
        )
    return UserError(f"{name}: the image is damaged ({one_line(error, 200)}); get it again.")


@contextmanager
def _at_ease() -> Iterator[None]:
    """Lift Pillow's own limits, which are below 16K images and below the text of some valid PNGs.

    They are module variables of Pillow, read when a file is opened and again when some formats are
    decoded. The lock keeps two threads from restoring each other's values. Warnings of Pillow,
    tifffile and imagecodecs are hidden: they are about odd metadata, which nothing here uses.
    """
    limits = {
        (Image, "MAX_IMAGE_PIXELS"): None,
        (PngImagePlugin, "MAX_TEXT_CHUNK"): METADATA,
        (PngImagePlugin, "MAX_TEXT_MEMORY"): METADATA,
        (logging.getLogger("tifffile"), "disabled"): True,
        (logging.getLogger("imagecodecs"), "disabled"): True,
    }
    with _pillow, warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        for (where, name), value in limits.items():
            stack.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        yield


def _values(encoded: Encoded) -> np.ndarray:
    """Decode to (H, W, planes); Pillow would cut 16 bits to 8."""
    image, (width, height) = encoded.image, encoded.image.size
    # Pillow takes pixels of a wrong checksum, and black for rows that are missing.
    values = imagecodecs.png_decode(encoded.data) if image.format == "PNG" else None
    if encoded.bits == 8 and (values is None or image.mode == "P"):
        image.load()
        return split(image)
    if image.format == "PPM":
        start = image.tile[0][2]  # type: ignore[attr-defined]
        count = width * height * encoded.planes
        values = np.frombuffer(encoded.data, ">u2", count, start).astype(np.uint16)
    elif values is None:
        values = _tiff_values(encoded)
        height, width = values.shape[:2]
    return values.reshape(height, width, encoded.planes)


def _tiff_values(encoded: Encoded) -> np.ndarray:
    """Decode a TIFF of 16 bits; not turned upright, as Pillow would."""
    width, height = encoded.size
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as file:
        page = file.pages.first
        shape = page.imagelength, page.imagewidth, page.samplesperpixel, page.bitspersample
        # Memory was required for what Pillow found in the header.
        if shape[0] * shape[1] > width * height or shape[2:] != (encoded.planes, 16):
            raise ValueError("contradictory header")
        values = page.asarray()
        return np.moveaxis(values, 0, 2) if values.ndim == 3 and page.planarconfig == 2 else values


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, that is still to be applied."""
    value = _exif(image).get(ExifTags.Base.Orientation, 1)
    return value if value in _UPRIGHT else 1


def _exif(image: Image.Image, folder: int | None = None) -> Mapping[int, Any]:
    """Return the EXIF values of a folder, by default the first; none if they are damaged."""
    try:
        found = image.getexif()
        return found if folder is None else found.get_ifd(folder)
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, struct.error):
        return {}  # broken metadata of a sound image


_UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 1)[:, ::-1],
    8: lambda x: np.rot90(x, 1),
}
