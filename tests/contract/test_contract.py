"""What every method guarantees: dense and sparse paths agree, counted and executed FLOPs agree."""

from itertools import product

import pytest
import torch
from models import KNOBS, ROUTED, SEVERAL_TILES, Knob, at, build, photograph_like, restored
from torch import Tensor

from pcsr import metrics, registry
from pcsr.config.models import HeadConfig
from pcsr.errors import UserError
from pcsr.evaluation import measure
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Method
from pcsr.methods.tiled import Tiled
from pcsr.training import contract
from pcsr.training.loop import Step

BACKBONES = list(registry.BACKBONES)
METHODS = list(registry.METHODS)
TILED = [name for name in METHODS if issubclass(registry.resolve("method", name), Tiled)]

all_models = pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (backbone, name)
        for name in METHODS
        for backbone in (BACKBONES if name == "original" else ROUTED)
    ],
)


def assert_paths_agree(
    method: Method, lr: Tensor, knob: Knob, refine: bool, scale: float = 4
) -> Tensor:
    """Compose what explore gives, and restore; returns the image."""
    return contract.require_paths_agree(method, lr, at(knob, refine), scale)


@all_models
@torch.no_grad()
def test_routed_work_gives_the_composed_image(backbone: str, name: str) -> None:
    method = build(backbone, name)
    lr = photograph_like(40, 56) if name in TILED else photograph_like(17, 22)
    refinements = (False, True) if method.refines else (True,)
    images = [
        assert_paths_agree(method, lr, knob, refine)
        for knob in KNOBS[name]
        for refine in refinements
    ]
    if method.knobs:  # else agreement would say little
        assert not torch.equal(images[0], images[-1])


@pytest.mark.parametrize("size", [SEVERAL_TILES, (60, 88), (33, 32), (20, 24), (9, 70)])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    """Whole numbers of tiles and others, and images smaller than a tile."""
    method = build("fsrcnn", name)
    sr = assert_paths_agree(method, photograph_like(*size), KNOBS[name][-1], refine=True)
    assert sr.shape == (1, 3, 4 * size[0], 4 * size[1])


@all_models
@torch.no_grad()
def test_flops_are_those_executed(backbone: str, name: str) -> None:
    method = build(backbone, name)
    points = [at(knob, True) for knob in KNOBS[name]]
    for size in ((19, 23), *([SEVERAL_TILES] if name in TILED else [])):
        units = contract.require_flops_executed(method, photograph_like(*size), points, 4)
    assert name == "original" or min(units) > 0  # the last knob really goes all ways


@torch.no_grad()
def test_flops_at_a_fractional_scale_and_with_three_heads() -> None:
    heads = tuple(HeadConfig(width=w, depth=2) for w in (6, 10, 20))
    method = build("fsrcnn", "pcsr", heads=heads, scale=2.7)
    points = [at(knob, True) for knob in (-1.0, 0.0, "adaptive")]
    contract.require_flops_executed(method, photograph_like(19, 23), points, 2.7)


@pytest.mark.parametrize("scale", [2, 3, 4, 1.5, 2.7])
@torch.no_grad()
def test_any_scale(scale: float) -> None:
    lr = photograph_like(20, 15)
    size = (round(20 * scale), round(15 * scale))
    pcsr = build("fsrcnn", "pcsr", scale=scale)
    assert pcsr.explore(lr, scale).candidates.shape == (2, 1, 3, *size)
    assert_paths_agree(pcsr, lr, 0.0, refine=False, scale=scale)
    if scale != int(scale):
        return
    for backbone in BACKBONES:
        original = build(backbone, "original", scale=scale)
        assert restored(original, lr, scale, None, refine=False).sr.shape == (1, 3, *size)
    for backbone in ROUTED:
        for name in TILED:
            tiled = build(backbone, name, scale=scale)
            sr = assert_paths_agree(tiled, lr, KNOBS[name][-1], refine=False, scale=scale)
            assert sr.shape == (1, 3, *size)


@pytest.mark.parametrize("name", ["original", *TILED])
def test_a_tail_has_one_scale(name: str) -> None:
    with pytest.raises(UserError, match=f"this fsrcnn-{name} was built for x4"):
        restored(build("fsrcnn", name), photograph_like(32, 32), 3, KNOBS[name][-1], refine=False)
    with pytest.raises(UserError, match=r"fsrcnn has no tail for x2\.5"):
        build("fsrcnn", name, scale=2.5)


@torch.no_grad()
def test_more_than_two_heads() -> None:
    heads = tuple(HeadConfig(width=w, depth=d) for w, d in ((6, 1), (10, 2), (20, 3), (40, 3)))
    method = build("fsrcnn", "pcsr", heads=heads)
    assert method.branches == 4
    lr = photograph_like(16, 16)
    shares = method.cost_shares(4)  # type: ignore[operator]
    assert shares == sorted(shares) and sum(shares) == pytest.approx(1)
    for knob in KNOBS["pcsr"]:
        assert_paths_agree(method, lr, knob, refine=True)
    scores = method.explore(lr, 4).scores
    assert (method.route(scores, at(25.0), 4) == 0).all()
    assert (method.route(scores, at(-25.0), 4) == 3).all()
    assert len(method.route(scores, at("adaptive"), 4).unique()) > 1


@all_models
@torch.no_grad()
def test_a_batch_is_its_images(backbone: str, name: str) -> None:
    method, knob = build(backbone, name), KNOBS[name][-1]
    image = photograph_like(40, 56) if name in TILED else photograph_like(17, 15)
    images = [image, image.flip(-1)]
    batch = torch.cat(images)
    together = restored(method, batch, 4, knob, refine=True)
    apart = [restored(method, image, 4, knob, refine=True) for image in images]
    assert torch.equal(together.labels, torch.cat([one.labels for one in apart]))
    contract.require_same_image(method, together.sr, torch.cat([one.sr for one in apart]))
    assert_paths_agree(method, batch, knob, refine=True)


@pytest.mark.parametrize("name", TILED)
@torch.no_grad()
def test_every_tile_is_restored_as_if_it_were_alone(name: str) -> None:
    method, knob = build("fsrcnn", name), KNOBS[name][-1]
    lr = photograph_like(*SEVERAL_TILES)
    whole = restored(method, lr, 4, knob, refine=False)
    sums, counts = torch.zeros_like(whole.sr), torch.zeros_like(whole.sr)
    places = product(enumerate((0, 28, 32)), enumerate((0, 28, 56, 60)))
    for (row, y), (column, x) in places:
        alone = restored(method, lr[..., y : y + 32, x : x + 32], 4, knob, refine=False)
        assert whole.labels[0, row, column] == alone.labels
        here = (..., slice(4 * y, 4 * y + 128), slice(4 * x, 4 * x + 128))
        sums[here] += alone.sr
        counts[here] += 1
    contract.require_same_image(method, whole.sr, sums / counts)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "original"])
@torch.no_grad()
def test_labels_of_units_become_labels_of_pixels(name: str) -> None:
    method = build("fsrcnn", name)
    lr = photograph_like(*SEVERAL_TILES)
    labels = restored(method, lr, 4, KNOBS[name][-1], refine=False).labels
    pixels = method.pixel_labels(labels, SEVERAL_TILES, 4)
    assert pixels.shape == (1, 256, 368)
    assert set(pixels.unique().tolist()) == set(labels.unique().tolist())
    assert method.lr_pixels(SEVERAL_TILES) == (12 * 32 * 32 if name in TILED else 64 * 92)


@all_models
def test_each_stage_trains_its_part_and_no_other(backbone: str, name: str) -> None:
    contract.stages(build(backbone, name))


def test_statistics_of_frozen_networks_stay_and_of_trained_ones_move() -> None:
    """BatchNorm: the trained branch of ClassSR alone gathers statistics."""
    method = build("carn", "classsr")
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    for number, stage in enumerate(method.stages):
        before = contract._state(method)
        Step(method, stage)(lr, hr, None)
        moved = {key for key, value in method.state_dict().items() if not value.equal(before[key])}
        assert all(key.startswith(f"networks.{number}.") for key in moved)
        assert any("running_mean" in key for key in moved) == (stage.name != "joint")


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_stage_is_validated_on_its_branch_or_at_the_default_point(name: str) -> None:
    method = build("fsrcnn", name)
    lr = photograph_like(40, 56)
    hr = photograph_like(160, 224)[0].permute(1, 2, 0).mul(255).byte().numpy()
    exploration = method.explore(lr, 4)
    decided = method.route(exploration.scores, at(method.points[0]), 4)
    for stage in method.stages:
        everywhere = decided if stage.branch is None else torch.full_like(decided, stage.branch)
        assert everywhere.min() >= 0 and everywhere.max() < method.branches
        sr = to_uint8(method.compose(exploration, everywhere, at(refine=False)))
        found = measure.validate(method, stage, [measure.Pair("it", lr, hr)], 4, refine=False)
        assert found["psnr_rgb"] == pytest.approx(metrics.psnr_rgb(sr, hr, 4))
        assert found["heavy_share"] == (everywhere == method.branches - 1).double().mean()


@pytest.mark.parametrize(("branches", "scale"), [(2, 4), (3, 4), (2, 2.5), (3, 3)])
def test_pcsr_losses_are_their_formulas(branches: int, scale: float) -> None:
    heads = tuple(HeadConfig(width=4 * (j + 1), depth=j + 1) for j in range(branches))
    method = build("fsrcnn", "pcsr", heads=heads)
    side = round(6 * scale)
    lr, hr = torch.rand(2, 3, 6, 6), torch.rand(2, 3, side, side)
    stage0, stage1 = (Step(method, stage) for stage in method.stages)
    with torch.no_grad():
        dense = method.explore(lr, scale)
        all_heavy = stage0(lr, hr, None)["loss"]
        mixed = stage1(lr, hr, None)
    torch.testing.assert_close(all_heavy, (dense.candidates[-1] - hr).abs().mean())
    probability = dense.scores.movedim(1, 0)[:, :, None]
    mixture = (probability * dense.candidates).sum(dim=0)
    l1 = (mixture - hr).abs().mean()
    pixels = 2 * side * side
    even = pixels / branches
    off = (dense.scores.sum(dim=(0, 2, 3)) - even).abs() / even
    # The paper's term is the heavy head's; with two heads both have the same.
    balance = off[-1] if branches == 2 else off.mean()
    torch.testing.assert_close(mixed["l1"], l1)
    torch.testing.assert_close(mixed["balance"], balance)
    torch.testing.assert_close(mixed["loss"], 1000 * l1 + 3 * balance)
