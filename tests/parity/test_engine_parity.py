"""The engine and PCSR as it was published give the same photograph; so do tiles of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import Knob, at, cut_by, restored
from reference import released, srresnet

from pcsr.benchmarks import reference_pcsr
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.engine.runners import runner
from pcsr.engine.tiles import cut_to_fit
from pcsr.evaluation import measure
from pcsr.images.levels import to_uint8
from pcsr.methods.pcsr import PCSR


def lr_of_1232(shared: Path, side: int | None = None) -> torch.Tensor:
    (image,) = open_images(shared / "mirror/released/PCSR/results/HR.png")
    lr = measure.make_pair(image, 4, ProtocolConfig(crop="none")).lr
    return lr if side is None else lr[..., 60 : 60 + side, 100 : 100 + side]


def assert_same_levels(ours: np.ndarray, theirs: np.ndarray, identical: float) -> None:
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.max() <= 1
    assert (apart == 0).mean() >= identical


@pytest.mark.shared
@pytest.mark.parametrize("backbone", ["carn", "fsrcnn", "srresnet"])
@torch.no_grad()
def test_same_image_as_defined(shared: Path, backbone: str) -> None:
    """At most one grey level apart, on 99.99 % of the values none.

    The published code rounds coordinates, so that a pixel in thousands there goes another way.
    """
    if backbone == "srresnet":
        method, lr = srresnet(shared)[0], lr_of_1232(shared, 128)
    else:
        method, lr = released(shared, f"{backbone}-pcsr-phase1"), lr_of_1232(shared)
    assert isinstance(method, PCSR)
    knobs: list[Knob] = [0.0, 1.0, "adaptive"]
    explored = method.explore(lr, 4)
    for knob in knobs:
        ours = to_uint8(restored(method, lr, 4, knob, refine=True).sr)
        labels = method.route(explored.scores, at(knob), 4)
        dense = to_uint8(method.compose(explored, labels, at(refine=True)))
        assert_same_levels(ours, dense, 0.9999)
        if knob == 0.0:
            theirs = to_uint8(reference_pcsr.restore(method, lr, 4, at(knob, True)))
            assert (ours == theirs).mean() > 0.999


@pytest.mark.shared
@torch.no_grad()
def test_tiles_of_a_photograph(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, lr = released(shared, "carn-pcsr-phase1"), lr_of_1232(shared)
    whole = restored(method, lr, 4, "adaptive", refine=True)
    cut_by(
        monkeypatch,
        lambda count, size, halo, *_: cut_to_fit(count, size, halo, lambda o, i: o, 40_000),
    )
    sr = torch.full_like(whole.sr, torch.nan)
    tiles = list(runner(method).tiles(lr, 4, at("adaptive", True), 1e12))
    assert len(tiles) > 3
    for tile in tiles:
        rows, columns = tile.sr.shape[-2:]
        sr[..., tile.top : tile.top + rows, tile.left : tile.left + columns] = tile.sr
    torch.testing.assert_close(sr, whole.sr, rtol=0, atol=1e-5)
    assert_same_levels(to_uint8(sr), to_uint8(whole.sr), 0.99999)
