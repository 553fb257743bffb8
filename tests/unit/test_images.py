import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile.images import photo, png
from PIL import Image

from pcsr import runtime
from pcsr.data import images
from pcsr.errors import UserError
from pcsr.images import encoding
from pcsr.images.levels import to_tensor, to_uint8


def png_16bit(colour_type: int, channels: int) -> bytes:
    """A 4 x 4 PNG of 16 bits per channel, which Pillow itself cannot write."""
    rows = (b"\0" + np.arange(4 * channels, dtype=">u2").tobytes()) * 4
    return png((4, 4), 16, colour_type, rows)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_pixels_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo()).save(path)
    read = images.read(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, photo())


def test_reads_bytes_and_open_files(tmp_path: Path) -> None:
    images.write(tmp_path / "a.png", photo())
    data = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(images.read(data, name="zip/a.png"), photo())
    assert np.array_equal(images.read(io.BytesIO(data), name="zip/a.png"), photo())
    with pytest.raises(UserError, match=r"^zip/a\.png: "):
        images.read(data[:50], name="zip/a.png")


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("1", "black and white"),
        ("L", "grey; convert it to 8-bit RGB, or make it a data set"),
        ("LA", "grey with transparency"),
        ("P", "palette"),
        ("RGBA", "RGBA"),
        ("I;16", "16 bits per channel"),
    ],
)
def test_other_modes_are_refused_by_name(tmp_path: Path, mode: str, named: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (5, 4)).save(path)
    with pytest.raises(UserError) as error:
        images.read(path)
    assert str(path) in str(error.value)
    assert named in str(error.value)
    assert "convert it to 8-bit RGB" in str(error.value)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("grey_to_rgb", [False, True])
def test_16_bit_is_refused_for_every_colour_type(
    colour_type: int, channels: int, grey_to_rgb: bool
) -> None:
    data = png_16bit(colour_type, channels)
    with pytest.raises(UserError, match="of 16 bits per channel; convert it to 8-bit RGB"):
        images.read(data, grey_to_rgb, name="a.png")


def test_grey_to_rgb_repeats_the_channel_of_8_bit_grey_only(tmp_path: Path) -> None:
    grey = photo()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    read = images.read(tmp_path / "grey.png", grey_to_rgb=True)
    assert read.shape == (12, 17, 3)
    assert all(np.array_equal(read[:, :, channel], grey) for channel in range(3))
    Image.new("LA", (5, 4)).save(tmp_path / "alpha.png")
    with pytest.raises(UserError, match="grey with transparency"):
        images.read(tmp_path / "alpha.png", grey_to_rgb=True)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        images.read(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be read"):
        images.read(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=r"empty\.png: the file is empty"):
        images.read(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"text\.png: not an image"):
        images.read(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_truncated_images_are_refused(suffix: str) -> None:
    file = io.BytesIO()
    Image.fromarray(photo(40, 40)).save(file, format={"jpg": "jpeg"}.get(suffix, suffix))
    data = file.getvalue()
    for length in range(1, len(data) * 3 // 4, 37):
        with pytest.raises(UserError, match=r"^a: .*get it again"):
            images.read(data[:length], name="a")


@pytest.mark.parametrize("suffix", ["png", "tif"])  # Pillow checks a TIFF a second time
def test_large_images_pass_pillows_limit_and_meet_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photo()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # 12 x 17 is a "decompression bomb" now
    assert np.array_equal(images.read(path), photo())
    assert Image.MAX_IMAGE_PIXELS == 50
    monkeypatch.setattr(runtime, "free_memory", lambda _: 5000.0)
    with pytest.raises(
        UserError, match=r"17 x 12 pixels need 0 MiB, and 0 MiB are left; give more"
    ):
        images.read(path)


def test_write_refuses_other_arrays_and_keeps_the_old_file_on_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "a.png"
    images.write(path, photo())
    for wrong in (photo().astype(np.float32), photo()[:, :, 0], photo()[:, :, :2]):
        with pytest.raises(ValueError, match="not uint8"):
            images.write(path, wrong)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoding.imagecodecs, "png_encode", full)
    with pytest.raises(OSError, match="No space left"):
        images.write(path, photo(seed=1))
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    assert np.array_equal(images.read(path), photo())


def test_tensor_round_trip_is_exact_for_all_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    levels[:, :, 1] = levels[::-1, :, 1]
    levels.flags.writeable = False  # as a memory-mapped store gives it
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.dtype == torch.float32
    assert tensor[0, 0, 0, 7] == np.float32(7) / np.float32(255)
    assert np.array_equal(to_uint8(tensor), levels)


def test_to_uint8_clamps_and_rounds_half_up() -> None:
    values = torch.tensor([-0.2, 0.5 / 255, 1.5 / 255, 2.49 / 255, 1.7], dtype=torch.float64)
    tensor = values.expand(1, 3, 1, 5)
    assert to_uint8(tensor)[0, :, 2].tolist() == [0, 1, 2, 2, 255]
    for wrong in (tensor[0], tensor[:, :2], tensor.expand(2, 3, 1, 5)):
        with pytest.raises(ValueError, match=r"not \(1, 3, H, W\)"):
            to_uint8(wrong)


def test_a_large_folder_is_listed_at_once(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number}.png").touch()
    started = time.process_time()
    found = images.list_images(tmp_path)
    assert len(images.unique([path.stem for path in found], "here")) == 2000
    assert time.process_time() - started < 2


def test_list_images_sorts_naturally_and_names_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("img_10.png", "img_2.PNG", "a.webp", "._img_3.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.jpe").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    found = [path.name for path in images.list_images(tmp_path)]
    assert found == ["a.webp", "gone.jpe", "img_2.PNG", "img_10.png"]
    assert caplog.messages == [
        f"{tmp_path}: left out 3 that are not images: folder.png/, notes.txt, pipe.png"
    ]
    for number in range(20):
        (tmp_path / f"{number}.gif").touch()
    images.list_images(tmp_path)
    assert "left out 23" in caplog.messages[1] and caplog.messages[1].endswith("and 13 more")
    with pytest.raises(UserError, match=r"gone\.jpe: no such file"):
        images.read(tmp_path / "gone.jpe")
    with pytest.raises(UserError, match=r"pipe\.png: cannot be read \(not a file\)"):
        images.read(tmp_path / "pipe.png")
    with pytest.raises(UserError, match="holds no image"):
        images.list_images(tmp_path / "folder.png")
    with pytest.raises(UserError, match="no such folder"):
        images.list_images(tmp_path / "none")


def test_lr_images_are_found_by_either_name(tmp_path: Path) -> None:
    for name in ("a.png", "bx4.png"):
        (tmp_path / name).touch()
    assert [path.name for path in images.lr_images(tmp_path, ["b", "a"])] == ["bx4.png", "a.png"]
    with pytest.raises(UserError, match="no LR image 'c' or 'cx4'"):
        images.lr_images(tmp_path, ["a", "c"])
    for other in ("ax4.png", "a.bmp", "ax4.jpg"):
        (tmp_path / other).touch()
        with pytest.raises(UserError, match=r"may both be the LR image of 'a'; remove one"):
            images.lr_images(tmp_path, ["b", "a"])
        (tmp_path / other).unlink()
