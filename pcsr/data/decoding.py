"""The one door for image files: formats by content, facts from the header, then the pixels.

Nothing is decoded before the header has been accepted and the memory for it has been found, and
no value is changed on the way: what cannot be read as it is stored is refused.
"""

import io
import logging
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from pcsr import runtime
from pcsr.data.colour import Colour, of_png
from pcsr.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
READABLE = "PNG, JPEG, WebP, TIFF, BMP or PPM"
# How other files begin that are taken for images, to say what they are.
OTHERS = {
    b"GIF8": "a GIF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL": "JPEG XL",
}
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Bytes that decoding takes for each pixel at 8 bits: a decoder's planes and frames, Pillow's four
# bytes, and the array. Twice that at 16 bits.
DECODING = 20
FREE_SHARE = 0.7  # of the free memory to use where no limit is given
METADATA = 2**26  # bytes of a PNG's text or profile; Pillow stops at a sixty-fourth of it

GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I")
MODES = ("RGB", "RGBA", "P", "PA", *GREY_MODES)
ALPHA_MODES = ("LA", "La", "PA", "RGBA")
PPM_16BIT = 65535

log = logging.getLogger("pcsr")
_pillow = threading.Lock()


@dataclass(frozen=True)
class Pixels:
    """An image as it is shown: upright, palettes resolved.

    Attributes:
        values: uint8 or uint16 (H, W, 1 to 4): grey, grey and alpha, RGB, or RGB and alpha.
        colour: what the file says about its colours.
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
        size: (width, height) of what is decoded, of a tiled TIFF at least a whole tile.
        bits: per channel, 8 or 16; fewer are widened to 8.
        grey: whether it has one colour channel.
        alpha: whether it has transparency, in whatever form.
        colour: what the file says about its colours.
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
        """Refuse the image if decoding it takes more memory than there is.

        Args:
            room: bytes that may be used; None allows most of the free memory.
            per_pixel: bytes that the caller needs for each pixel besides.

        Raises:
            UserError: the memory does not do; says how much would.
        """
        room = _room(room)
        width, height = self.size
        need = len(self.data) + width * height * (DECODING * self.bits / 8 + per_pixel)
        if need > room:
            raise UserError(
                f"{self.name}: {width} x {height} pixels need {need / 2**30:.2f} GiB of memory, and "
                f"{max(room, 0) / 2**30:.2f} GiB are left; give more, or split the image."
            )

    def decode(self) -> Pixels:
        """Decode the pixels.

        Raises:
            UserError: the image is damaged.
        """
        try:
            with _pillows_limits():
                values = _sixteen_bits(self) if self.bits == 16 else _eight_bits(self.image)
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
        name: what errors call the image; give it where ``source`` is not a path.
        room: bytes that may be used; None allows most of the free memory.

    Raises:
        UserError: the file is missing, empty, not an image of a known format, damaged, larger than
            the memory, or of a kind that cannot be read without changing its values.
    """
    name = name or (str(source) if isinstance(source, Path) else "image")
    data = _bytes(source, name, _room(room))
    try:
        with _pillows_limits():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            return _accepted(image, data, name)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name}: {_what(data)}") from None
    except Exception as error:  # as above
        raise _damaged(name, error) from None


def refusal(image: Image.Image) -> str:
    """Return why the pixels of an image, opened by Pillow, would change on the way; "" if not."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return "has more than one frame; save the frame that you want as a file of its own"
    unread = ""
    if image.mode not in MODES:
        unread = {"CMYK": "CMYK", "F": "floating point"}.get(image.mode, f"of mode {image.mode}")
    elif image.format == "TIFF":
        unread = _tiff_refusal(image.tag_v2)  # type: ignore[attr-defined]
    elif image.format == "PPM":
        unread = _ppm_refusal(image)
    elif image.mode == "I" and not _coding(image):
        unread = "grey of 32 bits"
    return f"is {unread}; convert it to RGB or grey of 8 or 16 bits" if unread else ""


def bits_of(image: Image.Image) -> int:
    """Return the bits per channel of an image that Pillow has opened but not decoded, 8 or 16."""
    if image.format == "PPM":
        return 16 if _ppm_top(image) > 255 else 8
    if image.format == "TIFF":
        return 16 if 16 in image.tag_v2.get(258, (1,)) else 8  # type: ignore[attr-defined]
    # Pillow calls 16-bit RGB "RGB" and drops the low byte; only the raw mode tells them apart.
    return 16 if image.mode.startswith("I") or ";16" in _coding(image) else 8


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
    opaque = (values != np.array(transparent, values.dtype)).any(axis=2, keepdims=True)
    return np.concatenate([values, opaque * np.iinfo(values.dtype).max], 2, dtype=values.dtype)


def _accepted(image: Image.Image, data: bytes, name: str) -> Encoded:
    if why := refusal(image):
        raise UserError(f"{name}: the image {why}.")
    if image.format == "MPO":
        log.info("%s: holds several images; the first one is read", name)
    coding = _coding(image)
    if coding in _WIDENED and "transparency" in image.info:
        top = 255 // _WIDENED[coding]
        image.info["transparency"] = (image.info["transparency"] & top) * _WIDENED[coding]
    profile = image.info.get("icc_profile")
    return Encoded(
        name,
        data,
        image,
        _stored_size(image),
        bits_of(image),
        image.mode in GREY_MODES or coding == "LA;16B",
        image.mode in ALPHA_MODES or "transparency" in image.info,
        Colour(
            profile if isinstance(profile, bytes) else b"",
            of_png(data) if image.format == "PNG" else (),
        ),
    )


# Raw modes of grey PNGs whose levels Pillow widens to 8 bits, but not that of tRNS.
_WIDENED = {"1": 255, "L;2": 85, "L;4": 17}


def _bytes(source: Path | bytes | BinaryIO, name: str, room: float) -> bytes:
    try:
        if isinstance(source, Path):
            found = source.stat()
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{name}: cannot be read (not a file); give an image file.")
            if found.st_size > room:
                raise UserError(
                    f"{name}: the file has {found.st_size / 2**30:.2f} GiB, and "
                    f"{max(room, 0) / 2**30:.2f} GiB of memory are left; give more, or split it."
                )
        data = (
            source
            if isinstance(source, bytes)
            else source.read_bytes()
            if isinstance(source, Path)
            else source.read()
        )
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


def _what(data: bytes) -> str:
    """Say what a file is that no format accepts, and what to do."""
    if data[4:8] == b"ftyp":
        kind = "AVIF or HEIC"
    else:
        kind = next((kind for magic, kind in OTHERS.items() if data.startswith(magic)), "")
    if kind:
        return f"is {kind}, which is not read; convert it to {READABLE}."
    if data.startswith(TIFF_MAGIC):
        return (
            "a TIFF whose header is damaged, or of a kind that is not read, such as floating "
            "point; get it again, or convert it to 8 or 16 bits."
        )
    return f"not an image, or its header is damaged; get it again, as {READABLE}."


def _damaged(name: str, error: Exception) -> UserError:
    text = " ".join(str(error).split()) or type(error).__name__
    if "MAX_TEXT" in text:
        return UserError(
            f"{name}: its metadata has more than {METADATA // 2**20} MiB; remove it from the file."
        )
    return UserError(f"{name}: the image is damaged ({text[:200]}); get it again.")


@contextmanager
def _pillows_limits() -> Iterator[None]:
    """Lift Pillow's own limits, which are below 16K and below what a sound PNG may carry.

    They are module variables of Pillow, read when a file is opened and again when some formats are
    decoded. The lock keeps two threads from restoring each other's values. What Pillow warns of is
    odd metadata, which nothing here uses.
    """
    with _pillow, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = (
            Image.MAX_IMAGE_PIXELS,
            PngImagePlugin.MAX_TEXT_CHUNK,
            PngImagePlugin.MAX_TEXT_MEMORY,
        )
        Image.MAX_IMAGE_PIXELS = None
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = METADATA
        try:
            yield
        finally:
            (
                Image.MAX_IMAGE_PIXELS,
                PngImagePlugin.MAX_TEXT_CHUNK,
                PngImagePlugin.MAX_TEXT_MEMORY,
            ) = before


def _coding(image: Image.Image) -> str:
    """Return Pillow's name for how the values are stored, such as ``RGB;16B``; "" if decoded."""
    tiles: Any = getattr(image, "tile", [])
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _decoder(image: Image.Image) -> str:
    tiles: Any = getattr(image, "tile", [])
    return str(tiles[0][0]) if tiles else ""


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of what is decoded: of a tiled TIFF at least one whole tile."""
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = max(width, int(tags.get(322, 0))), max(height, int(tags.get(323, 0)))
    return width, height


def _ppm_top(image: Image.Image) -> int:
    """Return the value of a PPM that means white."""
    arguments: Any = image.tile[0][3]  # type: ignore[attr-defined]
    if _coding(image) == "I;16B":
        return PPM_16BIT
    if image.mode == "1":
        return 1
    return int(arguments[1]) if isinstance(arguments, tuple) and arguments[1] else 255


def _ppm_refusal(image: Image.Image) -> str:
    """Say what a PPM is that cannot be read as it is stored; "" if it can."""
    top = _ppm_top(image)
    if top not in (1, 255, PPM_16BIT):
        return f"a PPM of {top + 1} levels"
    return "a PPM of 16 bits as text" if top == PPM_16BIT and _decoder(image) != "raw" else ""


def _tiff_refusal(tags: Any) -> str:
    """Say what a TIFF is that cannot be read as it is stored; "" if it can."""
    bits, photometric = set(tags.get(258, (1,))), tags.get(262, 0)
    samples, extra = tags.get(277, 1), tuple(tags.get(338, ()))
    beside = samples - {2: 3, 6: 3}.get(photometric, 1)
    associated, alpha = (1,), (2,)
    if tags.get(254, 0) & 1:
        return "a thumbnail, as camera raw files begin with"
    if set(tags.get(339, (1,))) != {1}:
        return "a TIFF of signed or floating-point values"
    if len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}:
        return f"a TIFF of {', '.join(map(str, sorted(bits)))} bits per channel"
    if beside > 0 and extra not in (associated, alpha):
        return "a TIFF with a channel beside its colours that is not said to be transparency"
    if bits == {16} and (photometric == 0 or extra == associated):
        return "a 16-bit TIFF whose zero is white, or with premultiplied transparency"
    return ""


def _eight_bits(image: Image.Image) -> np.ndarray:
    image.load()
    return split(image)


def _sixteen_bits(encoded: Encoded) -> np.ndarray:
    """Decode what Pillow would cut to 8 bits."""
    if encoded.image.format == "PNG":
        values = imagecodecs.png_decode(encoded.data)
        width, height = encoded.image.size
    elif encoded.image.format == "PPM":
        width, height = encoded.image.size
        start = encoded.image.tile[0][2]  # type: ignore[attr-defined]
        count = width * height * encoded.planes
        values = np.frombuffer(encoded.data, ">u2", count, start).astype(np.uint16)
    else:
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
    """Return the EXIF orientation, 1 to 8, of what was decoded; Pillow turns TIFFs itself."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, struct.error):
        return 1  # broken metadata of a sound image
    return value if value in _UPRIGHT else 1


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
