"""Networks that see the whole image: run whole, warned of in tiles, counted at their size."""

import logging

import pytest
import torch
from models import at, build, cut_by, photograph_like, restored
from torch import Tensor, nn

from pcsr import flops, registry
from pcsr.config.models import HeadConfig
from pcsr.engine.deploy import deploy
from pcsr.engine.runners import runner
from pcsr.engine.tiles import cut_to_fit
from pcsr.errors import UserError
from pcsr.evaluation.points import original_flops
from pcsr.methods.base import Method

WHOLE = [name for name in registry.BACKBONES if registry.resolve("backbone", name).whole_image]
UNWIDENED = [name for name in registry.BACKBONES if not registry.resolve("backbone", name).widens]
HEADS = (HeadConfig(width=6, depth=1), HeadConfig(width=12, depth=2))


def encoding(backbone: str) -> Method:
    """PCSR on a backbone that it has no options for."""
    return build(backbone, "pcsr", width=20, heads=HEADS, classifier=HeadConfig(width=0, depth=0))


def in_tiles(method: Method, lr: Tensor, limit: float | None) -> tuple[Tensor, int]:
    tiles = list(runner(method).tiles(lr, 4, at(0.0 if method.knobs else None), limit))
    sr = torch.full((1, 3, 4 * lr.shape[2], 4 * lr.shape[3]), torch.nan)
    for tile in tiles:
        rows, columns = tile.sr.shape[-2:]
        sr[..., tile.top : tile.top + rows, tile.left : tile.left + columns] = tile.sr
    return sr, len(tiles)


def test_there_are_some() -> None:
    assert WHOLE == ["efdn", "safmnv3"]


@pytest.mark.parametrize("backbone", WHOLE)
@torch.no_grad()
def test_tiles_are_warned_of_and_close(
    backbone: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lr = photograph_like(49, 90)
    for method in (build(backbone, "original"), encoding(backbone)):
        caplog.clear()
        whole, one = in_tiles(method, lr, 1e12)
        assert one == 1 and not caplog.records
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "pcsr"):
            # Three tiles a side, the lowest one a single row besides its halo.
            cut_by(patch, lambda n, size, *_: cut_to_fit(n, size, 0, lambda o, i: i, 24 * 45))
            sr, several = in_tiles(method, lr, 1e12)
        assert several > 1 and sr.isfinite().all()
        (warning,) = caplog.messages
        assert f"does not fit in memory: it is computed in {several} tiles, and the" in warning
        assert (sr - whole).abs().max() > 0 and (sr - whole).abs().mean() < 0.05


@pytest.mark.parametrize("backbone", WHOLE)
@torch.no_grad()
def test_an_image_that_is_too_small_is_an_error_that_says_so(backbone: str) -> None:
    method = build(backbone, "original")
    least = registry.resolve("backbone", backbone).least_side
    assert restored(method, photograph_like(least, least + 3), 4, None).sr.isfinite().all()
    with pytest.raises(UserError, match=rf"at least {least} pixels a side, and this one is 30x"):
        restored(method, photograph_like(least - 1, 30), 4, None)


@pytest.mark.parametrize("backbone", WHOLE)
def test_flops_are_counted_at_the_size_that_runs(backbone: str) -> None:
    method = build(backbone, "original")
    for size in ((32, 32), (37, 50)):
        counted = flops.count(method.network, torch.zeros(1, 3, *size))  # type: ignore[arg-type]
        assert method.costs(size, 4).total([1]) == counted
    tile, image = (method.costs((side, side), 4).branch[0].paper for side in (32, 45))
    assert image != pytest.approx(tile * (45 / 32) ** 2, rel=1e-6)
    assert original_flops(method, 4) == tile / 32**2


@pytest.mark.parametrize("backbone", UNWIDENED)
@torch.no_grad()
def test_what_cannot_be_widened_runs_in_half_precision(backbone: str) -> None:
    """Their concatenations would join channels to the wrong weights if zeros stood between."""
    network = registry.resolve("backbone", backbone)(scale=4).eval()
    lr = photograph_like(16, 17)
    half = deploy(network, torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    assert next(network.parameters()).dtype == torch.float32
    exact = network(lr)
    assert (half(lr.bfloat16()).float() - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("backbone", UNWIDENED)
@torch.no_grad()
def test_pcsr_reads_their_features(backbone: str) -> None:
    """An encoder's features may have another width than its layers."""
    method, lr = encoding(backbone), photograph_like(17, 19)
    first = next(m for m in method.classifier.modules() if isinstance(m, nn.Linear))  # type: ignore[union-attr]
    assert first.in_features >= method.encoder.width  # type: ignore[union-attr, operator]
    explored = method.explore(lr, 4)
    labels = method.route(explored.scores, at(0.0), 4)
    sr = method.compose(explored, labels, at())
    torch.testing.assert_close(restored(method, lr, 4, 0.0).sr, sr, rtol=0, atol=1e-5)
