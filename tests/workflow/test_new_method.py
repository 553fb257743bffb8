"""Packages of others: a method, a backbone and a metric by class and entry point, and all works."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from models import at, photograph_like
from workspace import ROOT, Workspace

from pcsr import registry
from pcsr.config.models import ModelConfig
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.training.loop import Step
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
ENTRY_POINTS = """[pcsr.methods]
edges = edges:Edges
contrast = contrast:Contrast
[pcsr.backbones]
plain = edges:Plain
[pcsr.metrics]
mae = edges:mae
"""
EXPERIMENT = {
    "model": {
        "backbone": "plain",
        "method": "edges",
        "options": {"width": 8, "blur": 2},
        "backbone_options": {"depth": 2},
    },
    "stages": {"train": {"iterations": 1, "learning_rate": 1e-3}},
}


def block(language: str) -> str:
    """The guide's example, word for word."""
    return GUIDE.split(f"```{language}\n")[1].split("```")[0]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that holds the packages as an installer leaves them."""
    (tmp_path / "edges.py").write_text((ROOT / "tests/elsewhere/edges.py").read_text())
    (tmp_path / "contrast.py").write_text(block("python"))
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if "pycache" not in str(p)}


def test_a_pixel_method_a_backbone_and_a_metric(workspace: Workspace, package: Path) -> None:
    before = files(workspace.path("configs"))
    path = workspace.path("configs/experiments/plain-edges.yaml")
    path.write_text(yaml.safe_dump(EXPERIMENT))
    suite = workspace.suite("elsewhere", experiments=["plain-edges"], knobs={"edges": [0.02]})
    # The edits: a class, its entry point, a YAML; and the suite that runs it.
    assert files(workspace.path("configs")) - before == {
        "experiments/plain-edges.yaml",
        "suites/elsewhere.yaml",
    }

    def pcsr(*arguments: str | Path) -> str:
        return workspace.succeed(*arguments, PYTHONPATH=str(package))

    results = workspace.path("results/elsewhere")
    weights = results / "plain-edges/train/weights.safetensors"
    pcsr("train", "plain-edges", "train", "--suite", suite, "--out", weights)
    losses = [line["loss"] for line in workspace.journal(weights.parent)]
    assert len(losses) == 30 and losses[-1] != losses[0]
    assert checkpoint.load(weights)[1]["model"]["options"] == {"width": 8, "blur": 2}

    sweep = weights.parents[1] / "embedded-smoke/sweep.csv"
    images = workspace.path("data/prepared/embedded-smoke")
    pcsr("sweep", "--weights", weights, "--images", images, "--out", sweep, "--threads", "1")
    table = results / "results.csv"
    pcsr("collect", "--sweeps", sweep, "--out", table)
    curve = pd.read_csv(table)
    assert sorted(set(curve.knob)) == [0.0, 0.01, 9.0]
    shares = curve.groupby("knob").share_1.mean()
    assert shares[0.0] == 1 and 0 < shares[0.01] < 1 and shares[9.0] == 0
    assert curve.groupby("knob").psnr_rgb.mean().nunique() == 3
    assert curve.flops_paper.nunique() == 1  # what cannot be saved is not claimed
    assert curve.mae.between(0.1, 50).all()

    points = results / "operating_points.md"
    pcsr("table", table, "--out", points)
    for page in (points, points.with_suffix(".html"), points.with_suffix(".tex")):
        assert "mae" in page.read_text()
    (row,) = re.findall(r"^\| edges \| 9 \|.*$", points.read_text(), re.MULTILINE)
    assert f" {curve[curve.knob == 9].mae.mean():.4f} " in row
    figure = results / "plain.png"
    options = ("--test-set", "embedded-smoke", "--backbone", "plain", "--out", figure)
    pcsr("figure", table, *options)
    assert figure.stat().st_size > 10_000 and "edges" in figure.with_suffix(".svg").read_text()
    # Where the package is not installed, as here, its names are unknown.
    with pytest.raises(UserError, match="unknown backbone 'plain'"):
        load_method(weights)


def test_the_guides_example_is_a_method(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(package))
    experiment = yaml.safe_load(block("yaml"))
    method = registry.build(ModelConfig.model_validate(experiment["model"])).eval()
    assert list(experiment["stages"]) == [stage.name for stage in method.stages]
    lr = photograph_like(64, 92)
    explored = method.explore(lr, 4)
    used = set()
    for point in method.points:
        labels = method.route(explored.scores, point, 4)
        found = runner(method).run(lr, 4, point)
        assert (found.labels == labels).all()
        apart = (found.sr - method.compose(explored, labels, point)).abs()
        assert apart.max() <= 1 / 255 + 1e-6 and (apart > 1e-6).double().mean() < 1e-3
        used |= set(labels.unique().tolist())
    assert used == {0, 1}
    loss = Step(method, method.stages[0])(
        lr, lr.repeat_interleave(4, 2).repeat_interleave(4, 3), None
    )
    loss["loss"].backward()
    with pytest.raises(UserError, match="contrast decides by its knob alone: give a standard dev"):
        method.route(explored.scores, at("adaptive"), 4)
    with pytest.raises(UserError, match=r"gain: Input should be greater than 0"):
        registry.build(
            ModelConfig(backbone="fsrcnn", method="contrast", options={"width": 8, "gain": 0})
        )
