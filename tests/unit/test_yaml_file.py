"""YAML that lies: each kind is refused in one line with its place, fast and in little memory."""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile.texts import AMBIGUOUS, ENDLESS, HOSTILE, OTHER, TWICE
from workspace import ROOT

from pcsr.config import yaml_file
from pcsr.config.load import parse, read_yaml
from pcsr.config.models import (
    Config,
    DatasetsConfig,
    ExperimentConfig,
    HeadConfig,
    SuiteConfig,
)
from pcsr.config.released import ReleasedConfig
from pcsr.errors import UserError


@pytest.mark.parametrize("parser", ["CSafeLoader", "SafeLoader"])
def test_a_file_that_lies_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parser: str
) -> None:
    monkeypatch.setattr(yaml_file, "_PARSER", getattr(yaml, parser))
    path = tmp_path / "mine.yaml"
    cases = (*TWICE, *AMBIGUOUS, *ENDLESS, *OTHER)
    assert len(cases) > 40
    for text, said in cases:
        path.write_text(text)
        started = time.process_time()
        with pytest.raises(UserError) as error:
            read_yaml(path)
        assert time.process_time() - started < (1 if parser == "CSafeLoader" else 10), text[:40]
        message = str(error.value)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message and len(message) < 1500
        if parser == "CSafeLoader":  # the other one says some of it in other words
            assert said in message, message


def test_what_has_no_end_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, _ in ENDLESS:
        path.write_text(text)
        tracemalloc.start()
        with pytest.raises(UserError):
            read_yaml(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20, text[:40]
        tracemalloc.stop()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for data in (b"a: \xff\xfe", bytes(range(256)), b"\x89PNG\r\n\x1a\n", b"\x00" * 2**20):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"mine\.yaml: "):
            read_yaml(path)


def test_the_files_of_the_repository_are_read_as_before() -> None:
    files = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "profiles").rglob("*.yaml")]
    assert len(files) > 20
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert yaml_file.parse(text) == yaml.safe_load(text)
    # Anchors, merges that an explicit key overrides, and quoted words stay what they are.
    text = "a: &a {x: 1, y: 'yes'}\nb: {<<: *a, x: 2.5}\nc: *a\nd: [true, False, ~, -3, 1e-3]"
    assert yaml_file.parse(text) == yaml.safe_load(text)


STAGE = {"iterations": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize("lie", [True, False])
def test_true_and_false_are_no_numbers(lie: bool) -> None:
    model: dict[str, Any] = {"backbone": "carn", "method": "pcsr"}
    suite = {"suite": "x", "description": "x", "experiments": ["x"], "test_sets": ["x"]}
    suite["weights"] = "shipped"
    lies: list[tuple[type[Config], dict[str, Any], str]] = [
        (ExperimentConfig, {"model": model, "stages": {"a": {**STAGE, key: lie}}}, key)
        for key in ("iterations", "learning_rate", "batch", "crop_class", "save_every")
    ]
    lies += [
        (
            ExperimentConfig,
            {"model": model, "stages": {"a": {**STAGE, "betas": [0.9, lie]}}},
            "betas",
        ),
        (ExperimentConfig, {"model": model, "stages": {"a": STAGE}, "seed": lie}, "seed"),
        (ExperimentConfig, {"model": {**model, "scale": lie}, "stages": {"a": STAGE}}, "scale"),
        (SuiteConfig, {**suite, "threads": lie}, "threads"),
        (SuiteConfig, {**suite, "knobs": {"pcsr": [0, lie]}}, "knobs"),
        (HeadConfig, {"width": lie, "depth": 1}, "width"),
    ]
    for kind, values, key in lies:
        with pytest.raises(UserError, match=f"{key} must not be true or false"):
            parse(kind, values, "my.yaml")
    assert parse(SuiteConfig, {**suite, "adaptive": lie}, "my.yaml").adaptive is lie
    options = {**model, "options": {"fast": lie}, "backbone_options": {"batch_norm": lie}}
    assert parse(ExperimentConfig, {"model": options, "stages": {"a": STAGE}}, "my.yaml")


def test_names_are_safe_in_paths_patterns_and_commands() -> None:
    dataset = {"source": {"kind": "folder", "path": "x"}}
    released = {"files": [{"path": "x.pth"}]}
    model = {"backbone": "carn", "method": "pcsr"}
    suite = {"suite": "x", "description": "x", "experiments": ["x"], "test_sets": ["x"]}
    suite |= {"train_set": "x", "valid_set": "x", "calibration": {"experiment": "x"}}
    for name in HOSTILE:
        lies: list[tuple[type[Config], dict[str, Any]]] = [
            (SuiteConfig, {**suite, "suite": name}),
            (SuiteConfig, {**suite, "experiments": [name]}),
            (SuiteConfig, {**suite, "test_sets": ["x", name]}),
            (SuiteConfig, {**suite, "train_set": name}),
            (SuiteConfig, {**suite, "valid_set": name}),
            (SuiteConfig, {**suite, "calibration": {"experiment": name}}),
            (ExperimentConfig, {"model": model, "stages": {name: STAGE}}),
            (DatasetsConfig, {"datasets": {name: dataset}}),
            (ReleasedConfig, {"released": {name: released}}),
        ]
        for kind, values in lies:
            with pytest.raises(UserError, match=r"my\.yaml: ") as error:
                parse(kind, values, "my.yaml")
            assert len(str(error.value)) < 6000
    assert parse(SuiteConfig, suite, "my.yaml").suite == "x"


def test_paths_below_a_folder_stay_below_it() -> None:
    good = (
        "PCSR/save/x4/iter_last.pth",
        "Urban100/HR",
        "DIV2K_train_HR",
        "a b/c+d@2",
        "skimage/x.png",
    )
    bad = (
        "",
        "/etc",
        "../x",
        "a/../x",
        "a/..",
        "./a",
        "a//b",
        "a/",
        ".a",
        "-a",
        "a\nb",
        "a\x00",
        "~/x",
    )
    for path, right in (*((path, True) for path in good), *((path, False) for path in bad)):
        tables: list[tuple[type[Config], dict[str, Any]]] = [
            (ReleasedConfig, {"released": {"x": {"files": [{"path": path}]}}}),
            (DatasetsConfig, {"datasets": {"x": {"source": {"kind": "wheels", "images": [path]}}}}),
            (
                DatasetsConfig,
                {"datasets": {"x": {"source": {"kind": "folder", "path": "x", "mirror": path}}}},
            ),
        ]
        for kind, values in tables:
            if right:
                assert parse(kind, values, "my.yaml")
            else:
                with pytest.raises(UserError, match=r"my\.yaml: "):
                    parse(kind, values, "my.yaml")
    for path in ("", "a\x00b", "a\nb", "x" * 2000):
        source = {"kind": "folder", "path": path}
        with pytest.raises(UserError, match="path"):
            parse(DatasetsConfig, {"datasets": {"x": {"source": source}}}, "my.yaml")
