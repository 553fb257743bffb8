"""ARM: widths drawn by cost, the edge score, the table of PSNR by edges, and the choice by it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SEVERAL_TILES, at, build, photograph_like, restored, saved, tiles_of
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from pcsr import metrics, registry
from pcsr.baselines.arm import ARM, BINS, PSNR_OF_EQUAL, edge_score
from pcsr.config.models import ModelConfig
from pcsr.errors import UserError
from pcsr.evaluation import measure
from pcsr.images.levels import levels, round_8bit
from pcsr.training.loop import Step
from pcsr.training.tabulate import tabulate


@pytest.fixture
def arm() -> ARM:
    built = build("fsrcnn", "arm")
    assert isinstance(built, ARM)
    return built


def test_a_width_is_drawn_in_proportion_to_its_squared_cost(arm: ARM) -> None:
    times = 4000
    draw = arm.stages[0].draw
    assert draw is not None
    drawn = [draw(np.random.default_rng((0, step))) for step in range(times)]
    squared = np.array([cost.paper for cost in arm.network.costs()]) ** 2
    expected = times * squared / squared.sum()
    assert expected.min() > 100
    apart = np.abs([Counter(drawn)[width] for width in range(3)] - expected)
    assert (apart < 4 * np.sqrt(expected)).all()  # four standard deviations of a count
    # The generator is the only source of chance.
    assert [draw(np.random.default_rng((0, s))) for s in range(50)] == drawn[:50]


@torch.no_grad()
def test_the_loss_is_l1_at_the_drawn_width(arm: ARM) -> None:
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    step = Step(arm, arm.stages[0])
    for width in range(3):
        expected = (arm.upscale(width + 1, lr) - hr).abs().mean()
        torch.testing.assert_close(step(lr, hr, width)["loss"], expected)
    assert torch.equal(step(lr, hr, None)["loss"], step(lr, hr, 2)["loss"])


def test_edge_score_is_its_definition() -> None:
    tiles = tiles_of(photograph_like(*SEVERAL_TILES))
    assert edge_score(torch.full((1, 3, 32, 32), 0.3)).tolist() == [0]
    expected = []
    for tile in levels(tiles).numpy().astype(int):
        grey = (4899 * tile[0] + 9617 * tile[1] + 1868 * tile[2] + 8192) >> 14
        kernel = [[2, 0, 2], [0, -8, 0], [2, 0, 2]]
        # "mirror" does not repeat the border pixel.
        expected.append(np.minimum(np.abs(ndimage.correlate(grey, kernel, mode="mirror")), 255))
    score = edge_score(tiles)
    assert score.tolist() == pytest.approx([edges.mean() for edges in expected], abs=1e-9)
    assert np.max(expected) == 255  # some edges saturate
    # It is that of the 8-bit tile.
    assert torch.equal(edge_score(round_8bit(tiles) + 0.3 / 255), score)


class Known(ARM):
    """Branch j is off by that many levels everywhere: nearest-neighbour enlargement plus an error.

    On a tile whose first pixel is black it is off by half as much.
    """

    errors = (16, 8, 4, 0)

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        error = torch.full((len(lr), 1, 1, 1), self.errors[branch] / 255)
        error[lr[:, :, 0, 0].sum(dim=1) == 0] /= 2
        return interpolate(lr, scale_factor=4.0, mode="nearest") + error


def known(*tiles: Tensor) -> tuple[ARM, dict[str, object]]:
    """A method whose table was made from these LR tiles (3, 32, 32), and what it recorded."""
    built = build("fsrcnn", "arm")
    built.__class__ = Known
    images = [(t[None], interpolate(t[None], scale_factor=4.0, mode="nearest")) for t in tiles]
    return built, dict(built.tabulate(images))  # type: ignore[return-value]


def dark_stripes(level: int) -> Tensor:
    """Alternating black and dark grey columns, the first black."""
    return (torch.arange(32) % 2 * level / 255).expand(3, 32, 32).contiguous()


FLAT = torch.full((3, 32, 32), 100 / 255)
OF_ERROR = [20 * np.log10(255 / error) for error in (16, 8, 4)]  # dB
OF_HALF = [20 * np.log10(255 / error) for error in (8, 4, 2)]


def test_table_of_two_tiles_with_28_empty_bins_between_them() -> None:
    built, recorded = known(FLAT, dark_stripes(20))
    edges = float(edge_score(dark_stripes(20)[None]))
    assert edges == 160  # 8 * 20: the diagonal neighbours are of the other kind
    assert recorded == {"tiles": 2, "tiles_per_bin": [1, *[0] * 28, 1]}
    centres = (np.arange(BINS) + 0.5) * edges / BINS
    assert built.edges.numpy() == pytest.approx(centres)
    for branch in range(3):  # empty bins take their values from their neighbours, linearly
        between = np.linspace(OF_ERROR[branch], OF_HALF[branch], BINS)
        assert built.psnr[branch].numpy() == pytest.approx(between)
    # The most expensive branch restores exactly, which counts as much as can be counted.
    assert (built.psnr[3] == PSNR_OF_EQUAL).all()


def test_table_of_flat_images_alone() -> None:
    built, recorded = known(FLAT, FLAT / 2)
    assert recorded["tiles"] == 2 and recorded["tiles_per_bin"] == [2, *[0] * 29]
    assert built.psnr[:3].T.numpy() == pytest.approx(np.tile(OF_ERROR, (BINS, 1)))
    assert built.edges.isfinite().all() and (built.edges.diff() > 0).all()
    # Any image can be routed by it, even one with edges.
    scores = built.score(tiles_of(photograph_like(*SEVERAL_TILES)))
    assert scores[:, :3].numpy() == pytest.approx(np.tile(OF_ERROR, (12, 1)))


@torch.no_grad()
def test_table_is_the_mean_psnr_of_each_bin(arm: ARM) -> None:
    images = [photograph_like(*size) for size in (SEVERAL_TILES, (32, 60), (40, 33))]
    pairs = [(lr, interpolate(lr, scale_factor=4.0, mode="bilinear")) for lr in images]
    recorded = arm.tabulate(pairs)
    edges, psnr = [], []
    for lr, hr in pairs:
        for y in sorted({*range(0, lr.shape[2] - 31, 28), lr.shape[2] - 32}):
            for x in sorted({*range(0, lr.shape[3] - 31, 28), lr.shape[3] - 32}):
                tile = lr[:, :, y : y + 32, x : x + 32]
                target = image(hr[:, :, 4 * y : 4 * y + 128, 4 * x : 4 * x + 128])
                edges.append(float(edge_score(tile)))
                measured = [image(arm.upscale(j, tile)) for j in range(arm.branches)]
                psnr.append([metrics.psnr_rgb(sr, target, 4) for sr in measured])
    assert recorded["tiles"] == len(edges) == 12 + 2 + 4
    bins = [min(int(edge / (max(edges) / BINS)), BINS - 1) for edge in edges]
    assert recorded["tiles_per_bin"] == [bins.count(one) for one in range(BINS)]
    for one in set(bins):
        expected = np.mean([p for p, where in zip(psnr, bins, strict=True) if where == one], axis=0)
        assert arm.psnr[:, one].numpy() == pytest.approx(expected, abs=0.01)


def image(x: Tensor) -> np.ndarray:
    return levels(x[0]).permute(1, 2, 0).numpy()


def test_choice_is_its_formula(arm: ARM) -> None:
    torch.manual_seed(0)
    scores = 30 + 3 * torch.rand(2, 4, 3, 5, dtype=torch.float64)
    costs = [cost.paper for cost in arm.tile_costs()[1]]
    for knob in (0.0, 0.3, 2.0, 40.0):
        eta = knob * costs[-1]
        worth = [eta * scores[:, j] - cost for j, cost in enumerate(costs)]
        assert torch.equal(arm.route(scores, at(knob), 4), torch.stack(worth).argmax(dim=0))
    assert (arm.route(scores, at(0.0), 4) == 0).all()


def test_the_nearest_bin_centre_is_read(arm: ARM) -> None:
    tiles = tiles_of(photograph_like(*SEVERAL_TILES))
    for tile, score in zip(tiles, arm.score(tiles), strict=True):
        apart = (arm.edges - edge_score(tile[None])).abs().tolist()
        assert torch.equal(score, arm.psnr[:, apart.index(min(apart))])


def test_no_table_and_no_knob_are_refused(arm: ARM) -> None:
    lr = photograph_like(32, 32)
    for knob in ("adaptive", None):
        with pytest.raises(UserError, match="arm decides by its knob alone"):
            restored(arm, lr, 4, knob, refine=False)
    fresh = registry.build(ModelConfig(backbone="fsrcnn", method="arm", widths=(8, 16)))
    with pytest.raises(UserError, match="no PSNR table yet; build it with `pcsr tabulate`"):
        restored(fresh, lr, 4, 2.0, refine=False)
    # Its training can be validated all the same: by the full width.
    pair = measure.Pair("it", lr, np.zeros((128, 128, 3), np.uint8))
    assert measure.validate(fresh, fresh.stages[0], [pair], 4, refine=False)["heavy_share"] == 1


def test_other_methods_keep_no_table(tmp_path: Path) -> None:
    path = saved(build("fsrcnn", "classsr"), tmp_path / "classsr.safetensors")
    with pytest.raises(UserError, match="classsr keeps no table; drop `table: true`"):
        tabulate(weights=path, images=path, out=tmp_path / "out.safetensors", device="cpu")
