"""The GPU path of the engine, its kernels run by Triton's interpreter on a CPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import ROUTED, Knob, at, build, cut_by, photograph_like, restored
from torch import Tensor

pytest.importorskip("triton", reason="there is no triton for this system")
from pcsr import registry, routing
from pcsr.backbones.base import Backbone
from pcsr.config.models import HeadConfig
from pcsr.engine import pixels
from pcsr.engine.base import Restored
from pcsr.engine.deploy import deploy, widened
from pcsr.engine.gpu.heads import FusedHeads, _compacted, _halves
from pcsr.engine.runners import runner
from pcsr.engine.tiles import Tile
from pcsr.errors import UserError
from pcsr.methods.base import Method

SHARED = 227 * 1024  # bytes of shared memory that a program may take on an H100 or H200
WIDENED = [name for name in registry.BACKBONES if registry.resolve("backbone", name).widens]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels, in blocks that the interpreter is through with in seconds."""
    monkeypatch.setattr("pcsr.engine.gpu.heads._launch", lambda width: (1024, 4))
    monkeypatch.setattr(pixels, "fastest_heads", lambda *_: FusedHeads)


def dense(method: Method, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Restored:
    explored = method.explore(lr, scale)
    labels = method.route(explored.scores, at(knob), scale)
    return Restored(method.compose(explored, labels, at(refine=refine)), labels)


@pytest.mark.parametrize("scale", [4, 2.7])
@pytest.mark.parametrize("backbone", ROUTED)
def test_kernels_give_the_definition(fused: None, backbone: str, scale: float) -> None:
    method, lr = build(backbone, "pcsr", scale=scale), photograph_like(21, 30)
    for knob, refine in ((0.0, True), ("adaptive", False)):
        defined = dense(method, lr, scale, knob, refine)
        found = restored(method, lr, scale, knob, refine=refine)
        assert len(defined.labels.unique()) == 2
        assert torch.equal(found.labels.long(), defined.labels)
        torch.testing.assert_close(found.sr, defined.sr, rtol=0, atol=1e-6)


def test_kernels_of_four_heads_in_tiles(fused: None, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = tuple(HeadConfig(width=8 * n, depth=n) for n in (1, 2, 3, 5))
    method = build("fsrcnn", "pcsr", width=12, heads=heads, classifier=HeadConfig(width=6, depth=1))
    lr = photograph_like(24, 26)
    defined = dense(method, lr, 4, "adaptive", True)
    halves = [Tile(0, top, top + 12, 0, 26) for top in (0, 12)]
    cut_by(monkeypatch, lambda *_: halves)
    tiles = list(runner(method).tiles(lr, 4, at("adaptive", True), 1e9))
    assert len(tiles) == 2 and len(defined.labels.unique()) > 2
    sr = torch.cat([tile.sr for tile in tiles], dim=2)
    torch.testing.assert_close(sr, defined.sr, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", ROUTED)
def test_half_precision_is_close(fused: None, backbone: str) -> None:
    """Decisions may tip where two heads are level; elsewhere only rounding differs."""
    method, lr = build(backbone, "pcsr"), photograph_like(21, 30)
    exact = restored(method, lr, 4, 0.0, refine=False)
    half = runner(method, torch.float16).run(lr, 4, at(0.0, False))
    same = (half.labels == exact.labels)[:, None]
    assert half.sr.dtype == torch.float32 and same.double().mean() > 0.999
    torch.testing.assert_close(half.sr * same, exact.sr * same, rtol=0, atol=2e-3)
    assert not torch.equal(half.sr, exact.sr)


def test_half_precision_without_the_kernels_is_an_error() -> None:
    with pytest.raises(UserError, match="half precision is bf16 on a CPU"):
        runner(build("fsrcnn", "pcsr"), torch.float16)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("backbone", WIDENED)
@pytest.mark.parametrize("width", [20, 64])
def test_a_widened_network_gives_the_same(backbone: str, tail: bool, width: int) -> None:
    torch.manual_seed(3)
    network: Backbone = registry.resolve("backbone", backbone)(
        width=width, scale=4 if tail else None
    )
    # FSRCNN is deployed on a CPU alone, in float32, where nothing is widened.
    network = network.eval() if backbone == "fsrcnn" else deploy(network.eval())
    wide, lr = widened(network), photograph_like(12, 13)
    channels = [m.weight.shape[:2] for m in wide.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(n == 3 or n % 16 == 0 for pair in channels for n in pair)
    expected, found = network(lr), wide(lr)
    beyond = found[:, expected.shape[1] :]
    assert tail or beyond.shape[1] == -width % 16
    assert beyond.abs().sum() == 0
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("total", [1, 2047, 2048, 7001])
def test_compaction_finds_every_pixel_once(total: int) -> None:
    torch.manual_seed(total)
    labels = torch.randint(0, 3, (total,), dtype=torch.uint8)
    for branch in range(4):
        pixels, count = _compacted(labels, branch)
        expected = (labels == branch).nonzero()[:, 0]
        assert int(count) == len(expected)
        assert torch.equal(pixels[: int(count)].sort().values.long(), expected)


def test_refinement_is_its_definition() -> None:
    torch.manual_seed(0)
    sr, labels = torch.rand(3, 37, 41), torch.randint(0, 3, (37, 41), dtype=torch.uint8)
    heads = FusedHeads.__new__(FusedHeads)  # weights do not matter
    expected = routing.refine(sr[None], labels[None])[0]
    torch.testing.assert_close(heads.refine(sr, labels), expected, rtol=0, atol=1e-6)


def test_layers_are_as_narrow_as_two_powers_of_two_allow() -> None:
    found = {width: _halves(width) for width in (2, 10, 20, 40, 58, 74, 170)}
    assert found == {
        2: (16, 16),
        10: (16, 16),
        20: (16, 16),
        40: (32, 16),
        58: (32, 32),
        74: (64, 16),
        170: (128, 64),
    }


def test_kernels_compile_for_a_gpu() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    script = Path(__file__).parents[1] / "compiled.py"
    lines = subprocess.check_output([sys.executable, script], env=environment, text=True)
    found = {one.pop("name"): one for one in map(json.loads, lines.splitlines())}
    assert {"carn heavy", "srresnet heavy", "compact", "smooth"} <= set(found)
    for name, one in found.items():
        assert one["shared"] <= SHARED
        # FSRCNN's classifier is one layer, which nothing follows.
        assert one["tensor_cores"] == (name not in {"compact", "smooth", "fsrcnn classifier"})
