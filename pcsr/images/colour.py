"""What a file says about its colours, so that an enlarged image can say the same."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that describe colours. iCCP is not among them: every format holds an ICC profile.
DESCRIBING = (b"cICP", b"sRGB", b"gAMA", b"cHRM")

SRGB_CODE = (1, 13)  # colour primaries and transfer function of cICP
SRGB_GAMMA = 45455  # all in units of 1e-5, as PNG has them
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
TOLERANCE = 500
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
    return tuple((kind, content) for kind, content in _chunks(data) if kind in DESCRIBING)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG_SIGNATURE)
    while len(data) >= at + 12:
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def png_chunks(colour: Colour) -> bytes:
    """Return the description as chunks to insert after the header of a PNG."""
    profile = [(b"iCCP", b"ICC Profile\0\0" + zlib.compress(colour.icc))] if colour.icc else []
    # A PNG has sRGB or iCCP, never both.
    rest = [pair for pair in colour.chunks if not (profile and pair[0] == b"sRGB")]
    return b"".join(_chunk(*pair) for pair in [*profile, *rest])


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
