"""The Python interface: every kind of image, the command line's pixels, and clear refusals."""

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile.images import chunk, png
from models import build, photograph_like, restored, saved
from PIL import Image

import pcsr
from pcsr.errors import UserError
from pcsr.evaluation.model import Model
from pcsr.images.levels import to_uint8

SIZE = (40, 56)


@pytest.fixture(scope="module")
def eight_bit() -> np.ndarray:
    return to_uint8(photograph_like(*SIZE))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(build("fsrcnn", "pcsr"), torch.float32)


def test_every_kind_of_image_comes_back_as_it_was(model: Model, eight_bit: np.ndarray) -> None:
    chw = torch.from_numpy(eight_bit.transpose(2, 0, 1).copy())
    kinds: list[Any] = [Image.fromarray(eight_bit), eight_bit, chw, chw[None]]
    floats: list[Any] = [eight_bit / np.float32(255), chw / 255, (chw / 255)[None].double()]
    expected = np.asarray(model.upscale(kinds[0], k=0.0).image)
    assert expected.shape == (160, 224, 3) and expected.dtype == np.uint8
    for image in kinds + floats:
        found = model.upscale(image, k=0.0).image
        assert type(found) is type(image)
        if isinstance(image, Image.Image):
            continue
        assert found.dtype == image.dtype and found.ndim == image.ndim
        array = found if isinstance(found, np.ndarray) else np.moveaxis(found.numpy(), -3, -1)
        levels = array if array.dtype == np.uint8 else np.floor(255 * array + 0.5)
        assert abs(levels.reshape(expected.shape) - expected.astype(float)).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_level_of_a_grey_png_is_clear(model: Model, bits: int) -> None:
    row = b"\0" + b"\xff" * bits + bytes(bits)  # 8 clear pixels, 8 black ones
    # Bits of the level beyond those of a pixel do not count.
    level = struct.pack(">H", 2**bits - 1 + (64 if bits in (2, 4) else 0))
    data = png((16, 16), bits, 0, row * 16, chunk(b"tRNS", level))
    done = np.asarray(model.upscale(Image.open(io.BytesIO(data))).image)
    assert done[32, [8, -8], -1].tolist() == [0, 255]


@pytest.mark.parametrize("name", ["original", "pcsr", "classsr", "arm"])
@torch.no_grad()
def test_what_is_told_is_what_was_done(name: str) -> None:
    method, lr = build("fsrcnn", name), photograph_like(*SIZE)
    knob = method.points[0].knob
    result = Model(method, torch.float32).upscale(lr, k=knob)
    found = restored(method, lr, 4, knob, refine=True)
    assert torch.equal(result.image, found.sr.clamp(0, 1))
    labels = found.labels
    if name != "original":
        labels = method.pixel_labels(labels, SIZE, 4)
        assert (result.routing == labels.numpy()).all()
    assert result.routing.shape == (1, 160, 224)
    units = torch.bincount(found.labels.flatten(), minlength=method.branches)
    assert result.shares == tuple((units / units.sum()).tolist())
    assert result.flops == method.costs(SIZE, 4).total(units.tolist())


def test_a_batch_is_its_images(model: Model) -> None:
    lr = photograph_like(*SIZE)
    batch = torch.cat([lr, lr.flip(-1)])
    both, one, other = (model.upscale(x, adaptive=True) for x in (batch, lr, lr.flip(-1)))
    assert torch.equal(both.image, torch.cat([one.image, other.image]))
    assert both.flops.engine == pytest.approx(one.flops.engine + other.flops.engine)
    assert both.routing.shape == (2, 160, 224)


def test_a_budget_is_a_share_of_the_original(model: Model) -> None:
    image = photograph_like(*SIZE)
    whole = build("fsrcnn", "original").costs(SIZE, 4).total([1]).engine
    assert 0.9 < model.upscale(image, budget=1.2).flops.engine / (1.2 * whole) <= 1


def test_wrong_images_and_points_are_refused(model: Model, eight_bit: np.ndarray) -> None:
    with pytest.raises(UserError, match="give one of --k, --adaptive and --budget, not several"):
        model.upscale(eight_bit, k=0.0, adaptive=True)
    with pytest.raises(ValueError, match=r"an array \(h, w, 3\) is needed, not \(40, 56\)"):
        model.upscale(eight_bit[..., 0])
    with pytest.raises(ValueError, match="is CMYK; convert it"):
        model.upscale(Image.fromarray(eight_bit).convert("CMYK"))
    with pytest.raises(ValueError, match="uint8, uint16 or floating point"):
        model.upscale(eight_bit.astype(np.int32))
    with pytest.raises(TypeError, match="not list"):
        model.upscale(eight_bit.tolist())


def test_three_lines_give_the_pixels_of_the_command_line(
    eight_bit: np.ndarray, tmp_path: Path
) -> None:
    weights, image, out = (tmp_path / name for name in ("w.safetensors", "i.png", "o.png"))
    saved(build("fsrcnn", "pcsr"), weights)
    Image.fromarray(eight_bit).save(image)
    command = ("pcsr", "upscale", image, out, "--weights", weights, "--device", "cpu")
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)
    model = pcsr.load(weights, device="cpu")
    result = model.upscale(Image.open(image))
    assert (np.asarray(result.image) == np.asarray(Image.open(out))).all()


def test_a_mistake_in_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        pcsr.laod  # noqa: B018
