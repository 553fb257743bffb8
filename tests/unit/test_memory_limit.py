"""A memory limit keeps a margin, and a refusal names a limit that would suffice."""

import re

import pytest
import torch
from models import KNOBS, at, build, photograph_like

from pcsr import registry, runtime
from pcsr.engine import memory, tiles
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.super_resolve import SuperResolver
from pcsr.methods.tiled import Tiled
from pcsr.routing import OperatingPoint

TILED = [name for name in registry.METHODS if issubclass(registry.resolve("method", name), Tiled)]


def test_a_limit_keeps_a_margin() -> None:
    for text, count in (("1GiB", 2**30), ("800MiB", 800 * 2**20), ("12345678", 12345678)):
        limit = runtime.read_bytes(text)
        assert limit is not None and 0.9 * count < limit < 0.95 * count
    for count in (1, 12345678, 2**30 - 1, 2**40):
        named = runtime.read_bytes(runtime.size_text(count))
        assert named is not None and count <= named < 1.01 * count + 2**21


@pytest.mark.parametrize("backbone", ["fsrcnn", "carn", "srresnet"])
def test_a_refusal_names_a_limit_that_would_do(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = 2**28
    monkeypatch.setattr(runtime, "used_memory", lambda device: used)  # as in another process
    lr = torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    points = {
        "original": [OperatingPoint()],
        "pcsr": [OperatingPoint(0.0), OperatingPoint(None, True)],
        **({name: [at(KNOBS[name][-1])] for name in TILED} if backbone == "fsrcnn" else {}),
    }
    for method, several in points.items():
        fast = runner(build(backbone, method).eval())
        for point in several:
            for text in ("1KiB", "272.5MiB"):
                with pytest.raises(UserError, match="MiB are left; give more memory") as refused:
                    SuperResolver(fast, 4, point, runtime.read_bytes(text)).tensor(lr)
                (named,) = re.findall(r"--max-memory (\d+MiB) would be enough", str(refused.value))
                limit = runtime.read_bytes(named)
                done = SuperResolver(fast, 4, point, limit).tensor(lr)
                assert done.sr.shape == (96, 160, 3)


@pytest.mark.parametrize("name", TILED)
@torch.no_grad()
def test_a_tile_method_stays_below_its_limit_with_the_same_result(name: str) -> None:
    lr, point = photograph_like(190, 300), at(KNOBS[name][-1])
    fast = runner(build("fsrcnn", name))
    with memory.Held() as held:
        whole = fast.run(lr, 4, point)
    # Room for batches of eight tiles, as without a limit, and of one.
    for limit, apart in ((15 * 2**20, 0.0), (33 * 2**18, 1.001 / 255)):
        assert held.peak > limit
        with memory.Held() as limited:
            for tile in fast.tiles(lr, 4, point, limit):
                del tile  # as soon as it is written
        assert limited.peak <= limit
        strips = list(fast.tiles(lr, 4, point, limit))
        assert [strip.top for strip in strips] == [112 * row for row in range(6)] + [632]
        assert (torch.cat([strip.sr for strip in strips], dim=2) - whole.sr).abs().max() <= apart
        assert torch.equal(torch.cat([strip.labels for strip in strips]), whole.labels)


@torch.no_grad()
def test_units_are_counted_once_however_an_image_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "used_memory", lambda device: 0)
    monkeypatch.setattr(tiles, "SMALLEST", 4)
    lr = photograph_like(64, 92)
    for name in ("original", *TILED):
        fast, point = runner(build("fsrcnn", name)), at(KNOBS[name][-1])
        whole, cut = (
            SuperResolver(fast, 4, point, limit).tensor(lr, keep_routing=True)
            for limit in (2**40, 10 * 2**20)
        )
        assert (
            whole.units
            == cut.units
            == torch.bincount(fast.run(lr, 4, point).labels.flatten()).tolist()
        )
        assert (whole.routing == cut.routing).all()
        assert abs(whole.sr.astype(int) - cut.sr).max() <= 1
