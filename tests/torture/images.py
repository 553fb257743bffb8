"""Image files: sound ones of every kind, bombs, and what damage and malice make of them."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from models import build
from PIL import Image

from pcsr.evaluation.upscale import upscale_files
from pcsr.images import decoding
from pcsr.images.decoding import Pixels
from pcsr.routing import OperatingPoint
from torture.harness import Attempt, Case, Kind

HEIGHT, WIDTH = 12, 17
ROOM = 2**28  # bytes that a mutated image may take
EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
EVERY, MOST_PIXELS = 20, 5000  # of the cases that are upscaled, too


def noise(planes: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    made = np.random.default_rng(seed).integers(0, top, (HEIGHT, WIDTH, planes), dtype, True)
    return np.ascontiguousarray(made)


def by_pillow(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(size: tuple[int, int], bits: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, pixels, chunk(b"IEND", b"")))


def ppm(magic: str, top: int, values: np.ndarray) -> bytes:
    dtype = np.dtype(">u2") if top > 255 else np.dtype(np.uint8)
    return f"{magic}\n{WIDTH} {HEIGHT}\n{top}\n".encode() + values.astype(dtype).tobytes()


def of_every_depth(planes: int) -> Iterator[np.ndarray]:
    yield noise(planes)
    yield noise(planes, np.uint16)


def plain(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values[:, :, 0]) if values.shape[2] == 1 else values


def stored_tiffs(values: np.ndarray) -> Iterator[bytes]:
    planes = values.shape[2]
    options: dict[str, object] = {"photometric": "rgb" if planes > 2 else "minisblack"}
    if planes in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    if planes > 1:
        options["planarconfig"] = "contig"
    for how in (
        {},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"rowsperstrip": 5},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw"},
        {"compression": "zstd"},
    ):
        yield tiff(plain(values), **(options | how))
    if planes > 2:
        for how in ({}, {"compression": "lzw"}, {"tile": (16, 16)}):
            moved = np.moveaxis(values, 2, 0)
            yield tiff(moved, **(options | how | {"planarconfig": "separate"}))


def frames(form: str, **options: object) -> bytes:
    first, *rest = (Image.fromarray(noise(3, seed=seed)) for seed in range(3))
    return by_pillow(first, form, save_all=True, append_images=rest, **options)


def bombs() -> Iterator[bytes]:
    """Headers of huge images."""
    for bits, colour in ((8, 0), (8, 2), (8, 6), (16, 0), (16, 2), (16, 6), (1, 0), (8, 3)):
        palette = [chunk(b"PLTE", bytes(3))] if colour == 3 else []
        yield png((60000, 60000), bits, colour, bytes(1000), *palette)
    tags = {256: 40000, 257: 40000, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: 40000, 279: 8}
    yield raw_tiff(tags)
    yield raw_tiff(tags | {258: 16})
    tiled = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 48000, 323: 48000}
    yield raw_tiff(tiled | {324: 8, 325: 8})
    jpeg = bytearray(by_pillow(Image.new("RGB", (16, 16)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    yield bytes(jpeg)
    yield b"P6\n60000 60000\n255\n"
    yield b"P6\n60000 60000\n65535\n"
    bmp = bytearray(by_pillow(Image.new("RGB", (16, 16)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    yield bytes(bmp)


def raw_tiff(tags: dict[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@cache
def sound_files() -> tuple[bytes, ...]:
    """Small files of every kind that is read, and of some that are refused."""
    rgb, exif = Image.fromarray(noise(3)), Image.Exif()
    exif[0x0112] = 6
    files = []
    for planes in (1, 2, 3, 4):
        for values in of_every_depth(planes):
            files.append(imagecodecs.png_encode(plain(values)))
            if planes != 2 or values.dtype == np.uint8:
                files += stored_tiffs(values)
            if planes in (1, 3):
                files.append(ppm(f"P{4 + planes // 2 + 1}", np.iinfo(values.dtype).max, values))
    for mode in ("L", "RGB", "1", "P"):
        image = rgb.convert(mode)
        files += [by_pillow(image, form) for form in ("PNG", "BMP", "TIFF")]
        files += [by_pillow(image.convert("RGB"), "TIFF", compression="jpeg"), frames("MPO")]
    for image in (rgb, rgb.convert("L"), rgb.convert("CMYK")):
        files += [by_pillow(image, "JPEG", progressive=True), by_pillow(image, "JPEG", exif=exif)]
    for image in (rgb, Image.fromarray(noise(4))):
        for lossless in (False, True):
            files.append(by_pillow(image, "WEBP", lossless=lossless, exif=exif))
    files += [frames("PNG"), frames("WEBP"), frames("TIFF"), frames("GIF")]
    chunks = [chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"tRNS", bytes(6))]
    rows = b"".join(b"\0" + row.tobytes() for row in noise(3))
    return (*files, png((WIDTH, HEIGHT), 8, 2, rows, *chunks), *bombs())


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
