"""Static networks with released weights: golden outputs, parameters, FLOPs, dB of four images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import at, photograph_like, restored

from pcsr import metrics
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.evaluation import measure
from pcsr.methods.base import Method
from pcsr.weights import checkpoint
from pcsr.weights.convert import import_released
from pcsr.weights.load import load_method

pytestmark = pytest.mark.shared

# Name in the golden files -> file in the mirror, and what is said of it.
FILES = {
    "efdn": ("EFDN/team00_EFDN.pth", "NTIRE 2025 efficient SR challenge, team 00, efdn x4, width"),
    "span28": (
        "SPAN/team46_span.pth",
        "NTIRE 2025 efficient SR challenge, team 46, span x4, width",
    ),
    "safmnv3": (
        "SAFMNv3/team19_safmnv3.pth",
        "NTIRE 2025 efficient SR challenge, team 19, safmnv3 x4, width",
    ),
    "carn_m_authors": ("CARN-M/carn_m.pth", "CARN's own release, carn-m x4, width 64"),
}
every_network = pytest.mark.parametrize("name", list(FILES))


def load(shared: Path, name: str) -> Method:
    method, _ = load_method(shared / "mirror/released" / FILES[name][0])
    return method


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, Any]:
    stored = json.loads((shared / "golden/static_urban100.json").read_text())
    networks: dict[str, Any] = stored["networks"]
    assert networks.keys() == FILES.keys()
    return networks


@every_network
@torch.no_grad()
def test_outputs_are_the_golden_ones(shared: Path, name: str) -> None:
    with np.load(shared / "golden/static_released.npz") as golden:
        lr, expected = torch.from_numpy(golden["lr"])[None], golden[name]
        method = load(shared, name)
        for sr in (method.explore(lr, 4).candidates[0], restored(method, lr, 4, None).sr):
            np.testing.assert_allclose(sr[0].numpy(), expected, rtol=0, atol=1e-4)
        if name == "efdn":
            network = method.network
            features = network.features(lr)  # type: ignore[operator]
            unclamped = network.tail(features)[0]  # type: ignore[operator]
            assert unclamped.max() > 1
            expected = golden["efdn_before_clamp"]
            np.testing.assert_allclose(unclamped.numpy(), expected, rtol=0, atol=1e-4)


@every_network
def test_parameters_and_flops_are_exact(shared: Path, facts: dict[str, Any], name: str) -> None:
    method, expected = load(shared, name), facts[name]
    parameters = sum(parameter.numel() for parameter in method.parameters())
    assert parameters == expected["parameters_used_at_x4"]
    for side in (32, 256):
        counts = expected["flops"][f"{side}x{side}"]
        flops = method.costs((side, side), 4).total([1])
        assert flops.paper == counts["paper"] + counts["prelu"]
        assert flops.algorithmic == flops.engine == counts["algorithmic"] + counts["prelu"]


@every_network
def test_four_images_have_the_stated_psnr(shared: Path, facts: dict[str, Any], name: str) -> None:
    method, protocol = load(shared, name), ProtocolConfig()
    for image, expected in facts[name]["pictures"].items():
        (opened,) = open_images(shared / f"mirror/Urban100/HR/{image}.png")
        pair = measure.make_pair(opened, 4, protocol)
        assert pair.lr.shape[-2:] == (expected["lr_height"], expected["lr_width"])
        measures = {"psnr_rgb": metrics.psnr_rgb}
        (row,) = measure.measure(method, pair, 4, [at()], [protocol], measures)
        assert row["psnr_rgb"] == pytest.approx(expected["dB"], abs=2e-4)


@every_network
@torch.no_grad()
def test_import_keeps_the_weights(shared: Path, tmp_path: Path, name: str) -> None:
    file, recognised = FILES[name]
    out = tmp_path / "w.safetensors"
    assert import_released(shared / "mirror/released" / file, out=out).startswith(recognised)
    ours, stored = load_method(out)
    theirs = load(shared, name)
    assert ours.config == theirs.config and ours.config.method == "original"
    assert stored["iterations"] is None
    assert stored["source"]["sha256"] == checkpoint.sha256(shared / "mirror/released" / file)
    lr = photograph_like(16, 17)
    assert torch.equal(restored(ours, lr, 4, None).sr, restored(theirs, lr, 4, None).sr)
