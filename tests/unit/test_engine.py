"""The engine: tiles give the whole, budgets are kept to the pixel, halos are wide enough."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from models import ROUTED, Knob, at, build, cut_by, photograph_like, restored
from torch import Tensor, nn

from pcsr import registry
from pcsr.backbones.base import Backbone
from pcsr.benchmarks import reference_pcsr
from pcsr.engine import memory, tiles
from pcsr.engine.cpu import heads as cpu
from pcsr.engine.cpu import onednn
from pcsr.engine.cpu.onednn import Activated, Residual
from pcsr.engine.deploy import deploy
from pcsr.engine.runners import runner
from pcsr.engine.tiles import Tile
from pcsr.errors import UserError
from pcsr.images.levels import levels
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint

LOCAL = [name for name in registry.BACKBONES if not registry.resolve("backbone", name).whole_image]


def together(method: Method, lr: Tensor, knob: Knob, refine: bool, scale: float, **how: Any) -> Any:
    """Put the tiles of one image together: SR, labels and the number of tiles."""
    size = round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)
    sr, labels = torch.full((3, *size), torch.nan), torch.full(size, -1)
    tiles = list(runner(method).tiles(lr, scale, at(knob, refine), **how))
    for tile in tiles:
        rows, columns = tile.sr.shape[-2:]
        here = slice(tile.top, tile.top + rows), slice(tile.left, tile.left + columns)
        assert labels[here].eq(-1).all()  # no pixel comes twice
        sr[:, *here], labels[here] = tile.sr[0], tile.labels[0].long()
    return sr, labels, len(tiles)


def six_tiles(count: int, lr_size: tuple[int, int], *_: Any) -> list[Tile]:
    """Cut as ``cut_to_fit`` does, but small images too, which fit into any memory."""
    (height, width), (down, across) = lr_size, (lr_size[0] // 2, lr_size[1] // 3)
    return [
        Tile(image, top, bottom, left, right)
        for image in range(count)
        for top, bottom in ((0, down), (down, height))
        for left, right in ((0, across), (across, 2 * across), (2 * across, width))
    ]


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(cpu.STRIP, "cpu", 1 << 13)
    monkeypatch.setitem(cpu.SPREAD, "cpu", 1 << 14)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("knob", [-25.0, 25.0])
@pytest.mark.parametrize("scale", [4, 2.7])
def test_every_head_is_what_the_published_steps_give(scale: float, knob: float) -> None:
    """The reference samples one query per HR pixel and knows nothing of a split first layer."""
    method, lr = build("carn", "pcsr"), photograph_like(13, 17)
    explored = method.explore(lr, scale)
    labels = method.route(explored.scores, at(knob), scale)
    sr = method.compose(explored, labels, at(refine=True))
    reference = reference_pcsr.restore(method, lr, scale, at(knob, True))  # type: ignore[arg-type]
    torch.testing.assert_close(sr, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(10, 29), (29, 10)])
@pytest.mark.parametrize("scale", [1.02, 2.02])
def test_a_scale_that_is_whole_along_one_side(size: tuple[int, int], scale: float) -> None:
    """10 pixels become 10 or 20, that is one or two each, but 29 become 30 or 59."""
    method, lr = build("fsrcnn", "pcsr"), photograph_like(*size)
    explored = method.explore(lr, scale)
    labels = method.route(explored.scores, at(0.0), scale)
    sr = method.compose(explored, labels, at(refine=True))
    found = restored(method, lr, scale, 0.0, refine=True)
    assert torch.equal(found.labels.long(), labels)
    torch.testing.assert_close(found.sr, sr, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [4, 2.7])
@pytest.mark.parametrize("backbone", ROUTED)
def test_tiles_give_the_whole_image(
    backbone: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, lr = build(backbone, "pcsr", scale=scale), photograph_like(47, 52)
    costs = method.costs((47, 52), scale)
    budget = OperatingPoint(
        budget=costs.total([int(0.6 * 47 * 52 * scale**2), 900]).engine / (47 * 52)
    )
    for knob in (0.0, "adaptive", budget):
        for refine in (False, True):
            whole, of_whole, one = together(method, lr, knob, refine, scale)
            with monkeypatch.context() as patch:
                cut_by(patch, six_tiles)
                sr, labels, several = together(method, lr, knob, refine, scale, limit=1e9)
            assert one == 1 and several == 6
            assert (labels != of_whole).double().mean() < 1e-4
            same = labels == of_whole
            assert knob == 0.0 or len(labels.unique()) == 2
            if same.all():
                torch.testing.assert_close(sr, whole, rtol=0, atol=1e-5)
            assert (levels(sr) == levels(whole)).double().mean() >= 0.99999


@pytest.mark.parametrize("backbone", LOCAL)
def test_tiles_of_an_original(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, lr = build(backbone, "original"), photograph_like(47, 52)
    whole = restored(method, lr, 4, None, refine=False).sr[0]
    cut_by(monkeypatch, six_tiles)
    sr, count = torch.full_like(whole, torch.nan), 0
    for tile in runner(method).tiles(lr, 4, at(None, False), 1e9):
        height, width = tile.sr.shape[-2:]
        here = slice(tile.top, tile.top + height), slice(tile.left, tile.left + width)
        sr[:, *here] = tile.sr[0]
        count += 1
    assert count == 6
    torch.testing.assert_close(sr, whole, rtol=0, atol=1e-5)


def test_images_of_a_batch_are_decided_together_and_cut_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = build("fsrcnn", "pcsr")
    lr = torch.cat([photograph_like(30, 34), photograph_like(30, 34).flip(-1)])
    whole = restored(method, lr, 4, "adaptive", refine=True)
    cut_by(monkeypatch, six_tiles)
    sr = torch.full_like(whole.sr, torch.nan)
    for tile in runner(method).tiles(lr, 4, at("adaptive", True), 1e9):
        height, width = tile.sr.shape[-2:]
        here = slice(tile.top, tile.top + height), slice(tile.left, tile.left + width)
        sr[tile.image, :, *here] = tile.sr[0]
    torch.testing.assert_close(sr, whole.sr, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("backbone", LOCAL)
def test_a_halo_is_as_wide_as_what_a_pixel_depends_on(backbone: str, tail: bool) -> None:
    """A change of one LR pixel reaches no further, and as far in a network that lets it pass."""
    scale = 4 if tail else None
    network: Backbone = registry.resolve("backbone", backbone)(width=8, scale=scale)
    network.eval().double()
    for parameter in network.parameters():
        parameter.abs_().add_(0.01)  # nothing cancels, and ReLU cuts nothing off
    halo = network.halo + (network.tail_halo if tail else 0)
    side, centre = 2 * halo + 9, halo + 4
    lr = torch.rand(1, 3, side, side, dtype=torch.float64)
    other = lr.clone()
    other[..., centre, centre] += 1.0
    for run in (network, deploy(network)):
        apart = (run(other) - run(lr)).abs().amax(dim=(0, 1))
        assert apart.isfinite().all()
        reached = (apart > 0).nonzero() // (scale or 1) - centre
        assert -reached.min() <= halo and reached.max() <= halo
        assert reached.max() >= halo - 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_fsrcnn_is_the_same_network_in_fewer_steps(scale: int) -> None:
    network = build("fsrcnn", "original", scale=scale).network
    fast = deploy(network)
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in fast.modules())
    assert any(isinstance(module, nn.ConvTranspose2d) for module in network.modules())
    for size in ((1, 1), (2, 5), (23, 19)):
        lr = photograph_like(*size)
        torch.testing.assert_close(fast(lr), network(lr))  # values reach 10
    batch = torch.rand(2, 3, 6, 7).double()
    exact = deploy(network.double())(batch)
    torch.testing.assert_close(exact, network(batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", ["fsrcnn", "carn", "srresnet"])
def test_activations_and_sums_in_the_pass_of_a_convolution_change_no_bit(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding decides where a pixel goes, so an encoder must not round otherwise."""
    network: Backbone = registry.resolve("backbone", backbone)(scale=None).eval()
    network = network.to(memory_format=torch.channels_last)
    lr = photograph_like(37, 52)
    fast = deploy(network)
    passes = [m for m in fast.modules() if isinstance(m, Activated | Residual)]
    together = fast(lr)
    monkeypatch.setattr(onednn, "_fusible", lambda *_: False)
    apart = fast(lr)
    assert passes and torch.equal(together, apart)


def test_a_batch_norm_of_several_processes_is_folded_like_another() -> None:
    network: Backbone = registry.resolve("backbone", "carn")(width=8, scale=None).eval()
    lr = torch.rand(1, 3, 9, 9)
    alone = deploy(network)(lr)
    together = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in together.modules())
    assert torch.equal(deploy(together)(lr), alone)


@pytest.mark.parametrize("size", [(40, 70), (17, 200), (33, 33)])
def test_tiles_cover_every_pixel_once(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SMALLEST", 6)
    found = tiles.cut_to_fit(2, size, 5, lambda outer, inner: outer, 900)
    seen = torch.zeros(2, *size)
    for part in found:
        seen[part.image, part.top : part.bottom, part.left : part.right] += 1
        grown = part.grown(5, size)
        assert grown.size[0] * grown.size[1] <= 900
    assert (seen == 1).all()
    assert len(tiles.cut_to_fit(1, size, 5, lambda outer, inner: outer, 1e9)) == 1


def test_tiles_that_never_fit_are_an_error() -> None:
    with pytest.raises(UserError, match=r"the smallest tiles of the image need .* MiB are left"):
        tiles.cut_to_fit(1, (64, 64), 20, lambda outer, inner: 1000.0 * outer, 5000)


def test_a_part_keeps_to_the_image() -> None:
    part = Tile(0, 2, 5, 0, 7)
    assert part.grown(3, (10, 8)) == Tile(0, 0, 8, 0, 8)
    values = torch.arange(64).view(8, 8)
    assert torch.equal(part.inside(part.grown(3, (10, 8)), values), values[2:5, :7])


def test_memory_is_counted_while_it_is_held() -> None:
    with memory.Held() as held:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second[:10]  # a view takes nothing
        assert held.peak == 8000 and third.shape == (10,)
        del second, third
        torch.zeros(500)
        assert held.peak == 8000


def test_a_budget_is_met_to_the_pixel() -> None:
    method, lr = build("carn", "pcsr"), photograph_like(24, 31)
    costs = method.costs((24, 31), 4)
    heavy = costs.branch[1].engine - costs.branch[0].engine
    for pixels in (0, 1, 777, 16 * 24 * 31):
        allowed = costs.total([16 * 24 * 31 - pixels, pixels]).engine
        found = restored(
            method, lr, 4, OperatingPoint(budget=(allowed + 0.5 * heavy) / (24 * 31)), refine=True
        )
        assert int(found.labels.long().sum()) == pixels
    with pytest.raises(UserError, match=r"the budget is below the cheapest branch everywhere"):
        restored(
            method, lr, 4, OperatingPoint(budget=0.9 * costs.shared.engine / (24 * 31)), refine=True
        )
