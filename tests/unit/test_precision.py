"""Half precision on a CPU: networks in bfloat16, decisions and colours in float32."""

import logging
from collections.abc import Iterator

import pytest
import torch
from models import ROUTED, at, build, cut_by, photograph_like
from torch import Tensor

import pcsr
from pcsr import precision
from pcsr.engine.runners import runner
from pcsr.engine.tiles import Tile
from pcsr.errors import UserError
from pcsr.precision import dtype_of, times_as_long, warn_if_slower
from pcsr.routing import OperatingPoint

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [4, 2.7])
@pytest.mark.parametrize("backbone", ROUTED)
def test_pcsr_is_close_in_bfloat16(backbone: str, scale: float) -> None:
    """Decisions may tip where two heads are level; elsewhere the networks' rounding differs."""
    method, lr = build(backbone, "pcsr", scale=scale), photograph_like(24, 31)
    exact = runner(method).run(lr, scale, at(0.0, False))
    half = runner(method, torch.bfloat16).run(lr, scale, at(0.0, False))
    same = (half.labels == exact.labels)[:, None]
    assert half.sr.dtype == torch.float32 and same.double().mean() > 0.98
    assert len(exact.labels.unique()) == 2
    assert 0 < ((half.sr - exact.sr) * same).abs().max() < 0.02


@pytest.mark.parametrize("backbone", ["carn", "fsrcnn", "srresnet", "span"])
def test_originals_are_close_in_bfloat16(backbone: str) -> None:
    method, lr = build(backbone, "original"), photograph_like(24, 31)
    exact, half = (
        runner(method, kind).run(lr, 4, at()) for kind in (torch.float32, torch.bfloat16)
    )
    assert half.sr.dtype == torch.float32
    assert 0 < (half.sr - exact.sr).abs().mean() < 0.01


def test_scores_keep_more_digits_than_bfloat16_has() -> None:
    """A budget is a threshold among the scores: it needs them to differ."""
    method, lr = build("carn", "pcsr"), photograph_like(24, 31)
    least, most = (
        method.costs((24, 31), 4).total(n) for n in ([24 * 31 * 16, 0], [0, 24 * 31 * 16])
    )
    budget = (least.engine + most.engine) / 2 / (24 * 31)
    labels = runner(method, torch.bfloat16).run(lr, 4, OperatingPoint(budget=budget)).labels
    assert labels.double().mean() == pytest.approx(0.5, abs=0.001)


def test_tiles_give_the_whole_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    method, lr = build("carn", "pcsr"), photograph_like(60, 40)
    fast = runner(method, torch.bfloat16)
    whole = fast.run(lr, 4, at(0.5))
    halves = [Tile(0, top, top + 30, 0, 40) for top in (0, 30)]
    cut_by(monkeypatch, lambda *_: halves)
    found = torch.cat([tile.sr[0] for tile in fast.tiles(lr, 4, at(0.5), 1e9)], dim=1)
    differ = (found - whole.sr[0]).abs()
    assert differ.max() < 0.1 and differ.mean() < 1e-4


def test_python_takes_the_precision() -> None:
    model = pcsr.load("weights/carn-pcsr.safetensors", device="cpu", precision="bf16")
    image = (photograph_like(20, 22)[0] * 255).byte()
    exact = pcsr.load("weights/carn-pcsr.safetensors", device="cpu").upscale(image).image
    difference = (_levels(model.upscale(image).image) - _levels(exact)).abs()
    assert 0 < difference.double().mean() < 0.5


def _levels(image: object) -> Tensor:
    assert isinstance(image, Tensor) and image.dtype == torch.uint8
    return image.int()


@pytest.mark.parametrize(("name", "device"), [("float16", CPU), ("bf16", GPU)])
def test_the_half_precision_of_the_other_device_is_refused(name: str, device: torch.device) -> None:
    with pytest.raises(UserError, match=f"--precision {name}: half precision is"):
        dtype_of(name, device)
    with pytest.raises(UserError, match="half precision"):
        runner(build("fsrcnn", "pcsr"), torch.float16)


def test_a_line_says_where_bfloat16_is_slower(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("pcsr"), "propagate", True)
    for times, lines in ((0.4, 0), (1.56, 1)):
        monkeypatch.setattr(precision, "times_as_long", lambda _, times=times: times)
        caplog.clear()
        assert dtype_of("bf16", CPU) == torch.bfloat16
        assert len(caplog.messages) == lines
    assert "1.6 times as long as in float32" in caplog.text
    warn_if_slower(torch.bfloat16, GPU)
    assert dtype_of("auto", CPU) == dtype_of("float32", GPU) == torch.float32
    assert len(caplog.messages) == 1


def test_the_time_is_of_this_machine() -> None:
    assert times_as_long(torch.float32) == pytest.approx(1, rel=2)
    assert 0.05 < times_as_long(torch.bfloat16) < 50
