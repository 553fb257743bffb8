"""A limit of memory keeps a margin, and a refusal names a limit that would do."""

import re

import pytest
import torch
from models import build

from pcsr import runtime
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.super_resolve import super_resolve
from pcsr.routing import OperatingPoint


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
    }
    for method, several in points.items():
        fast = runner(build(backbone, method).eval())
        for point in several:
            for text in ("1KiB", "272.5MiB"):
                with pytest.raises(UserError, match="MiB are left; give more memory") as refused:
                    super_resolve(fast, lr, 4, point, runtime.read_bytes(text))
                (named,) = re.findall(r"--max-memory (\d+MiB) would do", str(refused.value))
                limit = runtime.read_bytes(named)
                done = super_resolve(fast, lr, 4, point, limit)
                assert done.sr.shape == (96, 160, 3)
