"""Image files: sound ones of every kind, bombs, and what damage and malice make of them."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
from hostile.images import chunk, sound_files
from models import build

from pcsr.evaluation.super_resolve import upscale_files
from pcsr.images import decoding
from pcsr.images.decoding import Pixels
from pcsr.routing import OperatingPoint
from torture.harness import Attempt, Case, Kind

ROOM = 2**28  # bytes that a mutated image may take
EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
EVERY, MOST_PIXELS = 20, 5000  # of the cases that are upscaled, too


def flip(data: bytearray, random: np.random.Generator) -> None:
    last = len(data) if random.random() < 0.5 else min(len(data), 200)
    for place in random.integers(0, last, random.integers(1, 9)):
        data[place] ^= 1 << int(random.integers(8))


def cut(data: bytearray, random: np.random.Generator) -> None:
    del data[int(random.integers(len(data))) :]


def remove(data: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(data)))
    del data[at : at + int(random.integers(1, 64))]


def insert(data: bytearray, random: np.random.Generator) -> None:
    at = int(random.integers(len(data)))
    data[at:at] = random.bytes(int(random.integers(1, 64)))


def repeat(data: bytearray, random: np.random.Generator) -> None:
    at, size = int(random.integers(len(data))), int(random.integers(1, 200))
    data[at:at] = data[at : at + size] * int(random.integers(1, 50))


def set_field(data: bytearray, random: np.random.Generator) -> None:
    size, order = int(random.choice((1, 2, 4))), random.choice(("little", "big"))
    at = int(random.integers(min(len(data), 200)))
    value = int(random.choice(EXTREMES)) % 256**size
    data[at : at + size] = value.to_bytes(size, "big" if order == "big" else "little")


def splice(data: bytearray, random: np.random.Generator) -> None:
    other = sound_files()[random.integers(len(sound_files()))]
    data[int(random.integers(len(data))) :] = other[int(random.integers(len(other))) :]


DAMAGE = (flip, flip, cut, remove, insert, repeat, set_field, set_field, splice)


def mutated(random: np.random.Generator) -> bytes:
    """Damage a sound file; of half the PNGs, the checksums are then put right again."""
    data = bytearray(sound_files()[random.integers(len(sound_files()))])
    for which in random.integers(len(DAMAGE), size=random.integers(1, 4)):
        if data:
            DAMAGE[which](data, random)
    return _with_checksums(data) if random.random() < 0.5 else bytes(data)


def _with_checksums(data: bytearray) -> bytes:
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + size
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def essential(data: bytes) -> bytes:
    """Return a PNG without what is beside its pixels; checksums are as they were."""
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kept += [data[at:end]] if data[at + 4 : at + 8] in (b"IHDR", b"IDAT") else []
        at = end
    return b"".join([*kept, chunk(b"IEND", b"")])


def read_honestly(data: bytes) -> Pixels:
    """Read an image within a limit, and compare with what other decoders see."""
    header = decoding.read_header(data, name="it", room=ROOM)
    header.require_memory(ROOM)
    pixels = header.decode()
    height, width, planes = pixels.values.shape
    assert pixels.values.dtype == (np.uint16 if header.bits == 16 else np.uint8)
    assert planes == header.planes
    assert sorted((width, height)) == sorted(header.image.size)
    info, plainly = header.image.info, header.image.mode in ("L", "LA", "RGB", "RGBA")
    if header.image.format == "PNG" and plainly and not {"transparency", "exif"} & info.keys():
        strict = imagecodecs.png_decode(essential(data))  # libpng, which verifies checksums
        if strict.dtype == pixels.values.dtype:
            assert np.array_equal(strict.reshape(pixels.values.shape), pixels.values)
    return pixels


@contextmanager
def attempts(folder: Path) -> Iterator[Attempt]:
    """Read mutated images; one in twenty is upscaled, as a file."""
    method, point = build("fsrcnn", "original", options={"width": 8}), OperatingPoint()

    def attempt(case: Case) -> None:
        data = mutated(case.random)
        pixels = read_honestly(data)
        height, width, _ = pixels.values.shape
        if case.number % EVERY == 0 and height * width < MOST_PIXELS:
            source, target = folder / "in.png", folder / "out.png"
            source.write_bytes(data)
            upscale_files(method, [(source, target)], 4, point)
            written = decoding.read_header(target).decode().values
            assert written.shape[:2] == (4 * height, 4 * width)

    yield attempt


KIND = Kind(count=10_000, attempts=attempts, memory=ROOM)
