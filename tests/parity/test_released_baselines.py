"""ClassSR's and ARM's released weights on real photographs, against plain computations and logs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from models import Knob, at
from numpy.typing import NDArray
from reference import arm, classsr, classsr_release
from torch import Tensor

from pcsr import metrics
from pcsr.backbones.carn import CARN
from pcsr.config.models import ProtocolConfig
from pcsr.config.published import load_claims
from pcsr.data.test_images import open_images
from pcsr.evaluation import measure, show
from pcsr.evaluation.measure import Pair
from pcsr.methods.base import Method
from pcsr.report.claims import logs
from pcsr.weights import released

pytestmark = pytest.mark.shared

ROOT = Path(__file__).parents[2]
PROTOCOL = ProtocolConfig(lr="8bit", crop="tiles", refine=False)
# What the suite counts of a tile beyond the published FLOPs: FSRCNN's PReLUs, by branch.
PRELU = {"fsrcnn": [0, *(1024 * (2 * width + 24) for width in (16, 36, 56))], "carn": [0] * 4}


@pytest.fixture(scope="module")
def image_1232(shared: Path) -> Pair:
    (image,) = open_images(shared / "mirror/released/PCSR/results/HR.png")
    return measure.make_pair(image, 4, PROTOCOL)


def rows_of(method: Method, pair: Pair, knobs: Sequence[Knob]) -> list[measure.Row]:
    measures = {"psnr_rgb": metrics.psnr_rgb}
    points = [at(knob) for knob in knobs]
    return list(measure.measure(method, pair, 4, points, [PROTOCOL], measures))


def tiles_per_branch(method: Method, row: measure.Row) -> list[float]:
    return [row["units"] * row[f"share_{j}"] for j in range(method.branches)]


@pytest.mark.parametrize("backbone", ["fsrcnn", "carn"])
def test_arms_own_log_of_image_1232(
    shared: Path, image_1232: Pair, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol section 7: eta over cost, dB, MFLOPs per tile, tiles per branch from bicubic up."""
    log = {
        "carn": {
            1.94: (29.381, 800.6, [35, 0, 11, 80]),
            1.38: (29.279, 632.6, [35, 11, 44, 36]),
            1.30: (29.077, 494.2, [35, 34, 43, 14]),
        },
        "fsrcnn": {
            4.00: (28.206, 290.0, [35, 0, 37, 54]),
            3.45: (28.129, 249.8, [35, 0, 68, 23]),
            0.85: (28.080, 205.7, [35, 11, 80, 0]),
        },
    }[backbone]
    method = arm(shared, backbone)
    rows = rows_of(method, image_1232, list(log))
    for row, (psnr, megaflops, tiles) in zip(rows, log.values(), strict=True):
        assert row["units"] == 126
        assert tiles_per_branch(method, row) == pytest.approx(tiles)
        assert row["psnr_rgb"] == pytest.approx(psnr, abs=0.002)
        published = row["flops_paper"] - float(np.dot(PRELU[backbone], tiles))
        assert round(published / 126 / 1e6, 1) == megaflops
    facts = {"image": "1232", "experiment": "arm", "test_set": "test2k", "released": True}
    monkeypatch.chdir(ROOT)
    page = "\n".join(logs.sections(pd.DataFrame(rows).assign(**facts), load_claims()))
    assert page.count("| 1 of 1 images agree |") == len(log)


def origins(length: int) -> list[int]:
    """Where tiles start along an axis that holds a whole number of them."""
    return list(range(0, length - 31, 28))


@torch.no_grad()
def plainly_restored(method: Method, lr: Tensor) -> tuple[NDArray[np.uint8], list[int]]:
    """ClassSR tile by tile: the likeliest network, rounded to 8 bit, averaged where tiles overlap.

    It shares no code with the suite's cutting, routing and putting together.
    """
    height, width = 4 * lr.shape[2], 4 * lr.shape[3]
    sums, counts = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    tiles = [0, 0, 0]
    for y in origins(lr.shape[2]):
        for x in origins(lr.shape[3]):
            tile = lr[:, :, y : y + 32, x : x + 32]
            chosen = int(method.classifier(tile)[0].argmax())
            sr = method.networks[chosen](tile)[0].permute(1, 2, 0).double().numpy()
            here = (slice(4 * y, 4 * y + 128), slice(4 * x, 4 * x + 128))
            sums[here] += np.floor(np.clip(sr, 0, 1) * 255 + 0.5)
            counts[here] += 1
            tiles[chosen] += 1
    return np.floor(sums / counts + 0.5).astype(np.uint8), tiles


@pytest.mark.parametrize("backbone", ["fsrcnn", "carn"])
def test_classsr_is_the_plain_computation(shared: Path, backbone: str) -> None:
    method = classsr(shared, backbone)
    classes = []
    for name in ("img_008", "img_011", "img_001"):
        (image,) = open_images(shared / f"mirror/Urban100/HR/{name}.png")
        pair = measure.make_pair(image, 4, PROTOCOL)
        plain, tiles = plainly_restored(method, pair.lr)
        error = np.square(plain[4:-4, 4:-4].astype(float) - pair.hr[4:-4, 4:-4]).mean()
        (row,) = rows_of(method, pair, [0.0])
        assert row["psnr_rgb"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
        assert tiles_per_branch(method, row) == pytest.approx(tiles)
        classes.append(tiles)
    assert np.min(np.sum(classes, axis=0)) > 0


@pytest.mark.parametrize("j", [1, 2, 3])
@torch.no_grad()
def test_folded_mean_shifts_are_the_published_layers(shared: Path, j: int) -> None:
    """ClassSR's CARN: A x + b, the entry convolution padded with zeros, the rest, A' y + b'."""
    file = torch.load(classsr_release(shared, "carn"), weights_only=True)
    prefix = f"net{j}."
    published = {n.removeprefix(prefix): t for n, t in file.items() if n.startswith(prefix)}
    shifts = {
        name: published.pop(name)
        for name in list(published)
        if name.startswith(("sub_mean.", "add_mean."))
    }
    assert not torch.equal(shifts["sub_mean.weight"].squeeze(), torch.eye(3))  # it was trained
    network = CARN(width=len(published["entry.weight"])).eval()
    network.load_state_dict(released.rename("carn", published))
    network.mean.zero_()
    torch.manual_seed(0)
    lr = torch.rand(2, 3, 20, 24)
    before = F.conv2d(lr, shifts["sub_mean.weight"], shifts["sub_mean.bias"])
    expected = F.conv2d(network(before), shifts["add_mean.weight"], shifts["add_mean.bias"])
    folded = classsr(shared, "carn").networks[j - 1](lr)
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-5)


def test_all_urban100_images_can_be_measured(shared: Path) -> None:
    methods = [classsr(shared, "fsrcnn"), arm(shared, "fsrcnn")]
    images = open_images(shared / "mirror/Urban100/HR")
    assert len(images) == 25
    pairs = (measure.make_pair(image, 4, PROTOCOL) for image in images)
    shown = [[show.show(one, pair, 4, at()) for one in methods] for pair in pairs]
    for of_method in zip(*shown, strict=True):
        psnr = np.mean([one.psnr_rgb for one in of_method])
        assert np.isfinite(psnr) and 15 < psnr < 30
        assert all(0 < one.gflops < 1000 for one in of_method)
