"""A method of another package: one class and one entry point, and every command works with it."""

import ast
from pathlib import Path

import pandas as pd
import pytest
from models import build
from workspace import ROOT, Workspace

from pcsr.errors import UserError
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

# The example of the guide, word for word.
SOURCE = (ROOT / "CONTRIBUTING.md").read_text().split("```python\n")[1].split("```")[0]
EXPERIMENT = (ROOT / "CONTRIBUTING.md").read_text().split("```yaml\n")[1].split("```")[0]
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
    path = workspace.path("configs/experiments/fsrcnn-contrast.yaml")
    path.write_text(EXPERIMENT)
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
