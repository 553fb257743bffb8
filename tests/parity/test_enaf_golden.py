"""ENAF's released weights: every branch, estimate, choice and cost, as designed and as released."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import at
from numpy.typing import NDArray
from reference import enaf, golden, golden_tiles
from torch import Tensor

from pcsr import metrics
from pcsr.baselines.enaf import ENAF
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.evaluation import measure
from pcsr.storage.files import ROOT
from pcsr.weights.convert import fetch_released
from pcsr.weights.load import load_method

pytestmark = pytest.mark.shared

PROTOCOL = ProtocolConfig(lr="8bit", crop="tiles", refine=False)
BACKBONES = pytest.mark.parametrize("backbone", ["fsrcnn", "carn"])
BRANCHES = ("bicubic", "exit1", "exit2", "full")

Golden = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def released(shared: Path) -> Golden:
    return golden(shared, "enaf_released")


@pytest.fixture(scope="module")
def tiles(released: Golden) -> Tensor:
    return golden_tiles(released)


def close(ours: Tensor, expected: NDArray[Any], tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=tolerance)


def chosen(method: ENAF, released: Golden, tiles: Tensor) -> list[list[int]]:
    scores = method.score(tiles)[:, :, None, None]
    return [method.route(scores, at(float(eta)), 4).flatten().tolist() for eta in released["etas"]]


@BACKBONES
@torch.no_grad()
def test_branches_estimates_and_choices(
    shared: Path, released: Golden, tiles: Tensor, backbone: str
) -> None:
    method = enaf(shared, backbone)
    for branch, (name, shared_work) in enumerate(zip(BRANCHES, method.outputs(tiles), strict=True)):
        close(method.upscale(branch, tiles), released[f"{backbone}_{name}"])
        close(shared_work, released[f"{backbone}_{name}"])
    assert (released["edge_score"] > 10).all()  # so that no estimate has the bonus of flat tiles
    close(-method.score(tiles), released[f"{backbone}_estimate"])
    close(
        torch.tensor(method.config.options["cost_shares"]), released[f"{backbone}_cost_share"], 1e-6
    )
    assert chosen(method, released, tiles) == released[f"{backbone}_exit"].tolist()


@torch.no_grad()
def test_released_carn_returns_the_whole_networks_output(
    shared: Path, released: Golden, tiles: Tensor
) -> None:
    method = enaf(shared, "carn", as_released=True)
    for labels, expected in zip(
        chosen(method, released, tiles), released["carn_as_released"], strict=True
    ):
        tile_by_tile = [method.upscale(b, t[None])[0] for b, t in zip(labels, tiles, strict=True)]
        close(torch.stack(tile_by_tile), expected)
        outputs = list(method.outputs(tiles))
        close(torch.stack([outputs[b][i] for i, b in enumerate(labels)]), expected)


@BACKBONES
def test_parameters_and_flops(shared: Path, backbone: str) -> None:
    facts = json.loads((shared / "golden/enaf_urban100.json").read_text())
    expected = facts["flops_per_tile"][backbone]
    method, released = enaf(shared, backbone), enaf(shared, backbone, as_released=True)
    assert sum(p.numel() for p in method.parameters()) == expected["parameters"]["total"]
    score, (bicubic, *exits) = method.tile_costs()
    assert bicubic.paper == bicubic.engine == 0
    for name, cost in zip(("estimator", "exit1", "exit2", "full"), (score, *exits), strict=True):
        assert cost.paper == expected[name]["paper"] + expected[name]["prelu"]
        assert cost.algorithmic == expected[name]["algorithmic"] + expected[name]["prelu"]
        assert cost.engine == cost.algorithmic
    # As released, an exit is counted, and the whole network is run.
    for cost, claimed in zip(exits, released.tile_costs()[1][1:], strict=True):
        assert (claimed.paper, claimed.engine) == (cost.paper, exits[-1].engine)


@pytest.mark.parametrize("as_released", [False, True])
def test_an_experiment_says_how_the_release_is_run(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_released: bool
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PCSR_MIRROR", str(shared / "mirror"))
    out = tmp_path / "w.safetensors"
    fetch_released("carn-enaf" + as_released * "-as-released", out=out)
    options = load_method(out)[0].config.options
    assert options["as_released"] == as_released
    assert options["cost_shares"] == pytest.approx([0, 778.55 / 1161.72, 868.86 / 1161.72, 1])


@pytest.mark.parametrize(("backbone", "name"), [("fsrcnn", "img_001"), ("carn", "img_010")])
@torch.no_grad()
def test_images_of_urban100(shared: Path, backbone: str, name: str) -> None:
    facts = json.loads((shared / "golden/enaf_urban100.json").read_text())
    expected = facts["backbones"][backbone]["pictures"][name]
    (image,) = open_images(shared / f"mirror/Urban100/HR/{name}.png")
    pair = measure.make_pair(image, 4, PROTOCOL)
    kinds = {"dB": False, "dB_as_released": True} if backbone == "carn" else {"dB": False}
    for key, as_released in kinds.items():
        method = enaf(shared, backbone, as_released=as_released)
        points = [at(entry["eta"]) for entry in expected["eta"]]
        psnr = {"psnr_rgb": metrics.psnr_rgb}
        rows = measure.measure(method, pair, 4, points, [PROTOCOL], psnr)
        for row, entry in zip(rows, expected["eta"], strict=True):
            assert entry["smallest_margin"] > 1e-4  # below, another order of sums may decide
            assert row["psnr_rgb"] == pytest.approx(entry[key], abs=2e-4)
            shares = [row[f"share_{branch}"] * row["units"] for branch in range(4)]
            assert shares == pytest.approx(entry["tiles_per_exit"])
