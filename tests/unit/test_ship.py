"""Weights are shipped with their licence, their provenance and their validation curves."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from models import build, saved
from workspace import ROOT

from pcsr.config.load import Study, load_study
from pcsr.errors import UserError
from pcsr.storage import files
from pcsr.weights import checkpoint
from pcsr.weights.shipped import card, copy_trained, ship


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """One experiment of the suite that trains what is shipped; nothing is trained yet."""
    monkeypatch.chdir(ROOT)
    whole = load_study(Path("configs/suites/weights.yaml"))
    monkeypatch.chdir(tmp_path)
    one = {"fsrcnn-pcsr": whole.experiments["fsrcnn-pcsr"]}
    return Study(whole.suite, one, whole.datasets, {})


def trained(stage: str, **provenance: Any) -> Path:
    path = Path(files.weights("weights", "fsrcnn-pcsr", stage))
    method = build("fsrcnn", "pcsr")
    how = {"iterations": 1000, "batch": 4, "patch": 16, "lr": "float", "learning_rate": 5e-4}
    made = {"data": {"photos": "d" * 64}, "seed": 0, "device": "cpu", "stages": {stage: how}}
    provenance = {"commit": "c" * 40, "modified": False, **made, **provenance}
    saved(method, path, iterations=7, provenance=provenance)
    lines = [{"step": 1, "loss": 0.5}, {"step": 2, "valid_psnr_rgb": 20.12345}]
    lines.append({"step": 4, "valid_psnr_rgb": 21 + len(stage)})
    path.with_name("train-new.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    old = path.with_name("train-old.jsonl")
    old.write_text('{"step": 1, "valid_psnr_rgb": 3}\n')
    os.utime(old, (1, 1))
    return path


def test_what_is_shipped_says_how_it_came_to_be(study: Study, tmp_path: Path) -> None:
    trained("stage0")
    source = trained("stage1")
    (file,) = copy_trained(study, "free", tmp_path / "weights")
    assert file.name == "fsrcnn-pcsr.safetensors"
    tensors, facts = checkpoint.load(file)
    assert facts == {"format": "pcsr-2", **json.loads(files.sidecar(file).read_text())}
    assert facts["licence"] == "free" and facts["provenance"]["commit"] == "c" * 40
    assert facts["curve"] == {"stage0": [[2, 20.123], [4, 27]], "stage1": [[2, 20.123], [4, 27]]}
    for name, tensor in checkpoint.load(source)[0].items():
        assert torch.equal(tensors[name], tensor)
    text = file.with_suffix(".md").read_text()
    assert "| Licence | free |" in text and "| Trained on | photos |" in text
    assert "| stage1 | 1,000 | 4 of 16x16 | float | 0.0005 | 27.00 |" in text


def test_what_cannot_be_written_is_known_before_anything_is(study: Study, tmp_path: Path) -> None:
    trained("stage0")
    trained("stage1")
    folder = tmp_path / "weights"
    for blocked in ("fsrcnn-pcsr.md", "fsrcnn-pcsr.json", "SHA256SUMS"):
        (folder / blocked).mkdir(parents=True)
        with pytest.raises(UserError, match=rf"{blocked}: cannot be written \(it is a folder\)"):
            copy_trained(study, "free", folder)
        assert [path.name for path in folder.iterdir()] == [blocked]
        (folder / blocked).rmdir()


def test_model_cards_are_those_of_the_weights_beside_them() -> None:
    found = sorted((ROOT / "weights").glob("*.safetensors"))
    assert found
    for file in found:
        assert file.with_suffix(".md").read_text() == card(file.stem, *checkpoint.load(file))


def test_weights_that_no_commit_explains_are_not_shipped(study: Study, tmp_path: Path) -> None:
    trained("stage0")
    with pytest.raises(UserError, match=r"stage1/weights.safetensors: no such weights file"):
        copy_trained(study, "free", tmp_path / "weights")
    trained("stage1")
    for unknown in ({"modified": True}, {"commit": None}):
        for stage in ("stage0", "stage1"):
            trained(stage, **unknown)
            with pytest.raises(UserError, match=f"{stage}/weights.* uncommitted code"):
                copy_trained(study, "free", tmp_path / "weights")
            trained(stage)
    for kept in Path(files.weights("weights", "fsrcnn-pcsr", "stage0")).parent.glob("*.jsonl"):
        kept.unlink()
    with pytest.raises(UserError, match="stage0: has no training log"):
        copy_trained(study, "free", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_logs_and_descriptions_that_lie_are_one_line(study: Study, tmp_path: Path) -> None:
    trained("stage0")
    log = trained("stage1").with_name("train-new.jsonl")
    sound = log.read_text()
    step = '{"step": 1, "valid_psnr_rgb": 20}'
    lies = ['{"valid_psnr_rgb": 20}', "[1]", "[" * 10**5, "\0", "{", f'{step[:-1]}, "step": 2}}']
    lies += [step.replace("20", number) for number in ("NaN", "-1", "[]", '"x"', "true", "1e999")]
    lies += [step.replace("1", number) for number in ("-1", "1.5", "null")]
    for lie in lies:
        log.write_text(f"{step}\n{lie}\n")
        with pytest.raises(UserError, match=r"train-new.jsonl: (line 2: |damaged)") as error:
            copy_trained(study, "free", tmp_path / "weights")
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    log.write_text(sound)
    for lie in ({"modified": "perhaps"}, {"commit": 5}):
        trained("stage1", **lie)
        with pytest.raises(UserError, match=rf"weights.safetensors: provenance.{next(iter(lie))}"):
            copy_trained(study, "free", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("licence", ["", " ", "two\nlines", "\x1b[31mMIT", "x" * 201])
def test_a_licence_is_one_line(licence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--licence: give one line"):
        ship(suite=tmp_path / "none.yaml", licence=licence, out=tmp_path)
