"""Configuration: merging, errors that help, fingerprints, and the files in the repository."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from workspace import ROOT

from pcsr import registry
from pcsr.config.load import Study, fingerprint, load_study, merge, parse
from pcsr.config.models import (
    DatasetsConfig,
    ExperimentConfig,
    ModelConfig,
    ProtocolConfig,
    StageConfig,
)
from pcsr.errors import UserError
from pcsr.weights import available

EXPERIMENT = {
    "model": {"backbone": "carn", "method": "pcsr"},
    "stages": {"stage0": {"iterations": 10, "learning_rate": 1e-3}},
}


def test_merge() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": {"x": 3}, "c": 4}
    assert merge(base, {"a": {"x": 5}}) == {"a": {"x": 5, "y": 2}, "b": {"x": 3}, "c": 4}
    stages = {"stages": {"one": {"n": 1, "m": 1}, "two": {"n": 1}}}
    over = {"stages": {"*": {"n": 2}, "two": {"n": 3}}}
    assert merge(stages, over) == {"stages": {"one": {"n": 2, "m": 1}, "two": {"n": 3}}}
    assert base["a"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("modle",), {}, "modle: unknown key. Did you mean 'model'?"),
        (("model", "widht"), 3, "model.widht: unknown key. Available: backbone, "),
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
    values = {**EXPERIMENT, "stages": {}} if value == {} else merge(EXPERIMENT, over)  # type: ignore[arg-type]
    if path == ("modle",):
        values = {**EXPERIMENT, "modle": {}}
    with pytest.raises(UserError) as error:
        parse(ExperimentConfig, values, "my.yaml")
    assert str(error.value).startswith("my.yaml: ") and said in str(error.value)


def test_unknown_key_inside_a_data_set() -> None:
    source = {"kind": "wheels", "images": ["a/b.png"], "image": []}
    with pytest.raises(UserError, match="Did you mean 'images'"):
        parse(DatasetsConfig, {"datasets": {"x": {"source": source}}}, "my.yaml")


def test_fingerprints_change_with_values_alone() -> None:
    experiment = parse(ExperimentConfig, EXPERIMENT, "x")
    same = parse(ExperimentConfig, merge(EXPERIMENT, {"seed": 0}), "x")
    other = parse(ExperimentConfig, merge(EXPERIMENT, {"seed": 1}), "x")
    assert fingerprint(experiment) == fingerprint(same)
    assert fingerprint(experiment) != fingerprint(other)
    assert fingerprint([experiment]) == fingerprint([same])


@pytest.mark.parametrize(
    "suite", ["smoke", "quick", "train-quick", "weights", "paper", "modern", "widths"]
)
def test_suites_of_the_repository(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path(f"configs/suites/{suite}.yaml"))
    registry.check_names(study)
    for experiment in study.experiments.values():
        method = registry.build(experiment.model)
        assert list(experiment.stages) == [stage.name for stage in method.stages]


def test_paper_suite_is_the_published_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(Path("configs/suites/paper.yaml"))
    iterations = dict.fromkeys(("train", "network", "stage0"), 2_000_000) | {"joint": 200_000}
    classes = {"simple": 0, "medium": 1, "hard": 2}
    own = {"exits", "estimator"}  # ENAF's, whose recipe has nothing in common with the others'
    for name, experiment in study.experiments.items():
        for stage_name, stage in experiment.stages.items():
            if stage_name in own:
                assert (stage.iterations, stage.batch, stage.patch) == (30 * 12_454, 128, 32)
                continue
            joint = stage_name == "joint"
            rate = 1e-3 if name.startswith("fsrcnn") and not joint else 2e-4
            assert stage.iterations == iterations.get(stage_name, 500_000)
            assert (stage.learning_rate, stage.learning_rate_end) == (rate, 1e-7)
            assert (stage.patch, stage.betas) == (32, (0.9, 0.99))
            assert stage.batch == (96 if joint else 16)
            assert stage.lr == ("float" if name.endswith("pcsr") else "8bit")
            assert stage.crop_class == classes.get(stage_name)
        assert experiment.table == name.endswith("arm")
    calibration = study.suite.calibration
    assert calibration is not None
    assert (calibration.experiment, calibration.classes) == ("srresnet-original", 3)
    methods = [experiment.model.method for experiment in study.experiments.values()]
    expected = dict.fromkeys(("original", "classsr", "arm", "pcsr"), 3) | {"enaf": 2}
    assert {method: methods.count(method) for method in methods} == expected


def test_a_method_of_another_package_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pcsr.methods]\nmine = mine:Mine\n")
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.resolve("method", "mine").__name__ == "Mine"
    with pytest.raises(UserError, match="Did you mean 'mine'"):
        registry.resolve("method", "mien")


def with_values(folder: Path, **changes: Any) -> Path:
    """A suite of its own, which is ``quick`` but for some keys."""
    values = yaml.safe_load((ROOT / "configs/suites/quick.yaml").read_text())
    del values["protocols"]
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def test_the_first_protocol_is_the_suites_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert load_study(with_values(tmp_path)).suite.protocols == (ProtocolConfig(),)
    listed = [{"lr": "float", "crop": "none"}, {}, {"refine": False}]
    suite = load_study(with_values(tmp_path, protocols=listed)).suite
    own, *others = suite.protocols
    assert suite.protocol == own == ProtocolConfig(lr="float", crop="none", refine=True)
    assert others == [ProtocolConfig(), ProtocolConfig(refine=False)]


@pytest.mark.parametrize(
    ("protocols", "said"),
    [
        ([], "protocols: .*at least 1"),
        (
            [{"lr": "8bit"}, {"crpo": "none"}],
            r"protocols.1.crpo: unknown key. Did you mean 'crop'\?",
        ),
        ([{}, {"lr": "flaot"}], "protocols.1.lr: Input should be '8bit' or 'float', got 'flaot'"),
        ([{}, {"refine": True}], "two protocols are the same; leave one out"),
        (["lr"], "protocols.0: "),
    ],
)
def test_protocols_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocols: list[Any], said: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=said):
        load_study(with_values(tmp_path, protocols=protocols))


@pytest.mark.parametrize(
    ("key", "value"), [("both_ways", ["lr,refine", "crop"]), ("protocol", {"lr": "float"})]
)
def test_an_older_key_is_answered_with_the_new_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=rf"mine.yaml: {key}: now .*\.$") as error:
        load_study(with_values(tmp_path, **{key: value}))
    _, colon, form = str(error.value).rstrip(".").rpartition("protocols:")
    assert load_study(with_values(tmp_path, **yaml.safe_load(f"protocols{colon[-1]}{form}")))


def test_a_table_is_the_last_step() -> None:
    with_table = parse(ExperimentConfig, {**EXPERIMENT, "table": True}, "x")
    assert (with_table.last_stage, with_table.final) == ("stage0", "table")
    assert parse(ExperimentConfig, EXPERIMENT, "x").final == "stage0"
    stages = {"table": EXPERIMENT["stages"]["stage0"]}
    with pytest.raises(UserError, match="a training stage cannot be called 'table'"):
        parse(ExperimentConfig, {**EXPERIMENT, "stages": stages}, "x")


@pytest.mark.parametrize("widths", [(16, 8), (8, 8, 16), ()])
def test_widths_rise(widths: tuple[int, ...]) -> None:
    model = ModelConfig(backbone="carn", method="arm", options={"widths": widths})
    with pytest.raises(UserError, match=r"model.options of carn-arm: widths: "):
        registry.build(model)


def test_options_of_version_0_1_are_nested() -> None:
    flat = {"backbone": "carn", "method": "original", "width": 64, "heads": None}
    assert ModelConfig.model_validate({**flat, "batch_norm": True}) == ModelConfig(
        backbone="carn", method="original", options={"width": 64}
    )
    assert ModelConfig.model_validate({**flat, "batch_norm": False}).backbone_options == {
        "batch_norm": False
    }


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that reads a suite of the repository's experiments, with changes."""
    monkeypatch.chdir(ROOT)

    def read(**changes: Any) -> Study:
        path = tmp_path / "mine.yaml"
        values: dict[str, Any] = {
            "suite": "mine",
            "description": "a test",
            "experiments": ["srresnet-original", "fsrcnn-classsr"],
            "calibration": {"experiment": "srresnet-original"},
            "train_set": "embedded-train",
            "valid_set": "embedded-valid",
            "test_sets": ["embedded-test"],
            **changes,
        }
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
        return load_study(path)

    return read


def test_knobs_are_given_per_method(load: Any) -> None:
    study = load(knobs={"classsr": [-1, 0.5]})
    registry.check_names(study)
    assert study.suite.knobs == {"classsr": (-1.0, 0.5)}
    assert load().suite.knobs == {}
    with pytest.raises(UserError, match=r"unknown method 'clasr'. Did you mean 'classsr'?"):
        registry.check_names(load(knobs={"clasr": [0]}))
    for knobs in ([0, 1], {"arm": []}, {"arm": ["many"]}):
        with pytest.raises(UserError, match=r"mine.yaml: knobs"):
            load(knobs=knobs)


CLASSSR = "fsrcnn-classsr.yaml: stages"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"calibration": {"experiment": "srresnet-orignal"}},
            "mine.yaml: calibration.experiment: unknown experiment 'srresnet-orignal'. "
            "Did you mean 'srresnet-original'?",
        ),
        (
            {"calibration": {"experiment": "carn-original"}},  # there, but not in this suite
            "mine.yaml: calibration.experiment: unknown experiment 'carn-original'.",
        ),
        (
            {"calibration": {"experiment": "fsrcnn-classsr"}},
            "mine.yaml: calibration.experiment: fsrcnn-classsr itself needs the calibration",
        ),
        (
            {"calibration": None},
            f"{CLASSSR}.simple.crop_class: MINE has no calibration; add one.",
        ),
        (
            {"calibration": {"experiment": "srresnet-original", "classes": 2}},
            f"{CLASSSR}.hard.crop_class: 2 is not a class of MINE's calibration, which has 0 to 1.",
        ),
        (
            {"calibration": {"experiment": "srresnet-original", "patch": 16}},
            f"{CLASSSR}.simple.patch: 32, but MINE's calibration.patch is 16;",
        ),
    ],
)
def test_a_calibration_that_does_not_fit(
    load: Any, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        load(**changes)
    assert said.replace("MINE", str(tmp_path / "mine.yaml")) in str(error.value)


def test_a_calibration_that_fits(load: Any) -> None:
    study = load(
        calibration={"experiment": "srresnet-original", "patch": 16, "classes": 4},
        overrides={"fsrcnn-classsr": {"stages": {"*": {"patch": 16}}}},
    )
    assert study.suite.calibration.classes == 4
    # Stages that train on all crops are not concerned: the original keeps its patch.
    assert study.experiments["srresnet-original"].stages["train"].patch == 32
    assert load(experiments=["fsrcnn-pcsr"], calibration=None).suite.calibration is None


def test_an_experiment_starts_from_an_earlier_one_of_its_backbone(load: Any) -> None:
    whole = {"calibration": None, "experiments": ["span-original", "span-pcsr"]}
    study = load(**whole)
    paths = [available.initial_weights(study, "span-pcsr", stage) for stage in ("stage0", "stage1")]
    assert paths[0] == available.weights(study, "span-original")
    assert paths[1] == "results/mine/span-pcsr/stage0/weights.safetensors"
    assert available.initial_weights(study, "span-original", "train") is None
    init = "span-pcsr.yaml: init: "
    for changes, said in (
        ({"experiments": ["span-pcsr"]}, "list it before span-pcsr: unknown experiment"),
        ({"experiments": ["span-pcsr", "span-original"]}, "list it before span-pcsr"),
        (
            {
                "experiments": ["efdn-original", "span-pcsr"],
                "overrides": {"span-pcsr": {"init": "efdn-original"}},
            },
            "efdn-original has the backbone efdn, but span-pcsr has span",
        ),
    ):
        with pytest.raises(UserError) as error:
            load(**whole | changes)
        assert init in str(error.value) and said in str(error.value)


def test_a_suite_that_trains_takes_some_published_weights(load: Any) -> None:
    whole = {"calibration": None, "experiments": ["span-original", "span-pcsr"]}
    study = load(**whole, released=["span-original"])
    assert list(study.released) == ["span-original"]
    finals = [study.final(name) for name in study.experiments]
    assert finals == ["released", "stage1"]
    assert list(load(weights="released", **whole | NOT_TRAINED).released) == ["span-original"]
    for changes, said in (
        ({"released": ["span-orignal"]}, "mine.yaml: released: unknown experiment"),
        ({"released": ["span-pcsr"]}, "released: configs/released.yaml: unknown experiment"),
        ({"weights": "released", "released": ["span-original"]} | NOT_TRAINED, "drop released"),
    ):
        with pytest.raises(UserError, match=said):
            load(**whole | changes)


NOT_TRAINED = {"train_set": None, "valid_set": None, "experiments": ["span-original"]}


def test_what_a_stage_freezes_belongs_to_its_identity_and_nothing_does_not() -> None:
    """Runs started before the key existed can be resumed."""
    stage = {"iterations": 10, "learning_rate": 1e-3}
    plain = StageConfig.model_validate(stage).identity()
    frozen = StageConfig.model_validate({**stage, "freeze": ["encoder"]}).identity()
    assert "freeze" not in plain and frozen == {**plain, "freeze": ["encoder"]}
