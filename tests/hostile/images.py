"""Small image files of every kind, and headers of huge ones."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 12, 17


def noise(planes: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    made = np.random.default_rng(seed).integers(0, top, (HEIGHT, WIDTH, planes), dtype, True)
    return np.ascontiguousarray(made)


def photo(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


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
