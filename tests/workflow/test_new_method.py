"""A method of another package: one class and one entry point, and every verb works with it."""

import ast
from pathlib import Path

import pandas as pd
import pytest
import yaml
from models import build
from workspace import Workspace

from pcsr.errors import UserError
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

SOURCE = '''
"""Flat tiles are enlarged by bicubic interpolation, the others by the backbone."""

import torch.nn.functional as F
from torch import nn

from pcsr.config.models import WidthOptions
from pcsr.flops import Flops, per_lr_pixel
from pcsr.methods.base import Stage
from pcsr.methods.checks import complete
from pcsr.methods.tiled import Tiled
from pcsr.routing import OperatingPoint


class Options(WidthOptions):
    gain: float = 1.0


class Contrast(Tiled):
    Options = Options
    points = tuple(OperatingPoint(knob=k) for k in (0.33, 0.0, 2.0))
    branches = 2

    def __init__(self, config, make_backbone):
        nn.Module.__init__(self)
        self.options, self.config = complete(Options, config, {})
        self.network = make_backbone(width=self.options.width, scale=config.scale)
        self.stages = (Stage("train", [self.network], lambda: self.loss),)

    def score(self, tiles):
        return self.options.gain * tiles.std(dim=(1, 2, 3))[:, None].expand(-1, 2)

    def upscale(self, branch, lr):
        bicubic = F.interpolate(lr, scale_factor=self.config.scale, mode="bicubic")
        return bicubic + self.network(lr) if branch else bicubic

    def route(self, scores, point, scale):
        return (scores[:, 0] >= point.knob).long()

    def tile_costs(self):
        return Flops(), (Flops(), per_lr_pixel(self.network) * 32**2)

    def loss(self, lr, hr, drawn):
        return {"loss": F.l1_loss(self.upscale(1, lr), hr)}
'''
ENTRY_POINT = "[pcsr.methods]\ncontrast = elsewhere:Contrast\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that holds the package as an installer leaves it."""
    (tmp_path / "elsewhere.py").write_text(SOURCE)
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "pycache" not in str(p)}


def test_one_class_and_one_entry_point_are_a_method(workspace: Workspace, package: Path) -> None:
    code = ast.parse(SOURCE).body[1:]  # after the docstring
    assert [type(part) for part in code if not isinstance(part, ast.Import | ast.ImportFrom)] == [
        ast.ClassDef
    ]
    before = files(workspace.path("configs"))
    experiment = {
        "model": {
            "backbone": "fsrcnn",
            "method": "contrast",
            "options": {"width": 8, "gain": 2.0},
        },
        "stages": {"train": {"iterations": 1, "learning_rate": 1e-3}},
    }
    path = workspace.path("configs/experiments/fsrcnn-contrast.yaml")
    path.write_text(yaml.safe_dump(experiment))
    suite = workspace.suite("elsewhere", experiments=["fsrcnn-contrast"], knobs={"contrast": [0.4]})
    assert files(workspace.path("configs")) - before == {
        "experiments/fsrcnn-contrast.yaml",
        "suites/elsewhere.yaml",
    }

    def pcsr(*arguments: str | Path) -> str:
        return workspace.succeed(*arguments, PYTHONPATH=str(package))

    results = workspace.path("results/elsewhere")
    contrast = results / "fsrcnn-contrast/train/weights.safetensors"
    pcsr("train", "fsrcnn-contrast", "train", "--suite", suite, "--out", contrast)
    losses = [line["loss"] for line in workspace.journal(contrast.parent)]
    assert len(losses) == 30 and losses[-1] != losses[0]

    original = results / "fsrcnn-original/train/weights.safetensors"
    method = build("fsrcnn", "original", width=8)
    checkpoint.save_weights(original, method, {"model": method.config.model_dump(mode="json")})
    sweeps = []
    for weights in (original, contrast):
        sweeps.append(weights.parents[1] / "embedded-smoke/sweep.csv")
        images = workspace.path("data/prepared/embedded-smoke")
        measure = ("sweep", "--weights", weights, "--images", images, "--out", sweeps[-1])
        pcsr(*measure, "--threads", "1")
    table = results / "results.csv"
    pcsr("collect", "--sweeps", *sweeps, "--out", table)
    collected = pd.read_csv(table)
    assert set(collected.method) == {"original", "contrast"}
    curve = collected[collected.method == "contrast"]
    assert sorted(set(curve.knob)) == [0.0, 0.33, 2.0]
    shares = curve.groupby("knob").share_1.mean()
    assert shares[0.0] == 1 and 0 < shares[0.33] < 1 and shares[2.0] == 0
    assert curve.groupby("knob").flops_paper.mean().is_monotonic_decreasing
    assert curve.groupby("knob").psnr_rgb.mean().nunique() == 3

    figure = results / "fsrcnn.png"
    options = ("--test-set", "embedded-smoke", "--backbone", "fsrcnn", "--out", figure)
    pcsr("figure", table, *options)
    assert figure.stat().st_size > 10_000
    assert "contrast" in figure.with_suffix(".svg").read_text()
    # Where the package is not installed, as here, its name is unknown.
    with pytest.raises(UserError, match="unknown method 'contrast'"):
        load_method(contrast)
