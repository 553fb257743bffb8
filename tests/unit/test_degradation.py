"""Three named ways to make LR images from HR; the default is the one from before the names."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from models import build
from numpy.typing import NDArray
from torch import Tensor
from workspace import ROOT

from pcsr.config.load import fingerprint, parse, read_yaml
from pcsr.config.models import Bicubic, ProtocolConfig, SuiteConfig
from pcsr.data import bicubic, images
from pcsr.data.test_images import TestImage, TestImages
from pcsr.errors import UserError
from pcsr.evaluation import measure
from pcsr.evaluation.sweep import Subject, SweepOptions, measure_all, sweep
from pcsr.report.fairness.choices import protocol_effects
from pcsr.report.tidy import load, protocol_text, write_results

WAYS = get_args(Bicubic)
REACH = 2  # LR pixels from a border whose 16 taps at x4 pass it


def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.floor(np.clip(values, 0, 255) + 0.5)


def quarter(image: NDArray[np.uint8], way: str) -> NDArray[np.float64]:
    """Reduce (H, W, 3) by 4 as MATLAB describes it: 16 taps on a padded image, rows first."""
    distance = np.abs(np.arange(16) - 7.5) / 4
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far) / 4
    mode = "edge" if way == "selfexsr" else "symmetric"
    values = image.astype(np.float64)
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        padded = np.pad(values, [(6, 6), (0, 0), (0, 0)], mode)
        values = sum(tap * padded[n:][: len(values) : 4] for n, tap in enumerate(taps))
        if way != "matlab" and axis == 0:
            values = rounded(values)
        values = np.moveaxis(values, 0, axis)
    return rounded(values)


def photograph() -> NDArray[np.uint8]:
    """Noise of several sizes with hard edges, uint8 (H, W, 3), with sides of a multiple of 4."""
    generator = np.random.default_rng(3)
    coarse = generator.integers(0, 256, (36, 48, 3)).repeat(4, 0).repeat(4, 1)
    fine = generator.integers(-60, 61, (144, 192, 3))
    return (coarse + fine).clip(0, 255).astype(np.uint8)


def ours(image: NDArray[np.uint8], way: Bicubic, bits: str = "8bit") -> Tensor:
    exact = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64)) / 255
    size = (image.shape[0] // 4, image.shape[1] // 4)
    return bicubic.degrade(exact, size, bits, way)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_what_its_name_says(way: Bicubic) -> None:
    image = photograph()
    lr = (ours(image, way) * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(lr, quarter(image, way))


def test_what_the_ways_have_in_common() -> None:
    one, two, replicated = (ours(photograph(), way) * 255 for way in WAYS)
    assert 0.05 < (one != two).double().mean() < 0.2  # a tenth of the values, by a level
    assert (one - two).abs().max() <= 1 + 1e-9
    inside = (..., slice(REACH, -REACH), slice(REACH, -REACH))
    assert torch.equal(two[inside], replicated[inside]) and not torch.equal(two, replicated)
    unrounded = ours(photograph(), "matlab-uint8", "float") * 255
    assert (unrounded - unrounded.round()).abs().max() > 0.1  # between the passes alone


@pytest.mark.shared
def test_the_lr_image_of_the_demo_was_rounded_once(shared: Path) -> None:
    """The one LR image of a release that is here, image 1232 of Test2K."""
    results = shared / "mirror/released/PCSR/results"
    hr = images.read(results / "HR.png")[:400, :400]
    theirs = images.read(results / "LRx4.png")[:98, :98] / 255  # what 400 pixels decide
    agree = []
    for way in WAYS:
        lr = ours(hr, way)[:, :98, :98].permute(1, 2, 0).numpy()
        agree.append(float((lr == theirs).mean()))
    assert agree[0] > 0.999 and max(agree[1:]) < 0.95


@pytest.mark.shared
def test_on_a_photograph_of_the_goldens(shared: Path) -> None:
    hr = np.load(shared / "golden/bicubic.npz")["hr_uint8"]
    image = hr[: hr.shape[0] // 4 * 4, : hr.shape[1] // 4 * 4]
    for way in WAYS:
        lr = (ours(image, way) * 255).round().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(lr, quarter(image, way), err_msg=way)


def test_the_default_has_the_hash_and_columns_that_it_had() -> None:
    protocol = ProtocolConfig()
    plain = {"lr": "8bit", "crop": "tiles", "refine": True}
    assert protocol.model_dump(mode="json") == protocol.columns() == plain
    suite = parse(SuiteConfig, read_yaml(ROOT / "configs/suites/released.yaml"), "released")
    assert fingerprint(suite.protocols) == "dfdfbe668ae6"
    older = ProtocolConfig(degradation="selfexsr", refine=False)
    assert ProtocolConfig(**older.model_dump(mode="json")) == older
    assert older.columns() == {"lr": "8bit selfexsr", "crop": "tiles", "refine": False}


def test_ready_lr_images_stand_for_the_default_alone(tmp_path: Path) -> None:
    hr = photograph()
    ready = TestImage("a", hr, np.full((36, 48, 3), 7, np.uint8))
    made = TestImage("a", hr, None)
    for way in WAYS:
        protocol = ProtocolConfig(degradation=way)
        given, computed = (measure.make_pair(image, 4, protocol).lr for image in (ready, made))
        assert torch.equal(given, computed) == (way != "matlab")
    with pytest.raises(UserError, match=r"--lr-images lr: .*use --lr 8bit --degradation matlab"):
        sweep(
            weights=[tmp_path / "w.safetensors"],
            images=tmp_path / "hr",
            lr_images=Path("lr"),
            degradation="selfexsr",
            out=tmp_path / "s.csv",
        )


def test_a_sweep_of_all_ways_and_what_they_are_worth(tmp_path: Path) -> None:
    method = build("fsrcnn", "original")
    hr = photograph()
    test = TestImages(list("abcdefgh"), lambda i: np.roll(hr, 8 * i, 0), None)
    options = SweepOptions((), False, tuple(ProtocolConfig(degradation=way) for way in WAYS))
    out = tmp_path / "mine/fsrcnn-original/set/sweep.csv"
    out.parent.mkdir(parents=True)
    facts = {"protocol": {}, "complete": True, "iterations": None}
    subject = Subject(method, "fsrcnn-original", "digest")
    measure_all([subject], test, options, out, facts)
    write_results(sweeps=[out], out=tmp_path / "results.csv")
    rows = load(tmp_path / "results.csv")
    assert list(rows["lr"][:3]) == ["8bit", "8bit matlab-uint8", "8bit selfexsr"]
    assert rows["main"].sum() == 8 and (rows.loc[rows["main"], "lr"] == "8bit").all()
    assert "8-bit selfexsr LR" in protocol_text(rows)
    rows["curve"] = "original"
    chosen = rows[rows["main"]].head(1)
    effects = protocol_effects(rows, chosen).set_index("Choice")["PSNR-RGB (dB)"]
    for way in WAYS[1:]:
        psnr = {lr: of.sort_values("image")["psnr_rgb"].mean() for lr, of in rows.groupby("lr")}
        gained = psnr[f"8bit {way}"] - psnr["8bit"]
        assert effects[f"LR of {way} instead of matlab"].startswith(f"{gained:z.3f} [")
