"""What headers of image files say: whether the pixels can be read unchanged, and their colours.

Headers are as read by Pillow. The colour description is kept, to be written to the enlarged image.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin

READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
NAMES = "PNG, JPEG, WebP, TIFF, BMP or PPM"
# First bytes of other files that users take for images, for the error message.
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

GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N", "I")
MODES = ("RGB", "RGBA", "P", "PA", *GREY)
ALPHA = ("LA", "La", "PA", "RGBA")
PPM_16BIT = 65535

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that describe colours. iCCP is not among them: every format holds an ICC profile.
DESCRIBING = (b"cICP", b"sRGB", b"gAMA", b"cHRM")

SRGB_CODE = (1, 13)  # colour primaries and transfer function of cICP
SRGB_GAMMA = 45455  # all in units of 1e-5, as PNG has them
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
TOLERANCE = 500


def refusal(image: Image.Image, data: bytes = b"") -> str:
    """Return why reading an image, with its file if it has one, would change its pixels, or ""."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        return "has more than one frame; save the frame that you want as a file of its own"
    unread = ""
    if image.mode not in MODES:
        unread = {"CMYK": "CMYK", "F": "floating point"}.get(image.mode, f"of mode {image.mode}")
    elif image.format == "TIFF":
        unread = _tiff_refusal(image.tag_v2)  # type: ignore[attr-defined]
    elif image.format == "PPM" and coding(image):
        unread = _ppm_refusal(image)
    elif coding(image) == "BGRX" and len(set(_fourth_bytes(image, data))) > 1:
        unread = "a BMP with a fourth channel that is not said to be transparency"
    elif image.mode == "I" and not coding(image):
        unread = "grey of 32 bits"
    return f"is {unread}; convert it to RGB or grey of 8 or 16 bits" if unread else ""


def bits_of(image: Image.Image) -> int:
    """Return the bits per channel of an image that Pillow has opened but not decoded, 8 or 16."""
    if image.format == "PPM" and coding(image):
        return 16 if _ppm_top(image) > 255 else 8
    if image.format == "TIFF":
        return 16 if 16 in image.tag_v2.get(258, (1,)) else 8  # type: ignore[attr-defined]
    # Pillow calls 16-bit RGB "RGB" and drops the low byte; only the raw mode tells them apart.
    return 16 if image.mode.startswith("I") or ";16" in coding(image) else 8


def widening(image: Image.Image) -> int:
    """Return by what Pillow multiplies grey levels of 2 or 4 bits when it decodes an image.

    It leaves the level that is transparent as it is.
    """
    return {"L;2": 85, "L;4": 17}.get(coding(image), 1)


def what_is(data: bytes) -> str:
    """Say what a file is that is not read as an image, and what to do."""
    if data[4:8] == b"ftyp":
        kind = "AVIF or HEIC"
    else:
        kind = next((kind for magic, kind in OTHERS.items() if data.startswith(magic)), "")
    if kind:
        return f"is {kind}, which is not read; convert it to {NAMES}."
    if data.startswith(TIFF_MAGIC):
        return (
            "a TIFF whose header is damaged, or of a kind that is not read, such as floating "
            "point; get it again, or convert it to 8 or 16 bits."
        )
    return f"not an image, or its header is damaged; get it again, as {NAMES}."


def coding(image: Image.Image) -> str:
    """Return Pillow's name for how the values are stored, such as ``RGB;16B``; "" if decoded."""
    tiles: Any = getattr(image, "tile", [])
    if not tiles:
        return ""
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _fourth_bytes(image: Image.Image, data: bytes) -> bytes:
    """Return the bytes of a BMP of 32 bits that its format says are unused."""
    start, (width, height) = image.tile[0][2], image.size  # type: ignore[attr-defined]
    return data[start + 3 : start + 4 * width * height : 4]


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) that is decoded: for a tiled TIFF at least one tile."""
    width, height = image.size
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = max(width, int(tags.get(322, 0))), max(height, int(tags.get(323, 0)))
    return width, height


def _ppm_top(image: Image.Image) -> int:
    """Return the value of a PPM that means white."""
    arguments: Any = image.tile[0][3]  # type: ignore[attr-defined]
    if coding(image) == "I;16B":
        return PPM_16BIT
    if image.mode == "1":
        return 1
    return int(arguments[1]) if isinstance(arguments, tuple) and arguments[1] else 255


def _ppm_refusal(image: Image.Image) -> str:
    """Return what kind a PPM is if it cannot be read as it is stored, else ""."""
    top = _ppm_top(image)
    if top not in (1, 255, PPM_16BIT):
        return f"a PPM of {top + 1} levels"
    plain = "plain" in image.tile[0][0]  # type: ignore[attr-defined]
    return "a PPM of 16 bits as text" if top == PPM_16BIT and plain else ""


def _tiff_refusal(tags: Any) -> str:
    """Return what kind a TIFF is if it cannot be read as it is stored, else ""."""
    bits, photometric = set(tags.get(258, (1,))), tags.get(262, 0)
    samples, extra, planar = tags.get(277, 1), tuple(tags.get(338, ())), tags.get(284, 1) == 2
    beside = samples - {2: 3, 6: 3}.get(photometric, 1) > 0
    associated, alpha = (1,), (2,)
    why = {
        "a thumbnail, as camera raw files begin with": tags.get(254, 0) & 1,
        "a TIFF of signed or floating-point values": set(tags.get(339, (1,))) != {1},
        f"a TIFF of {', '.join(map(str, sorted(bits)))} bits per channel": (
            len(bits) > 1 or not bits <= {1, 2, 4, 8, 16}
        ),
        "a TIFF with a channel beside its colours that is not said to be transparency": (
            beside and extra not in (associated, alpha)
        ),
        # Pillow reads the next two wrongly.
        "a TIFF of grey and transparency in separate planes": planar and beside and samples == 2,
        "a 16-bit TIFF whose zero is white": bits == {16} and photometric == 0,
        "a 16-bit TIFF with premultiplied transparency": bits == {16} and extra == associated,
    }
    return next((kind for kind, found in why.items() if found), "")


# Adobe RGB (1998), which cameras name in the EXIF data (index R03 of DCF) instead of a profile.
ADOBE_RGB = (
    (b"gAMA", struct.pack(">I", 45471)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
)
ADOBE_RGB_INDEX = "R03"


@dataclass(frozen=True)
class Colour:
    """The colour description of an image; empty means sRGB.

    Attributes:
        icc: ICC profile.
        chunks: kind and content of a PNG's chunks gAMA, cHRM, sRGB and cICP.
    """

    icc: bytes = b""
    chunks: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def grey_profile(self) -> bool:
        """Whether the ICC profile is one of grey images."""
        return self.icc[16:20] == b"GRAY"

    @property
    def needs_png(self) -> str:
        """The chunks that another format cannot hold and whose loss would change the colours."""
        found = dict(self.chunks)
        code = found.get(b"cICP")
        if code is not None:
            return "" if tuple(code[:2]) == SRGB_CODE else "cICP"
        if self.icc or b"sRGB" in found:
            return ""
        gamma = _near(found.get(b"gAMA"), (SRGB_GAMMA,))
        primaries = _near(found.get(b"cHRM"), SRGB_CHROMATICITIES)
        return " and ".join(
            name for name, same in (("gAMA", gamma), ("cHRM", primaries)) if not same
        )


def _near(content: bytes | None, expected: tuple[int, ...]) -> bool:
    """Tell whether a chunk's numbers are those of sRGB; a missing or damaged chunk says nothing."""
    if content is None or len(content) != 4 * len(expected):
        return True
    numbers = struct.unpack(f">{len(expected)}I", content)
    return all(abs(a - b) <= TOLERANCE for a, b in zip(numbers, expected, strict=True))


def of_png(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the chunks of a PNG that describe its colours; all of them precede the pixels."""
    at, found = len(PNG_SIGNATURE), []
    while len(data) >= at + 12:
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            break
        if kind in DESCRIBING:
            found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return tuple(found)


def png_chunks(colour: Colour) -> bytes:
    """Return the description as chunks to insert after the header of a PNG."""
    profile = [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(colour.icc))] if colour.icc else []
    # A PNG has sRGB or iCCP, never both.
    rest = [pair for pair in colour.chunks if not (profile and pair[0] == b"sRGB")]
    chunks = io.BytesIO()
    for kind, content in [*profile, *rest]:
        PngImagePlugin.putchunk(chunks, kind, content)
    return chunks.getvalue()
