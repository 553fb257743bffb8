"""Packages of others, by entry point, and work of one's own in a folder of one's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from models import at, photograph_like
from workspace import ROOT, Workspace

from pcsr import registry
from pcsr.config.models import ModelConfig
from pcsr.data.images import write
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.images.levels import to_uint8
from pcsr.storage.provenance import checkout
from pcsr.training import contract
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


MODULE = """
module sr:
    snakefile:
        "{snakefile}"
    config:
        {{"suite_file": "configs/suites/mine.yaml"}}


use rule * from sr as sr_*


rule points:
    default_target: True
    input:
        "reports/mine/operating_points.md",
"""


def test_a_folder_of_ones_own(workspace: Workspace, package: Path, tmp_path: Path) -> None:
    """Experiments, suite, data, reports; the workflow is a module, the checkout stays as it was."""
    mine = tmp_path / "mine"
    images = mine / "photos"
    images.mkdir(parents=True)
    for number, tensor in enumerate(photograph_like(160, 160) for _ in range(2)):
        write(images / f"{number}.png", to_uint8(tensor))

    def put(name: str, values: dict[str, Any]) -> None:
        path = mine / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values))

    stage = {"iterations": 3, "learning_rate": 1e-3, "batch": 2, "patch": 8}
    names = ["plain-original", "plain-edges"]
    for name in names:
        model = {
            "backbone": "plain",
            "method": name.removeprefix("plain-"),
            "options": {"width": 8},
        }
        put(f"experiments/{name}.yaml", {"model": model, "stages": {"train": stage}})
    source = {"kind": "folder", "path": "photos"}
    put("datasets.yaml", {"datasets": {"photos": {"source": source}}})
    sets = {"train_set": "photos", "valid_set": "photos", "test_sets": ["photos", "embedded-smoke"]}
    suite = {
        "suite": "mine",
        "description": "mine",
        "experiments": names,
        "valid_images": 1,
        **sets,
    }
    put("suites/mine.yaml", suite)
    (mine / "Snakefile").write_text(MODULE.format(snakefile=ROOT / "workflow/Snakefile"))
    before = checkout(ROOT)
    said = workspace.refuse("check", mine / "configs/suites/mine.yaml")
    assert said.endswith(f" {mine} has it: run the command there.")

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [*map(str, command)],
            cwd=mine,
            env=workspace.served(PYTHONPATH=os.pathsep.join([str(package), *sys.path])),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Experiments: plain-original, plain-edges." in run(
        "pcsr", "check", "configs/suites/mine.yaml"
    )
    kept = run("pcsr", "check", "plain-edges").splitlines()
    assert len(kept) == len(contract.PROMISES) + 1 and "2 of 2 branches" in kept[-1]
    run(*workspace.workflow("--cores", "2"))
    page = (mine / "reports/mine/operating_points.md").read_text()
    assert "## plain on photos, x4" in page and "## plain on embedded-smoke, x4" in page
    assert "| mae |" in page
    made = json.loads((mine / "results/mine/plain-edges/train/weights.json").read_text())
    assert made["provenance"]["packages"] == {"elsewhere": "1.0"}
    assert (made["provenance"]["commit"], made["provenance"]["modified"]) == before
    assert checkout(ROOT) == before
    # The workflow itself, on the same folder, has the reports left to make.
    options = ("--directory", mine, "--configfile", "configs/suites/mine.yaml", "--dry-run")
    planned = run(*workspace.workflow("-s", ROOT / "Snakefile", *options))
    assert "rule leaderboard" in planned and "rule train" not in planned


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
