"""What ``upscale`` writes is what it read, enlarged: grey, depth, transparency, colours, format."""

import io
import logging
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hostile.images import chunk
from models import build, photograph_like
from PIL import ExifTags, Image, ImageCms

from pcsr.data import images
from pcsr.engine.runners import DenseRunner, runner
from pcsr.errors import UserError
from pcsr.evaluation import model
from pcsr.evaluation import super_resolve as module
from pcsr.evaluation.model import Model
from pcsr.evaluation.super_resolve import upscale_files
from pcsr.evaluation.upscale import targets
from pcsr.images import decoding
from pcsr.images.decoding import read_header
from pcsr.images.levels import to_levels, to_uint8
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint
from pcsr.storage import files

POINT = OperatingPoint(knob=0.0, refine=True)
SIZE = (24, 32)


@pytest.fixture(scope="module")
def method() -> Method:
    return build("fsrcnn", "pcsr")


@pytest.fixture(scope="module")
def rgb16() -> np.ndarray:
    return to_levels(photograph_like(*SIZE)[0], np.uint16)


def alpha16() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return (65535 * (np.hypot(y - 12, x - 16) < 9)).astype(np.uint16)[:, :, None]


def upscaled(method: Method, source: Path, target: Path) -> np.ndarray:
    upscale_files(method, [(source, target)], 4, POINT)
    return read_header(target).decode().values


def described(data: bytes, *chunks: bytes) -> bytes:
    """Put chunks after the header of a PNG."""
    return data[:33] + b"".join(chunks) + data[33:]


def saved(path: Path, values: np.ndarray) -> Path:
    grey = values.shape[2] == 1
    path.write_bytes(
        imagecodecs.png_encode(np.ascontiguousarray(values[..., 0] if grey else values))
    )
    return path


def test_grey_depth_and_transparency_are_kept(
    method: Method, rgb16: np.ndarray, tmp_path: Path
) -> None:
    reference = upscaled(method, saved(tmp_path / "rgb16.png", rgb16), tmp_path / "rgb16_x4.png")
    assert reference.dtype == np.uint16 and reference.shape == (96, 128, 3)
    assert len(np.unique(reference)) > 10_000  # not 8 bits in 16
    enlarged = Image.fromarray(alpha16()[:, :, 0] / np.float32(65535)).resize((128, 96), 3)
    alpha = 65535 * np.asarray(enlarged).clip(0, 1)
    for planes in (1, 2, 3, 4):
        colours = rgb16 if planes > 2 else rgb16[:, :, :1]
        deep = np.concatenate([colours, alpha16()], 2)[:, :, :planes]
        for values in (deep, (deep >> 8).astype(np.uint8)):
            top = np.iinfo(values.dtype).max
            source = saved(tmp_path / "in.png", values)
            for ending in (".png", ".tif"):
                target = tmp_path / f"out{ending}"
                upscale_files(method, [(source, target)], 4, POINT)
                sr = (
                    read_header(target).decode().values
                    if ending == ".png"
                    else tifffile.imread(target).reshape(96, 128, planes)
                )
                assert sr.dtype == values.dtype and sr.shape == (96, 128, planes)
                if planes in (2, 4):
                    assert abs(sr[:, :, -1] - top / 65535 * alpha).max() <= 1 + top / 20000
                if planes > 2:
                    close = abs(sr[:, :, :3] / top - reference / 65535)
                    assert close.max() < (0.1 if top == 255 else 1e-6)


def test_grey_is_the_mean_of_three_equal_channels(
    method: Method, rgb16: np.ndarray, tmp_path: Path
) -> None:
    grey = rgb16[:, :, :1]
    sr = upscaled(method, saved(tmp_path / "g.png", grey), tmp_path / "g_x4.png")
    three = np.repeat(grey, 3, axis=2)
    of_three = upscaled(method, saved(tmp_path / "c.png", three), tmp_path / "c_x4.png")
    inside = ((of_three > 0) & (of_three < 65535)).all(axis=2)  # the mean is of what is not clipped
    assert inside.mean() > 0.5
    assert abs(sr[:, :, 0] - of_three.mean(2))[inside].max() <= 1


def test_every_kind_upscaled_as_a_file_is_that_of_pillow(
    method: Method, rgb16: np.ndarray, tmp_path: Path
) -> None:
    rgb = Image.fromarray((rgb16 >> 8).astype(np.uint8))
    alpha = Image.fromarray((alpha16()[:, :, 0] >> 8).astype(np.uint8))
    grey16 = Image.fromarray(np.ascontiguousarray(rgb16[:, :, 0]))
    with_alpha = rgb.copy()
    with_alpha.putalpha(alpha)
    model = Model(method, torch.float32)
    modes = [rgb.convert(mode) for mode in ("RGB", "L", "1")]
    for image in (*modes, with_alpha, with_alpha.convert("LA"), rgb.quantize(64), grey16):
        image.save(tmp_path / "in.png")
        expected = upscaled(method, tmp_path / "in.png", tmp_path / "out.png")
        found = np.asarray(model.upscale(image, k=0.0).image)
        assert found.dtype == expected.dtype
        assert np.array_equal(found.reshape(expected.shape), expected)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    rgb.save(tmp_path / "in.png", exif=sideways)
    with Image.open(tmp_path / "in.png") as image:
        assert model.upscale(image, k=0.0).image.size == (96, 128)
    saved(tmp_path / "in.png", rgb16)
    with Image.open(tmp_path / "in.png") as image, pytest.raises(ValueError, match="16 bits"):
        model.upscale(image)
    with pytest.raises(ValueError, match="is CMYK; convert it"):
        model.upscale(rgb.convert("CMYK"))
    deep = model.upscale(rgb16, k=0.0).image
    expected = upscaled(method, tmp_path / "in.png", tmp_path / "out.png")
    assert np.array_equal(deep, expected)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_profiles_are_kept_in_every_format_and_stale_tags_are_not(
    method: Method, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(to_uint8(photograph_like(*SIZE)))
    profile = srgb_profile()
    for source in ("in.png", "in.jpg", "in.webp", "in.tif"):
        image.save(tmp_path / source, exif=exif, icc_profile=profile)
        for target in ("out.png", "out.jpg", "out.webp", "out.tif"):
            upscale_files(method, [(tmp_path / source, tmp_path / target)], 4, POINT)
            with Image.open(tmp_path / target) as sr:
                assert sr.info["icc_profile"] == profile
                assert sr.getexif().get(0x0112, 1) == 1
                assert sr.size == (4 * SIZE[0], 4 * SIZE[1])


def test_colours_that_only_the_camera_names_are_described(method: Method, tmp_path: Path) -> None:
    image = Image.fromarray(to_uint8(photograph_like(*SIZE)))
    target = tmp_path / "out.png"
    for ending in ("jpg", "webp", "png"):
        for index, profile in (("R03", b""), ("R98", b""), ("R03", srgb_profile())):
            exif, source = Image.Exif(), tmp_path / f"in.{ending}"
            exif[ExifTags.Base.Make] = "a camera"
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: index}
            image.save(source, exif=exif, icc_profile=profile or None)
            upscale_files(method, [(source, target)], 4, POINT)
            with Image.open(target) as sr:
                assert sr.info.get("icc_profile", b"") == profile
                described = sr.info.get("chromaticity", ())[4:6] == (0.21, 0.71)
            assert described == (index == "R03" and not profile)
            if described:
                with pytest.raises(UserError, match="described by cHRM, which only PNG holds"):
                    upscale_files(method, [(source, tmp_path / "out.jpg")], 4, POINT)


@pytest.mark.parametrize("bits", [8, 16])
def test_colour_chunks_are_kept_in_png_and_never_dropped(
    method: Method, rgb16: np.ndarray, tmp_path: Path, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pcsr")
    values = rgb16 if bits == 16 else (rgb16 >> 8).astype(np.uint8)
    data = imagecodecs.png_encode(values)
    linear, srgb = (
        chunk(b"gAMA", struct.pack(">I", 100000)),
        chunk(b"gAMA", struct.pack(">I", 45455)),
    )
    wide = chunk(
        b"cHRM", struct.pack(">8I", *(31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    )
    pq, known = chunk(b"cICP", bytes([9, 16, 0, 1])), chunk(b"sRGB", b"\0")
    source, png = tmp_path / "in.png", tmp_path / "out.png"
    other = tmp_path / ("out.tif" if bits == 16 else "out.jpg")
    for chunks, needs in (
        ([linear], "gAMA"),
        ([wide], "cHRM"),
        ([linear, wide], "gAMA and cHRM"),
        ([pq], "cICP"),
        ([known, pq], "cICP"),
        ([known], ""),
        ([srgb], ""),
        ([chunk(b"cICP", bytes([1, 13, 0, 1]))], ""),
        ([chunk(b"iCCP", b"p\0\0" + zlib.compress(srgb_profile())), linear], ""),
    ):
        source.write_bytes(described(data, *chunks))
        upscale_files(method, [(source, png)], 4, POINT)
        written = png.read_bytes()
        with Image.open(io.BytesIO(written)) as sr:
            sr.load()
        for one in chunks:
            assert one[4:8] in written and (one[4:8] == b"iCCP" or one in written)
        if needs:
            with pytest.raises(UserError, match=f"described by {needs}, which only PNG holds"):
                upscale_files(method, [(source, other)], 4, POINT)
        else:
            upscale_files(method, [(source, other)], 4, POINT)


def test_what_a_format_cannot_hold_is_refused_before_the_work(
    method: Method, rgb16: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = saved(tmp_path / "deep.png", rgb16)
    clear = saved(tmp_path / "clear.png", np.concatenate([rgb16, alpha16()], 2).astype(np.uint8))
    grey = tmp_path / "grey.png"
    gray_profile = bytearray(srgb_profile())
    gray_profile[16:20] = b"GRAY"
    Image.new("L", (8, 8)).save(grey, icc_profile=bytes(gray_profile))
    Image.new("RGB", (4200, 1)).save(tmp_path / "long.png")
    monkeypatch.setattr(decoding.Encoded, "decode", lambda _: pytest.fail("decoded"))
    for source, ending, lost in (
        (deep, ".jpg", "16 bits"),
        (deep, ".webp", "16 bits"),
        (clear, ".jpeg", "transparency"),
        (grey, ".webp", "the colour profile of a grey image"),
        (tmp_path / "long.png", ".webp", "more than 16383 pixels"),
    ):
        with pytest.raises(UserError, match=f"cannot hold {lost}.*write .png or .tif"):
            upscale_files(method, [(source, tmp_path / f"out{ending}")], 4, POINT)


def test_targets_of_files_and_folders(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).touch()
    one, out = tmp_path / "a.png", tmp_path / "out"
    assert targets(one, tmp_path / "b.webp") == [(one, tmp_path / "b.webp")]
    assert targets(one, out, "tif") == [(one, out / "a.tif")]
    for ext, ending in ((None, "png"), ("JPG", "jpg"), (".webp", "webp")):
        assert [path.name for _, path in targets(tmp_path, out, ext)] == [
            f"a.{ending}",
            f"b.{ending}",
        ]
    for arguments, why in (
        ((tmp_path, tmp_path / "b.png"), "the output must be a folder too"),
        ((one, tmp_path / "b.gif"), "images are written as .png, .jpg"),
        ((tmp_path, out, "bmp"), "images are written as .png, .jpg"),
        ((one, tmp_path / "b.png", "jpg"), "--ext jpg: .* has an ending already"),
    ):
        with pytest.raises(UserError, match=why):
            targets(*arguments)


def test_what_nobody_counts_is_enlarged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def costs(*_: object) -> None:
        raise UserError("an operation that is not counted")

    original = build("fsrcnn", "original")
    monkeypatch.setattr(type(original), "costs", costs)
    lr, sr = tmp_path / "lr.png", tmp_path / "sr.png"
    images.write(lr, to_uint8(photograph_like(*SIZE)))
    with caplog.at_level("INFO", "pcsr"):
        upscale_files(original, [(lr, sr)], 4, OperatingPoint())
    assert sr.exists() and "GFLOPs" not in caplog.text and "1/1" in caplog.text


def test_a_broken_image_does_not_stop_the_others(method: Method, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    images.write(folder / "good.png", to_uint8(photograph_like(*SIZE)))
    (folder / "bad.png").write_text("no image")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"bad\.png: not an image.*gone\.png: no such file"):
        upscale_files(method, targets(folder, out), 4, POINT)
    assert [path.name for path in out.iterdir()] == ["good.png"]


def test_memory_is_found_before_an_image_is_decoded_or_a_result_made(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (3000, 3000)).save(tmp_path / "in.png")
    pair = (tmp_path / "in.png", tmp_path / "out.png")
    monkeypatch.setattr(module.runtime, "used_memory", lambda _: 2**28)
    with monkeypatch.context() as patch:
        patch.setattr(decoding.Encoded, "decode", lambda _: pytest.fail("decoded"))
        with pytest.raises(UserError, match=r"in.png: 3000 x 3000 pixels need .* are left"):
            upscale_files(method, [pair], 4, POINT, max_memory=2**30)
    patched = monkeypatch.setattr
    patched(module.np, "empty", lambda *_: pytest.fail("made"))
    tiles = r"smallest tiles .* --max-memory \d+MiB would be enough"
    alone = r"result of 12000 x 12000 pixels alone needs 824 MiB, and 601 MiB"
    arm = build("fsrcnn", "arm")
    for refusing, run_by, why in (
        (method, runner, tiles),
        (arm, runner, tiles),
        (arm, lambda method, _: DenseRunner(method), alone),
    ):
        patched(model, "runner", run_by)
        with pytest.raises(UserError, match=why):
            Model(refusing, torch.float32).upscale(
                np.zeros((3000, 3000, 3), np.uint8), k=0.0, max_memory="1GiB"
            )


def test_what_a_killed_run_left_is_cleaned_up_and_nothing_else(
    method: Method, tmp_path: Path
) -> None:
    source = saved(tmp_path / "in.png", np.zeros((8, 8, 3), np.uint8))
    theirs = tmp_path / ".out.png.swp"
    theirs.touch()
    left = tmp_path / f"{files.TEMPORARY}0123abcd.png"
    left.touch()
    with files.atomic(tmp_path / "other.png") as being_written:
        upscale_files(method, [(source, tmp_path / "out.png")], 4, POINT)
        assert being_written.exists() and theirs.exists() and not left.exists()
