"""How many of the package's files one has to know to follow an image, a sweep or a training step.

Counted are the files of ``pcsr`` and ``baselines`` in which a function is called from when the work
on an image begins until its result is written, on the thread that does it. Loading weights and what
is set up once, as a runner is, are left out.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from models import at, build, photograph_like, stage_of

from pcsr.config.models import ProtocolConfig, StageConfig
from pcsr.data import images
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.data.test_images import TestImage
from pcsr.engine.runners import runner
from pcsr.evaluation.measure import make_pair, measure
from pcsr.evaluation.super_resolve import SuperResolver
from pcsr.images.levels import to_uint8
from pcsr.metrics import psnr_rgb
from pcsr.training.loop import Loop

METRICS = {"psnr_rgb": psnr_rgb}
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = tuple(str(ROOT / name) + "/" for name in ("pcsr", "baselines"))


def files_of(work: Callable[[], Any]) -> set[str]:
    """The package's files in which a function is called during the work."""
    found: set[str] = set()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGES):
            found.add(str(Path(code.co_filename).relative_to(ROOT)))

    work()  # what is computed once, such as the FLOPs of a network, does not count
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


@torch.no_grad()
def test_one_image_of_upscale(tmp_path: Path) -> None:
    method = build("carn", "pcsr")
    lr, sr = tmp_path / "lr.png", tmp_path / "sr.png"
    images.write(lr, to_uint8(photograph_like(30, 40)))
    fast = runner(method)
    found = files_of(lambda: SuperResolver(fast, 4, at(0.0, True)).file(lr, sr))
    assert len(found) <= 17, sorted(found)


def test_one_image_and_knob_of_a_sweep() -> None:
    method, protocol = build("carn", "pcsr"), ProtocolConfig(crop="none")
    image = TestImage("image", to_uint8(photograph_like(96, 128)), None)

    def work() -> list[dict[str, Any]]:
        pair = make_pair(image, 4, protocol)
        return list(measure(method, pair, 4, [at(0.0)], [protocol], METRICS))

    found = files_of(work)
    assert len(found) <= 12, sorted(found)


def test_one_training_step(cat: Store) -> None:
    stage = StageConfig(iterations=10, learning_rate=1e-3, batch=4, patch=8)
    method = build("fsrcnn", "pcsr")
    batches = Batches(cat, stage, 4, 0, torch.device("cpu"))
    loop = Loop(method, stage_of(method, "stage0"), stage, batches)
    found = files_of(lambda: loop.step(0))
    assert len(found) <= 9, sorted(found)
