"""Configuration: merging, errors that help, fingerprints, and the files in the repository."""

from pathlib import Path

import pytest
from workspace import ROOT

from pcsr import catalog, config
from pcsr.config import DatasetsConfig, ExperimentConfig
from pcsr.errors import UserError

EXPERIMENT = {
    "model": {"backbone": "carn", "method": "pcsr"},
    "stages": {"stage0": {"iterations": 10, "learning_rate": 1e-3}},
}


def test_merge() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": {"x": 3}, "c": 4}
    assert config.merge(base, {"a": {"x": 5}}) == {"a": {"x": 5, "y": 2}, "b": {"x": 3}, "c": 4}
    stages = {"stages": {"one": {"n": 1, "m": 1}, "two": {"n": 1}}}
    over = {"stages": {"*": {"n": 2}, "two": {"n": 3}}}
    assert config.merge(stages, over) == {"stages": {"one": {"n": 2, "m": 1}, "two": {"n": 3}}}
    assert base["a"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("modle",), {}, "modle: unknown key. Did you mean 'model'?"),
        (("model", "widht"), 3, "model.widht: unknown key. Did you mean 'width'?"),
        (("stages", "stage0", "learnig_rate"), 1, "Did you mean 'learning_rate'?"),
        (("stages", "stage0", "batch"), 0, "stages.stage0.batch: Input should be greater"),
        (("stages", "stage0", "batch"), "many", "valid integer"),
        (("model", "scale"), 1, "model.scale: Input should be greater than 1"),
        (("stages",), {}, "stages: "),
    ],
)
def test_errors_name_file_and_key(path: tuple[str, ...], value: object, said: str) -> None:
    over: object = value
    for key in reversed(path):
        over = {key: over}
    values = {**EXPERIMENT, "stages": {}} if value == {} else config.merge(EXPERIMENT, over)  # type: ignore[arg-type]
    if path == ("modle",):
        values = {**EXPERIMENT, "modle": {}}
    with pytest.raises(UserError) as error:
        config.parse(ExperimentConfig, values, "my.yaml")
    assert str(error.value).startswith("my.yaml: ") and said in str(error.value)


def test_unknown_key_inside_a_data_set() -> None:
    source = {"kind": "wheels", "images": ["a/b.png"], "image": []}
    with pytest.raises(UserError, match="Did you mean 'images'"):
        config.parse(DatasetsConfig, {"datasets": {"x": {"source": source}}}, "my.yaml")


def test_fingerprints_change_with_values_alone() -> None:
    experiment = config.parse(ExperimentConfig, EXPERIMENT, "x")
    same = config.parse(ExperimentConfig, config.merge(EXPERIMENT, {"seed": 0}), "x")
    other = config.parse(ExperimentConfig, config.merge(EXPERIMENT, {"seed": 1}), "x")
    assert config.fingerprint(experiment) == config.fingerprint(same)
    assert config.fingerprint(experiment) != config.fingerprint(other)
    assert config.fingerprint([experiment]) == config.fingerprint([same])


@pytest.mark.parametrize("suite", ["smoke", "quick", "paper"])
def test_suites_of_the_repository(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = config.load_study(Path(f"configs/suites/{suite}.yaml"))
    catalog.check_names(study)
    for experiment in study.experiments.values():
        method = catalog.resolve("method", experiment.model.method)
        assert tuple(experiment.stages) == method.stages


def test_paper_suite_is_the_published_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = config.load_study(Path("configs/suites/paper.yaml"))
    for name, experiment in study.experiments.items():
        rate = 1e-3 if name.startswith("fsrcnn") else 2e-4
        for stage_name, stage in experiment.stages.items():
            assert stage.iterations == (500_000 if stage_name == "stage1" else 2_000_000)
            assert (stage.learning_rate, stage.learning_rate_end) == (rate, 1e-7)
            assert (stage.batch, stage.patch, stage.betas) == (16, 32, (0.9, 0.99))
            assert stage.lr == ("8bit" if name.endswith("original") else "float")


def test_a_method_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pcsr.methods]\nmine = mine:Mine\n")
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalog.resolve("method", "mine").__name__ == "Mine"
    with pytest.raises(UserError, match="Did you mean 'mine'"):
        catalog.resolve("method", "mien")
