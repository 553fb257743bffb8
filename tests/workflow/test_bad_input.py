"""Every mistake ends with one clear line and a failing status, and leaves nothing half-written."""

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from models import saved
from PIL import Image
from workspace import ROOT, Runs, Workspace

from pcsr import cli, distributed, registry, runtime
from pcsr.config.models import ModelConfig
from pcsr.errors import UserError
from pcsr.weights import checkpoint


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run commands inside this process, in the workspace."""
    monkeypatch.chdir(workspace.folder)
    monkeypatch.delenv("PCSR_MIRROR", raising=False)
    threads = torch.get_num_threads()
    yield workspace.folder
    torch.set_num_threads(threads)
    logger = logging.getLogger("pcsr")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def refuse(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs a command which must fail; it returns the one error line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["pcsr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code in (1, 2)
        errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
        assert len(errors) == 1
        return errors[0]

    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh FSRCNN-PCSR."""
    torch.manual_seed(0)
    method = registry.build(ModelConfig(backbone="fsrcnn", method="pcsr"))
    return saved(method, tmp_path_factory.mktemp("weights") / "fsrcnn-pcsr.safetensors")


def write_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (256, 256)) -> Path:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    if mode == "I;16":
        Image.fromarray(random.integers(0, 65535, size[::-1], dtype=np.uint16)).save(path)
    else:
        noise.convert(mode).save(path)
    return path


def edited(here: Path, name: str, old: str, new: str) -> Path:
    """Write a copy of a suite that trains, with one change."""
    text = (here / "configs/suites/train-quick.yaml").read_text()
    assert old in text
    path = here / f"configs/suites/{name}.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


TRAIN = ("train", "fsrcnn-pcsr", "stage0", "--out", "out/w.safetensors", "--suite")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("knobs:", "knob: [1]\nknobs:", "knob: unknown key. Did you mean 'knobs'?"),
        ("valid_images: 2", "valid_images: many", "valid_images: Input should be a valid integer"),
        ("train_set: embedded-train", "train_set: embeded-train", "Did you mean 'embedded-train'"),
        ("- fsrcnn-pcsr", "- fsrcnn-pscr", "Did you mean 'fsrcnn-pcsr'"),
        ("learning_rate: 2e-3", "learning_rat: 2e-3", "Did you mean 'learning_rate'"),
        ("learning_rate: 2e-3", "learning_rate: -1", "learning_rate: Input should be greater"),
        ("suite: train-quick", "suite: [quick", "not valid YAML"),
    ],
)
def test_suite_file(here: Path, refuse: Any, old: str, new: str, expected: str) -> None:
    message = refuse(*TRAIN, edited(here, "edited", old, new))
    assert expected in message
    assert "configs/" in message
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--also", "lr=flaot"), "--also lr=flaot: lr: Input should be '8bit' or 'float'"),
        (("--also", "crpo=none"), "--also crpo=none: crpo: unknown key. Did you mean 'crop'?"),
        (("--also", "lr=float", "refine"), "--also refine: refine: Input should be a valid bool"),
        (("--also", "lr=float,lr=8bit"), "--also lr=float,lr=8bit: changes something twice"),
        (("--also", "lr=8bit"), "--also lr=8bit: is measured already; drop it"),
        (("--also", "lr=float", "lr=float,refine=true"), "refine=true: is measured already"),
        (("--both-ways", "lr", "refine"), "`--both-ways` is now `--also lr=float refine=false`"),
        (("--both-ways=lr",), "`--both-ways` is now `--also lr=float refine=false`"),
    ],
)
def test_other_protocols(
    here: Path, refuse: Any, weights: Path, tmp_path: Path, options: tuple[str, ...], expected: str
) -> None:
    out = tmp_path / "sweep.csv"
    images = write_image(tmp_path / "image.png")
    given = ("--weights", weights, "--images", images, "--out", out)
    assert expected in refuse("sweep", *given, *options)
    assert not out.exists()


def test_an_interruption_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pcsr", "prepare", "embedded-smoke"])
    for arguments, told in (
        ((), "interrupted; run the same command to resume\n"),
        (
            ("w: stopped at step 3",),
            "interrupted: w: stopped at step 3; run the same command to re",
        ),
    ):
        stop = KeyboardInterrupt(*arguments)
        monkeypatch.setattr("pcsr.data.prepare.load_datasets", MagicMock(side_effect=stop))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 130
        assert capsys.readouterr().err.startswith(told)


def test_a_command_in_a_folder_of_the_project(
    here: Path, refuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "reports/quick").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here / "reports/quick")
    suite = "configs/suites/quick.yaml"
    for command in (
        ("prepare", "embedded-smoke"),
        (*TRAIN, suite),
        ("fetch-released", "fsrcnn-pcsr", "--out", "w.safetensors"),
        ("inputs", "--suite", suite, "--out", "inputs.md"),
        ("sweep", "--weights", "weights/a.safetensors", "--images", "data", "--out", "a.csv"),
        ("table", "reports/quick/results.csv", "--out", "table.md"),
    ):
        message = refuse(*command)
        assert message.endswith(f"Paths are relative to this folder; the project is in {here}.")
        assert not list(Path.cwd().iterdir())
    monkeypatch.chdir(here)
    assert "the project is in" not in refuse("prepare", "nothing")


def test_variables_of_a_launcher_that_is_not_there(
    here: Path, refuse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = "configs/suites/train-quick.yaml"
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "localhost")):
        for world in ("4", "0", "-1", "many", ""):
            monkeypatch.setenv("WORLD_SIZE", world)
            assert f"WORLD_SIZE={world} is set, but not by torchrun" in refuse(*TRAIN, suite)
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "port")
    for world, rank in (("0", "0"), ("-1", "0"), ("many", "0"), ("", "0"), ("2", "2"), ("2", "a")):
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.setenv("RANK", rank)
        assert f"WORLD_SIZE={world} is set, but not by torchrun" in refuse(*TRAIN, suite)
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(UserError, match=r"MASTER_PORT=port: no group of processes to join"),
        distributed.processes(torch.device("cpu")),
    ):
        pass
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("LOCAL_RANK", "7")  # left over: it claims no GPU of that number
    assert not runtime.launched()


def test_threads(here: Path, refuse: Any, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = write_image(here / "threads.png", size=(16, 16))
    for count in (1025, 100_000, 10**12):
        for command in (
            ("upscale", image, here / "out.png", "--weights", weights),
            ("sweep", "--images", image, "--out", here / "out.csv", "--weights", weights),
        ):
            line = refuse(*command, "--threads", count)
            assert f'"{count}" for --threads. Must be <= 1024' in line
    suite = edited(here, "threads", "knobs:", "threads: 5000\nknobs:")
    assert "threads: Input should be less than or equal to 1024, got 5000" in refuse(*TRAIN, suite)
    runtime.set_up(0, runtime.CORES + 1)
    assert f"{runtime.CORES + 1} threads on {runtime.CORES} cores" in caplog.messages[-1]


def test_names(here: Path, refuse: Any) -> None:
    experiment = here / "configs/experiments/fsrcnn-pcsr.yaml"
    text = experiment.read_text()
    suite = here / "configs/suites/train-quick.yaml"
    try:
        experiment.write_text(text.replace("backbone: fsrcnn", "backbone: fsrcn"))
        assert "unknown backbone 'fsrcn'. Did you mean 'fsrcnn'?" in refuse(*TRAIN, suite)
        experiment.write_text(text.replace("method: pcsr", "method: pscr"))
        assert "unknown method 'pscr'. Did you mean 'pcsr'?" in refuse(*TRAIN, suite)
    finally:
        experiment.write_text(text)
    assert "unknown data set 'urban10'. Did you mean 'urban100'?" in refuse("prepare", "urban10")
    assert "Did you mean 'quick'?" in refuse(*TRAIN, "configs/suites/quik.yaml")
    assert "Did you mean 'stage0'?" in refuse(
        "train", "fsrcnn-pcsr", "stag0", "--out", "out/w.safetensors", "--suite", suite
    )


@pytest.mark.parametrize(
    ("mode", "said"),
    [("L", "grey"), ("RGBA", "RGBA"), ("P", "palette"), ("CMYK", "CMYK"), ("I;16", "16 bits")],
)
def test_images_of_other_kinds(
    here: Path, refuse: Any, weights: Path, tmp_path: Path, mode: str, said: str
) -> None:
    path = write_image(tmp_path / f"kind.{'jpg' if mode == 'CMYK' else 'png'}", mode)
    out = tmp_path / "out.csv"
    sweep = ("sweep", "--weights", weights, "--images", path, "--out", out)
    message = refuse(*sweep)
    assert str(path) in message and said in message and "convert it to" in message
    assert not out.exists()


def test_files_that_are_no_images(refuse: Any, weights: Path, tmp_path: Path) -> None:
    sweep = ("sweep", "--weights", weights, "--out", tmp_path / "o.csv", "--images")
    assert "no such file" in refuse(*sweep, tmp_path / "missing.png")
    text = tmp_path / "text.png"
    text.write_text("not an image")
    assert f"{text}: not an image" in refuse(*sweep, text)
    whole = write_image(tmp_path / "whole.png").read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    assert f"{cut}: the image is damaged" in refuse(*sweep, cut)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refuse(*sweep, tmp_path / "empty")
    assert not (tmp_path / "o.csv").exists()


def test_images_of_wrong_sizes(refuse: Any, weights: Path, tmp_path: Path) -> None:
    sweep = ("sweep", "--weights", weights, "--out", tmp_path / "o.csv", "--images")
    small = write_image(tmp_path / "small.png", size=(300, 120))
    message = refuse(*sweep, small)
    assert "small: 300x120 is smaller than one tile" in message and "--crop none" in message
    odd = write_image(tmp_path / "odd.png", size=(257, 256))
    message = refuse(*sweep, write_image(tmp_path / "tiny.png", size=(16, 16)), "--crop", "none")
    assert "tiny: 16x16 is too small to be measured" in message and "needs 19 pixels" in message
    (tmp_path / "lr").mkdir()
    write_image(tmp_path / "lr/odd.png", size=(60, 64))
    message = refuse(*sweep, odd, "--lr-images", tmp_path / "lr")
    assert "the LR image is 60x64" in message and "needs 64x64" in message


def test_weights(here: Path, refuse: Any, weights: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.png")
    sweep = ("sweep", "--images", image, "--out", tmp_path / "o.csv", "--weights")
    assert "no such weights file" in refuse(*sweep, tmp_path / "missing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:2000])
    message = refuse(*sweep, cut)
    assert str(cut) in message and "truncated" in message
    cut.write_bytes(b"")
    assert "truncated" in refuse(*sweep, cut)
    other = tmp_path / "other.safetensors"
    tensors, facts = checkpoint.load(weights)
    facts["model"]["options"]["heads"][0]["width"] = 11
    checkpoint.save(other, tensors, facts)
    message = refuse(*sweep, other)
    assert "heads.0.0.bias" in message and "(10,)" in message and "(11,)" in message
    facts["model"]["options"]["heads"][0] = {"width": 99, "depth": 9}
    checkpoint.save(other, tensors, facts)
    assert "model.options.heads: list them cheapest first" in refuse(*sweep, other)
    facts["model"]["method"] = "os:system"
    checkpoint.save(other, tensors, facts)
    assert "unknown method 'os:system'" in refuse(*sweep, other)
    assert not (tmp_path / "o.csv").exists()

    suite = here / "configs/suites/undisturbed.yaml"
    suite.write_text((here / "configs/suites/train-quick.yaml").read_text())
    stage1 = (
        "train",
        "fsrcnn-pcsr",
        "stage1",
        "--suite",
        suite,
        "--out",
        tmp_path / "w.safetensors",
    )
    checkpoint.save(other, {"encoder.extract.0.weight": torch.zeros(3)}, {"model": {}})
    assert "these weights are of another architecture" in refuse(*stage1, "--init", other)


def test_foreign_files_are_never_executed(refuse: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    evil = tmp_path / "evil.pth"
    torch.save({"model": {"sd": Runs(tmp_path / "ran")}}, evil)
    message = refuse("import-released", evil, "--out", out)
    assert str(evil) in message and "refused" in message and "system" in message
    assert not (tmp_path / "ran").exists()
    cut = tmp_path / "cut.pth"
    torch.save({"model": {"sd": {"a": torch.zeros(100)}}}, cut)
    message = refuse("import-released", cut, "--out", out)
    assert "not recognised" in message and "'a'" in message
    odd = [{1: 2}, {"head_conv.0.weight": torch.tensor(1.0)}, {"entry.weight": torch.zeros(0)}]
    for weights in odd:
        torch.save({"model": {"sd": weights, "args": {"scale": "big"}}, "iter": 5}, cut)
        assert f"{cut}: not recognised" in refuse("import-released", cut, "--out", out)
    torch.save({"model": {"sd": {"a": torch.zeros(100)}}}, cut)
    cut.write_bytes(cut.read_bytes()[:500])
    assert "not a readable PyTorch file" in refuse("import-released", cut, "--out", out)
    assert not out.exists()


def test_no_gpu_where_one_is_requested(refuse: Any, weights: Path, tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    wanted = f"cuda:{count}" if count else "cuda"
    image = write_image(tmp_path / "image.png")
    upscale = ("upscale", image, tmp_path / "sr.png", "--weights", weights, "--device")
    message = refuse(*upscale, wanted)
    assert f"--device {wanted}" in message and "usable GPUs" in message
    assert "no such device" in refuse(*upscale, "gpu")


def test_outputs_that_would_overwrite_something(refuse: Any, weights: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.png")
    content = image.read_bytes()
    upscale = ("upscale", "--weights", weights)
    assert "would be overwritten" in refuse(*upscale, tmp_path, tmp_path)
    assert "would be overwritten" in refuse(*upscale, image, image)
    assert "written as .png, .jpg" in refuse(*upscale, image, tmp_path / "sr.gif")
    write_image(tmp_path / "image.bmp")
    assert "two images are called 'image'" in refuse(*upscale, tmp_path, tmp_path / "sr")
    sweep = ("sweep", "--weights", weights, "--images", image, "--out")
    assert "written as .csv" in refuse(*sweep, tmp_path / "o.json")
    released = ("import-released", image, "--out", tmp_path / "o.json")
    assert "written as .safetensors" in refuse(*released)
    assert image.read_bytes() == content


# Commands that write no file that they could have read.
SAFE = {"sample", "where", "prepare", "fetch-released", "ship", "schema", "check"}


def test_no_command_overwrites_its_inputs(refuse: Any, weights: Path, tmp_path: Path) -> None:
    def at(name: str) -> Path:
        path = tmp_path / name
        path.write_text("content")
        return path

    weights_files = ("u.safetensors", "u.pth", "v.safetensors")
    names = ("HR.png", "u.csv", "u.md", "u.html", "u.txt", "u.json", *weights_files)
    kept = {name: at(name) for name in names}
    image, table, page, html, text, facts, tensors, release, other = kept.values()
    shutil.copy(weights, other)
    linked = tmp_path / "linked.csv"
    linked.symlink_to(table)
    exported = tmp_path / "linked.onnx"
    exported.symlink_to(tensors)
    measured = ("--weights", tensors, "--images", image)
    pair = ("--images", image, "--weights", tensors, other)
    commands: list[tuple[object, ...]] = [
        ("upscale", image, tmp_path, "--weights", other),
        ("upscale", image, image, "--weights", other),
        ("demo", image, "--weights", other, "--out", tmp_path),
        ("export", tensors, exported),
        ("explore", image, "--weights", other, "--results", html, "--out", html),
        ("showcase", *pair, "--routing", image, "--comparison", tmp_path / "c.png"),
        ("showcase", *pair, "--routing", tmp_path / "r.png", "--comparison", image),
        ("calibrate-knob", *measured, "--out", tensors),
        ("tabulate", *measured, "--out", tensors),
        ("tabulate", *measured, "--out", tmp_path / "o.safetensors", "--log", tensors),
        ("classify-crops", "--weights", tensors, "--data", tmp_path, "--out", tensors),
        ("import-released", release, "--out", tmp_path / "u.safetensors"),
        ("train", "x", "stage0", "--suite", page, "--init", tensors, "--out", tensors),
        ("sweep", *measured, "--out", table, "--lr-images", tmp_path),
        ("sweep", *measured, "--out", tmp_path / "u.csv"),  # u.json describes the weights
        ("headroom", "--weights", tensors, "--images", page, "--out", page),
        ("bench", *measured, facts, "--out", facts),
        ("training-speed", "--suite", page, "--out", facts),
        ("collect", "--sweeps", table, "--out", table),
        ("collect", "--sweeps", linked, "--out", table),
        ("collect", "--sweeps", table, "--out", linked),
        ("figure", image, "--test-set", "x", "--backbone", "x", "--out", image),
        ("table", table, "--out", page),
        ("claims", page, "--out", page),
        ("claims", table, "--published", page, "--out", page),
        ("fairness", page, "--out", page),
        ("leaderboard", page, "--out", page),
        ("leaderboard", table, "--times", page, "--out", page),
        ("summary", text, "--out", text),
        ("summary", table, "--times", text, "--out", text),
        ("inputs", "--suite", page, "--out", page),
        ("latency", page, "--out", page),
    ]
    every = {name for group in cli.COMMANDS.values() for name in group}
    assert {str(command[0]) for command in commands} | SAFE == every
    for command in commands:
        assert "is an input and would be overwritten" in refuse(*command), command
    assert all(kept[name].read_text() == "content" for name in names[:-1])


def test_what_never_ends_is_no_file(refuse: Any, weights: Path, tmp_path: Path) -> None:
    sound = ROOT / "reports/quick/results.csv"
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(2**40)  # a hole: nothing is on the disk
    page = ("--out", tmp_path / "page.md")
    image = write_image(tmp_path / "image.png", size=(64, 64))
    for endless in (pipe, Path("/dev/zero"), large):
        said = "is larger than" if endless == large else "is not a regular file"
        for command in (
            *((name, endless, *page) for name in ("table", "fairness", "claims", "leaderboard")),
            ("summary", endless, "--out", tmp_path / "text.txt"),
            ("summary", sound, "--times", endless, "--out", tmp_path / "text.txt"),
            ("leaderboard", sound, "--times", endless, *page),
            ("leaderboard", sound, "--added", endless, *page),
            ("claims", sound, "--published", endless, *page),
            ("latency", endless, *page),
            ("check", endless),
            ("train", "x", "stage0", "--suite", endless, "--out", tmp_path / "w.safetensors"),
        ):
            assert said in refuse(*command), command
        upscale = (tmp_path / "sr.png", "--weights")
        refuse("upscale", image, *upscale, endless)
        refuse("upscale", endless, *upscale, weights)
        refuse("export", endless, tmp_path / "w.onnx")


def test_knobs_and_stages(here: Path, refuse: Any, weights: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.png")
    sweep = ("sweep", "--weights", weights, "--images", image, "--out", tmp_path / "o.csv")
    assert '"[0.0, nan]" for --knob' in refuse(*sweep, "--knob", "0", "nan")
    experiment = here / "configs/experiments/fsrcnn-pcsr.yaml"
    text = experiment.read_text()
    suite = here / "configs/suites/train-quick.yaml"
    try:
        experiment.write_text(text[: text.index("  stage1:")])
        suite_text = suite.read_text()
        suite.write_text(suite_text.replace("      stage1: {iterations: 1500}\n", ""))
        message = refuse(*TRAIN, suite)
        assert "pcsr is trained in stage0, stage1; list these" in message
    finally:
        experiment.write_text(text)
        suite.write_text(suite_text)


def test_a_stage_of_one_class_needs_the_classes(
    workspace: Workspace, refuse: Any, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "w.safetensors"
    experiments = ["fsrcnn-original", "fsrcnn-classsr"]
    calibration = {"experiment": "fsrcnn-original", "patch": 8}
    path = workspace.suite("classes", experiments=experiments, calibration=calibration)
    suite = ("--suite", path, "--out", out)
    classes = ("--calibration", weights)
    message = refuse("train", "fsrcnn-classsr", "simple", *suite)
    assert "stage 'simple' trains on one class: give --calibration" in message
    message = refuse("train", "fsrcnn-classsr", "joint", *suite, "--init", weights, *classes)
    assert "stage 'joint' trains on all crops: drop --calibration" in message
    assert not out.exists()


def test_tables(refuse: Any, weights: Path, tmp_path: Path) -> None:
    image, out = write_image(tmp_path / "image.png"), tmp_path / "w.safetensors"
    tabulate = ("tabulate", "--images", image, "--out", out, "--threads", "1", "--weights")
    assert "pcsr keeps no table; drop `table: true`" in refuse(*tabulate, weights)
    method = registry.build(ModelConfig(backbone="fsrcnn", method="arm"))
    arm = saved(method, tmp_path / "arm.safetensors")
    content = arm.read_bytes()
    assert "smaller than one tile" in refuse(
        *tabulate[:2], write_image(tmp_path / "small.png", size=(64, 64)), *tabulate[3:], arm
    )
    sweep = ("sweep", "--weights", arm, "--images", image, "--out", tmp_path / "o.csv")
    assert "no PSNR table yet; build it with `pcsr tabulate`" in refuse(*sweep)
    assert arm.read_bytes() == content
    assert not out.exists() and not (tmp_path / "o.csv").exists()


def test_an_original_at_another_scale(refuse: Any, tmp_path: Path) -> None:
    method = registry.build(ModelConfig(backbone="fsrcnn", method="original"))
    path = saved(method, tmp_path / "fsrcnn.safetensors")
    image = write_image(tmp_path / "image.png", size=(252, 252))
    sweep = ("sweep", "--weights", path, "--images", image, "--out", tmp_path / "o.csv")
    assert "this fsrcnn-original was built for x4" in refuse(*sweep, "--scale", "3")


def test_options_that_would_be_ignored(refuse: Any, weights: Path, tmp_path: Path) -> None:
    method = registry.build(ModelConfig(backbone="fsrcnn", method="original"))
    original = saved(method, tmp_path / "fsrcnn.safetensors")
    image = write_image(tmp_path / "image.png", size=(64, 64))
    commands = {
        "upscale": ("upscale", image, tmp_path / "sr.png"),
        "demo": ("demo", image, "--out", tmp_path / "demo"),
        "sweep": ("sweep", "--images", image, "--out", tmp_path / "o.csv"),
        "bench": ("bench", "--images", image, "--out", tmp_path / "o.json"),
        "calibrate": ("calibrate-knob", "--images", image, "--out", tmp_path / "c.safetensors"),
    }
    for name, *options, message in (
        ("upscale", "--k", "1", "nothing to decide"),
        ("upscale", "--adaptive", "nothing to decide"),
        ("upscale", "--budget", "0.5", "nothing to decide"),
        ("upscale", "--psnr-drop", "0.1", "nothing to decide"),
        ("upscale", "--refine", "nothing to refine"),
        ("demo", "--k", "1", "nothing to decide"),
        ("demo", "--refine", "has pixels to refine"),
        ("sweep", "--knob", "0", "none of these weights has a knob"),
        ("bench", "--max-memory", "1GiB", "goes with --steps"),
        ("bench", "--profile", "--rounds", "0", "--profile with --rounds"),
        ("calibrate", "--knob", "1", "no knob to calibrate"),
    ):
        assert message in refuse(*commands[name], "--weights", original, *options)
    both = ("--k", "1", "--psnr-drop", "0.1")
    assert "not both" in refuse(*commands["upscale"], "--weights", weights, *both)
    assert not {path.name for path in tmp_path.iterdir()} & {"sr.png", "demo", "o.csv", "o.json"}


def small_files() -> None:
    """No file may grow over 2 KB: what a full disk does, for one process alone."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.mark.parametrize(
    "command", ["upscale", "sweep", "train", pytest.param("import", marks=pytest.mark.shared)]
)
def test_a_full_disk(
    workspace: Workspace, weights: Path, tmp_path: Path, shared: Path, command: str
) -> None:
    image = write_image(tmp_path / "image.png")
    suffix = {"upscale": ".png", "sweep": ".csv"}.get(command, ".safetensors")
    out = tmp_path / f"out/result{suffix}"
    suite = workspace.suite("full-disk")
    release = shared / "mirror/released/PCSR/save/fsrcnn-x4/iter_last.pth"
    knobs = [str(k / 10) for k in range(60)]
    sweep = ("sweep", "--weights", weights, "--images", image, "--out", out, "--knob", *knobs)
    arguments: dict[str, tuple[str | Path, ...]] = {
        "upscale": ("upscale", image, out, "--weights", weights),
        "sweep": sweep,
        "train": ("train", "fsrcnn-pcsr", "stage0", "--suite", suite, "--out", out),
        "import": ("import-released", release, "--out", out),
    }
    done = subprocess.run(
        workspace.command(*arguments[command]),
        cwd=workspace.folder,
        env=workspace.environment(PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(errors) == 1 and str(out.parent) in errors[0] and "free space" in errors[0]
    assert not out.exists()
    assert not list(out.parent.glob(".*"))
