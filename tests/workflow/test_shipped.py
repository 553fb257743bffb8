"""The weights that come with the suite: whole, explained, and better than bicubic enlargement."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from models import restored
from workspace import ROOT, Workspace

from pcsr import metrics, registry
from pcsr.config.load import load_study
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data import bicubic
from pcsr.data.test_images import open_images
from pcsr.evaluation import measure
from pcsr.images.levels import to_uint8
from pcsr.storage import files
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

SHIPPED = sorted((ROOT / "weights").glob("*.safetensors"))
NAMES = [path.stem for path in SHIPPED]


def test_what_the_suites_name_is_there() -> None:
    recipe = yaml.safe_load((ROOT / "configs/suites/weights.yaml").read_text())
    quick = yaml.safe_load((ROOT / "configs/suites/quick.yaml").read_text())
    assert set(NAMES) <= set(recipe["experiments"])  # of others, training takes longer
    assert set(quick["experiments"]) <= set(NAMES)


@pytest.mark.parametrize("path", SHIPPED, ids=NAMES)
def test_each_says_where_it_comes_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    method, facts = load_method(path)
    study = load_study(Path("configs/suites/weights.yaml"))
    setup = study.experiments[path.stem]
    whole = registry.build(ModelConfig.model_validate(setup.model.model_dump())).config
    assert method.config == whole
    assert facts["iterations"] == setup.iterations_up_to(setup.last_stage)
    assert facts["licence"].startswith("MIT")
    last = {stage: values[-1][0] for stage, values in facts["curve"].items()}
    assert last == {name: stage.iterations for name, stage in setup.stages.items()}
    text = files.sidecar(path).read_text()
    assert {"format": "pcsr-1", **json.loads(text)} == facts == checkpoint.load(path)[1]
    provenance = facts["provenance"]
    assert not provenance["modified"] and re.fullmatch("[0-9a-f]{40}", provenance["commit"])
    assert list(provenance["data"]) == ["photos2k-train"]
    assert not re.search(r'[" =]/', text)  # no path of the machine that trained it
    assert path.stat().st_size < 2**22


@pytest.fixture(scope="module")
def image(workspace: Workspace) -> measure.Pair:
    folder = workspace.path("data/prepared/embedded-smoke")
    return measure.make_pair(open_images(folder)[0], 4, ProtocolConfig())


@torch.no_grad()
@pytest.mark.parametrize("path", SHIPPED, ids=NAMES)
def test_each_is_better_than_bicubic(path: Path, image: measure.Pair) -> None:
    method, _ = load_method(path)
    sr = restored(method, image.lr, 4, method.points[0], refine=True).sr
    size = (image.hr.shape[0], image.hr.shape[1])
    enlarged = bicubic.resize(image.lr.double(), size).float()
    ours, plain = (metrics.psnr_rgb(to_uint8(x), image.hr, 4) for x in (sr, enlarged))
    assert ours > plain + 0.1


def test_weights_that_are_not_shipped_are_named(workspace: Workspace) -> None:
    text = workspace.path("configs/suites/quick.yaml").read_text()
    suite = workspace.path("configs/suites/more.yaml")
    suite.write_text(text.replace("  - fsrcnn-pcsr", "  - srresnet-pcsr"))
    done = workspace.snakemake("-n", "--configfile", suite)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "weights/srresnet-pcsr.safetensors does not exist: no weights of srr" in done.stdout
    experiment = workspace.path("configs/experiments/fsrcnn-pcsr.yaml")
    text = experiment.read_text()
    experiment.write_text(text.replace("  scale: 4", "  scale: 4\n  width: 40"))
    done = workspace.snakemake("-n")
    experiment.write_text(text)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert "model.options.width is 40, but weights/fsrcnn-pcsr.safetensors has 48" in done.stdout
    other = ("train", "fsrcnn-pcsr", "stage0", "--out", workspace.path("w.safetensors"))
    message = workspace.refuse(*other, "--suite", "configs/suites/quick.yaml")
    assert "shipped ones are not trained; use a suite that trains" in message
