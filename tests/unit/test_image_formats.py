"""Every kind of image file is read as it is stored, or refused in one line from its header."""

import io
import resource
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import imagecodecs
import numpy as np
import psutil
import pytest
from hostile.images import (
    HEIGHT,
    WIDTH,
    bombs,
    by_pillow,
    chunk,
    frames,
    noise,
    of_every_depth,
    plain,
    png,
    ppm,
    stored_tiffs,
    tiff,
)
from PIL import Image, ImageOps
from torture.images import mutated, read_honestly

from pcsr.errors import UserError
from pcsr.images import decoding


def decoded(data: bytes) -> np.ndarray:
    return decoding.read_header(data, name="it").decode().values


def refused(data: bytes) -> str:
    with pytest.raises(UserError) as error:
        decoded(data)
    text = str(error.value)
    assert text.startswith("it: ") and "\n" not in text
    return text


def test_what_is_stored_without_loss_is_read_without_loss() -> None:
    for planes in (1, 2, 3, 4):
        for values in of_every_depth(planes):
            files = [imagecodecs.png_encode(plain(values))]
            if planes != 2 or values.dtype == np.uint8:  # Pillow knows no such TIFF
                files += stored_tiffs(values)
            if planes in (1, 3):
                top = np.iinfo(values.dtype).max
                files.append(ppm("P5" if planes == 1 else "P6", top, values))
            if values.dtype == np.uint8 and planes > 2:
                image = Image.fromarray(values)
                files.append(by_pillow(image, "WEBP", lossless=True, exact=True))
            for data in files:
                read = decoded(data)
                assert read.dtype == values.dtype
                assert np.array_equal(read, values)


def test_palettes_few_levels_and_premultiplied_values_are_resolved() -> None:
    rgb = Image.fromarray(noise(3))
    palette = rgb.quantize(16)
    for form in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(decoded(by_pillow(palette, form)), np.asarray(palette.convert("RGB")))
        black_and_white = Image.fromarray(noise(1)[:, :, 0] > 127)
        grey = np.asarray(black_and_white.convert("L"))[:, :, None]
        assert np.array_equal(decoded(by_pillow(black_and_white, form)), grey)
    partly = by_pillow(palette, "PNG", transparency=bytes(range(0, 256, 16)))
    assert np.array_equal(
        decoded(partly), np.asarray(Image.open(io.BytesIO(partly)).convert("RGBA"))
    )
    white_is_zero = tiff(noise(1)[:, :, 0], photometric="miniswhite")
    assert np.array_equal(decoded(white_is_zero), 255 - noise(1))
    premultiplied = tiff(noise(4), photometric="rgb", extrasamples=["assocalpha"])
    assert decoded(premultiplied).shape == (HEIGHT, WIDTH, 4)
    in_jpeg = by_pillow(Image.linear_gradient("L").convert("RGB"), "TIFF", compression="jpeg")
    assert abs(decoded(in_jpeg)[:, 9, 0] - np.arange(256)).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_level_becomes_transparency(bits: int) -> None:
    top = 2**bits - 1
    values = np.array([0, top], ">u2" if bits == 16 else np.uint8)
    row = (
        np.packbits([0] * bits + [1] * bits) if bits < 8 else np.frombuffer(values.tobytes(), "u1")
    )
    data = png((2, 1), bits, 0, b"\0" + row.tobytes(), chunk(b"tRNS", struct.pack(">H", top)))
    white = 65535 if bits == 16 else 255
    assert decoded(data).tolist() == [[[0, white], [white, 0]]]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_becomes_transparency(bits: int) -> None:
    white, dtype = 2**bits - 1, ">u2" if bits == 16 else "u1"
    row = np.array([white, 1, 2, white, 1, 3], dtype).tobytes()
    data = png((2, 1), bits, 2, b"\0" + row, chunk(b"tRNS", struct.pack(">HHH", white, 1, 3)))
    assert decoded(data).tolist() == [[[white, 1, 2, white], [white, 1, 3, 0]]]


def test_every_orientation_of_every_format_is_upright() -> None:
    deep = noise(3, np.uint16)
    shallow = Image.fromarray((deep >> 8).astype(np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        tag = [(274, 3, 1, orientation, False)]
        upright = np.asarray(
            ImageOps.exif_transpose(Image.open(io.BytesIO(by_pillow(shallow, "PNG", exif=exif))))
        )
        orient = chunk(b"eXIf", exif.tobytes()[6:])
        whole = imagecodecs.png_encode(deep)
        exact = [
            by_pillow(shallow, "PNG", exif=exif),
            by_pillow(shallow, "WEBP", exif=exif, lossless=True),
            by_pillow(shallow, "TIFF", exif=exif),
            by_pillow(shallow, "TIFF", exif=exif, compression="tiff_lzw"),
        ]
        for data in exact:
            assert np.array_equal(decoded(data), upright)
        for data in (
            whole[:33] + orient + whole[33:],
            tiff(deep, photometric="rgb", extratags=tag),
        ):
            assert np.array_equal(decoded(data) >> 8, upright)
        jpeg = by_pillow(shallow, "JPEG", exif=exif, quality=100, subsampling=0)
        assert abs(decoded(jpeg).astype(int) - upright).max() < 16


def test_broken_metadata_of_a_sound_image_is_ignored() -> None:
    image = Image.fromarray(noise(3))
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        assert np.array_equal(decoded(by_pillow(image, "PNG", exif=exif)), noise(3))


def test_what_would_change_is_refused() -> None:
    rgb = Image.fromarray(noise(3))
    grey = noise(1)[:, :, 0]
    kinds: dict[str, list[bytes]] = {
        "more than one frame": [
            frames("PNG"),
            frames("PNG", default_image=True),
            frames("WEBP"),
            frames("TIFF"),
        ],
        "CMYK": [by_pillow(rgb.convert("CMYK"), form) for form in ("JPEG", "TIFF")],
        "of mode": [by_pillow(rgb.convert(mode), "TIFF") for mode in ("YCbCr", "LAB")],
        "floating point": [
            tiff(grey.astype(np.float32)),
            tiff(noise(3).astype(np.float32), photometric="rgb"),
            tiff(noise(3).astype(np.uint32), photometric="rgb"),
        ],
        "bits per channel": [tiff(grey.astype(np.uint32))],
        "signed": [tiff(grey.astype(kind)) for kind in (np.int8, np.int16)],
        "channel beside its colours": [
            tiff(noise(4), photometric="rgb", extrasamples=["unspecified"]),
            tiff(noise(2), photometric="minisblack", planarconfig="contig"),
            tiff(noise(5), photometric="rgb", extrasamples=["unassalpha", "unspecified"]),
        ],
        "separate planes": [
            tiff(
                np.moveaxis(noise(2), 2, 0),
                photometric="minisblack",
                planarconfig="separate",
                extrasamples=["unassalpha"],
                compression=how,
            )
            for how in (None, "lzw")
        ],
        "zero is white": [tiff(noise(1, np.uint16)[:, :, 0], photometric="miniswhite")],
        "premultiplied": [
            tiff(noise(4, np.uint16), photometric="rgb", extrasamples=["assocalpha"])
        ],
        "thumbnail": [tiff(noise(3), photometric="rgb", subfiletype=1)],
        "levels": [
            ppm(magic, top, noise(3))
            for magic in ("P5", "P6")
            for top in (15, 100, 256, 1023, 4095, 65534)
        ],
        "as text": [b"P3 1 1 65535 1 2 3\n", b"P2 1 1 65535 1\n"],
        "a BMP with a fourth channel": [by_pillow(Image.fromarray(noise(4)), "BMP")],
        "is a GIF": [frames("GIF"), by_pillow(rgb.quantize(8), "GIF")],
        "AVIF or HEIC": [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"],
        "JPEG 2000": [by_pillow(rgb, "JPEG2000")],
        "PostScript": [by_pillow(rgb, "EPS"), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"],
        "a PDF": [by_pillow(rgb, "PDF")],
        "not an image": [b"<html></html>", by_pillow(rgb, "PCX"), by_pillow(rgb, "TGA")],
    }
    for why, files in kinds.items():
        for data in files:
            assert why in refused(data), why


def test_the_first_of_several_photographs_in_a_jpeg_is_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "pcsr")
    assert decoded(frames("MPO")).shape == (HEIGHT, WIDTH, 3)
    assert caplog.messages == ["it: holds several images; the first one is read"]


def test_a_bmp_of_32_bits_is_rgb_where_its_fourth_byte_says_nothing() -> None:
    values = noise(4)
    values[:, :, 3] = 255
    assert np.array_equal(decoded(by_pillow(Image.fromarray(values), "BMP")), values[:, :, :3])


def test_much_text_and_large_profiles_are_no_damage() -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in noise(3))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 2**22))
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**22)))
    several = [chunk(b"tEXt", b"Comment\0" + b"a" * 2**20)] * 8
    for chunks in ([text], [profile], several, [text, profile]):
        data = png((WIDTH, HEIGHT), 8, 2, rows, *chunks)
        assert np.array_equal(decoded(data), noise(3))
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26 + 1), 1))
    assert "metadata has more than 64 MiB" in refused(png((WIDTH, HEIGHT), 8, 2, rows, bomb))


def test_cut_files_are_damaged() -> None:
    for values in of_every_depth(3):
        files = [imagecodecs.png_encode(values), *stored_tiffs(values)]
        files.append(ppm("P6", np.iinfo(values.dtype).max, values))
        for data in files:
            for share in (0.1, 0.3, 0.5, 0.7, 0.9):
                part = data[: int(len(data) * share)]
                try:
                    assert np.array_equal(decoded(part), values)  # only the padding is cut
                except UserError as error:
                    assert "get it again" in str(error)


@pytest.mark.parametrize(
    ("bits", "colour", "planes"),
    [
        *((bits, 0, 1) for bits in (1, 2, 4, 8, 16)),
        *((bits, 3, 1) for bits in (1, 2, 4, 8)),
        *((bits, *kind) for bits in (8, 16) for kind in ((2, 3), (4, 2), (6, 4))),
    ],
)
def test_png_without_all_of_its_pixels_is_damaged(
    bits: int, colour: int, planes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The checksums are right but for the last file: viewers show black rows, or wrong pixels."""
    row = b"\0" + np.random.default_rng(0).bytes((WIDTH * bits * planes + 7) // 8)
    palette = [chunk(b"PLTE", bytes(range(256)) * 3)] if colour == 3 else []
    sound = png((WIDTH, HEIGHT), bits, colour, row * HEIGHT, *palette)
    assert decoded(sound).shape[:2] == (HEIGHT, WIDTH)
    assert decoded(png((WIDTH, HEIGHT), bits, colour, row * (HEIGHT + 1), *palette)).any()
    for rows in (0, 1, HEIGHT - 1):
        short = png((WIDTH, HEIGHT), bits, colour, row * rows, *palette)
        assert "the image is damaged" in refused(short)
    flipped = bytearray(sound)
    flipped[sound.index(b"IEND") - 5] ^= 1  # the checksum of the pixels
    assert "the image is damaged" in refused(bytes(flipped))
    assert not caplog.records  # which a terminal would show


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """Limit this process to ``more`` bytes beyond what it uses."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_bombs_are_refused_from_their_headers() -> None:
    for data in list(bombs()):
        assert len(data) < 10_000
        with little_memory(2**26), pytest.raises(UserError) as error:
            decoding.read_header(data, name="it").require_memory(2**30)
        assert "pixels need" in str(error.value) and "give more" in str(error.value)


def test_flipped_or_cut_pixels_of_a_png_are_noticed() -> None:
    for planes in (1, 2, 3, 4):
        for values in of_every_depth(planes):
            data = imagecodecs.png_encode(plain(values))
            start = data.index(b"IDAT")
            for at in range(start + 4, len(data) - 12):  # to the end of the checksum
                broken = bytearray(data)
                broken[at] ^= 1 << at % 8
                for damaged in (bytes(broken), data[:at]):
                    assert "get it again" in refused(damaged)
        assert np.array_equal(decoded(data[:-12]), values)  # only the end marker is missing


def test_missing_rows_of_a_png_are_noticed_where_all_checksums_are_right() -> None:
    for bits, colour, size in ((8, 2, 1 + 3 * WIDTH), (8, 0, 1 + WIDTH), (8, 3, 1 + WIDTH)):
        palette = [chunk(b"PLTE", bytes(range(12)))] if colour == 3 else []
        for rows in range(HEIGHT):
            data = png((WIDTH, HEIGHT), bits, colour, bytes(rows * size), *palette)
            assert "get it again" in refused(data)
        data = png((WIDTH, HEIGHT), bits, colour, bytes(HEIGHT * size), *palette)
        assert decoded(data).shape[:2] == (HEIGHT, WIDTH)


def test_mutated_files_are_read_or_refused_in_one_line() -> None:
    for number in range(500):
        data = mutated(np.random.default_rng(number))
        try:
            read_honestly(data)
        except UserError as error:
            assert str(error).startswith("it: ") and "\n" not in str(error), number
