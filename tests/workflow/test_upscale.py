"""Upscaling within a limit of memory, for a budget or a PSNR drop; timing it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build, restored, saved
from PIL import Image
from workspace import Workspace

from pcsr.data.images import read
from pcsr.engine import memory
from pcsr.evaluation import knob_table
from pcsr.images.levels import to_tensor
from pcsr.report.leaderboard import timings
from pcsr.routing import OperatingPoint
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights that send pixels both ways, and two photographs."""
    from skimage import data

    folder = tmp_path_factory.mktemp("files")
    names = {"pcsr": ("carn", "pcsr"), "original": ("carn", "original"), "arm": ("fsrcnn", "arm")}
    found = {n: saved(build(*which), folder / f"{n}.safetensors") for n, which in names.items()}
    for name, image in (("cat", data.chelsea()), ("astronaut", data.astronaut())):
        found[name] = folder / f"{name}.png"
        Image.fromarray(image[:150, :200]).save(found[name])
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("here"))


def upscaled(here: Workspace, out: Path, *arguments: str | Path, **env: str) -> np.ndarray:
    here.succeed("upscale", *arguments, **env)
    return read(out)


def test_a_budget_is_kept_and_spent(
    here: Workspace, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "sr.png"
    weights = ("--weights", files["pcsr"])
    sr = upscaled(here, out, files["cat"], out, *weights, "--budget", "0.6", "--threads", "2")
    method, _ = load_method(files["pcsr"])
    original, _ = load_method(files["original"])
    lr = to_tensor(read(files["cat"]))
    whole = original.costs((150, 200), 4).total([1]).engine
    with torch.no_grad():
        found = restored(
            method, lr, 4, OperatingPoint(budget=0.6 * whole / (150 * 200)), refine=True
        )
    units = torch.bincount(found.labels.flatten(), minlength=2).tolist()
    spent = method.costs((150, 200), 4).total(units).engine
    assert 0.6 * whole - 1e5 < spent <= 0.6 * whole  # a pixel costs less than 1e5
    mine = found.sr[0].clamp(0, 1).mul(255).add(0.5).floor().permute(1, 2, 0).numpy()
    assert (sr != mine).mean() < 1e-4
    for share in ("0.1", "0", "-1", "nan"):
        error = here.refuse("upscale", files["cat"], out, *weights, "--budget", share)
        assert "budget" in error
    arm = ("upscale", files["cat"], out, "--weights", files["arm"])
    assert "arm does not support a budget" in here.refuse(*arm, "--budget", "0.5")


def test_one_way_to_say_how_much(here: Workspace, files: dict[str, Path], tmp_path: Path) -> None:
    upscale = ("upscale", files["cat"], tmp_path / "sr.png", "--weights", files["pcsr"])
    assert "give one of --k" in here.refuse(*upscale, "--k", "1", "--budget", "0.5")
    error = here.refuse(*upscale, "--psnr-drop", "0.02")
    assert "make it with `pcsr calibrate-knob`" in error
    for limit in ("much", "-2GiB"):
        assert "--max-memory" in here.refuse(*upscale, "--max-memory", limit)
    assert "MiB are left; give more memory" in here.refuse(*upscale, "--max-memory", "10MiB")
    assert not (tmp_path / "sr.png").exists()


def test_a_psnr_drop_is_looked_up(here: Workspace, files: dict[str, Path], tmp_path: Path) -> None:
    calibrated, out = tmp_path / "calibrated.safetensors", tmp_path / "sr.png"
    said = here.succeed(
        *("calibrate-knob", "--weights", files["pcsr"], "--images", files["astronaut"]),
        *("--knob", "25", "-25", "0", "--out", calibrated),
    )
    assert "25: " in said and "% of the FLOPs" in said
    _, facts = checkpoint.load(calibrated)
    points = knob_table.read(facts, "it")
    assert [point.knob for point in points] == [-25, 0, 25]  # the most expensive first
    assert points[0].drop == 0 and points[0].share == 1 > points[1].share > points[2].share
    assert facts["model"]["method"] == "pcsr"
    highest = max(point.drop for point in points) + 1
    weights = ("--weights", calibrated)
    by_drop = upscaled(here, out, files["cat"], out, *weights, "--psnr-drop", str(highest))
    by_k = upscaled(here, out, files["cat"], out, *weights, "--knob", "25")
    assert np.array_equal(by_drop, by_k)


def peak(here: Workspace, *arguments: str | Path) -> int:
    """Run a command in a process of its own; returns the most memory that it had."""
    # The maximum starts at that of the process that forks, so a small one has to.
    count = (
        "import resource, subprocess, sys; "
        "subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", count, *here.command(*arguments)],
        cwd=here.folder,
        env=here.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return 1024 * int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
@pytest.mark.parametrize(("name", "room"), [("pcsr", 450), ("arm", 150)])
def test_memory_stays_below_its_limit(
    name: str, room: int, here: Workspace, files: dict[str, Path], tmp_path: Path
) -> None:
    large, out = tmp_path / "large.png", tmp_path / "sr.png"
    Image.open(files["cat"]).resize((900, 600)).save(large)
    adaptive = ("--adaptive",) if name == "pcsr" else ()
    how = (out, "--weights", files[name], *adaptive)
    # What an unlimited run takes varies by a fifth with the load of the machine, so it is no base.
    # ARM's is finished in strips even without a limit. Finished whole, it takes 310 MiB more than
    # the small image.
    limit = peak(here, "upscale", files["cat"], *how) + room * 2**20
    here.succeed("upscale", large, *how)
    whole = read(out)
    found = peak(here, "upscale", large, *how, "--max-memory", str(limit))
    assert found < limit
    apart = np.abs(read(out).astype(int) - whole)
    assert (apart == 0).mean() >= 0.99999 and apart.max() <= 1


def test_bench_and_its_page(here: Workspace, files: dict[str, Path], tmp_path: Path) -> None:
    out, grown, page = (tmp_path / name for name in ("bench.json", "sizes.json", "latency.md"))
    large = tmp_path / "large.png"
    Image.open(files["cat"]).resize((960, 540)).save(large)
    here.succeed(
        *("bench", "--fresh", "fsrcnn", "--weights", files["pcsr"], files["original"]),
        *("--images", files["astronaut"], "--knob", "1", "--budget", "0.3", "0.9"),
        *("--rounds", "1", "--profile", "--out", out),
        *("--precision", "float32", "bf16", "--peers", "onnxruntime", "openvino"),
    )
    measured = json.loads(out.read_text())
    rows: list[dict[str, Any]] = measured["cases"]
    paths = [(row["backbone"], row["path"], row["knob"]) for row in rows]
    assert ("carn", "definition", "1") in paths and ("fsrcnn", "original", "") in paths
    assert ("carn", "engine", "budget 0.9") in paths
    assert ("carn", "engine", "budget 0.3") not in paths  # less than light everywhere
    times = timings.load([out])
    assert times[["backbone", "method"]].to_numpy().tolist() == [
        [row["backbone"], row["method"]]
        for row in rows
        if row["path"] == "original" or (row["backbone"], row["knob"]) == ("carn", "1")
        if row["path"] in ("original", "engine") and row["precision"] == "float32"
    ]
    programs = {(row["path"], row["precision"]) for row in rows if row["method"] == "pcsr"}
    assert {("engine", "bf16"), ("onnxruntime", "float32"), ("openvino", "float32")} < programs
    for row in rows:
        if row["path"] in ("onnxruntime", "openvino"):
            assert row["max_levels"] <= 1 and row["seconds"] > 0 and row["peak_bytes"] is None
            continue
        if row["precision"] == "bf16":
            assert row["identical"] > 0.5
            continue
        if row["path"] == "original":
            assert row["time_ratio"] == row["flops_ratio"] == row["flops_ratio_engine"] == 1
        if row["path"] == "engine" and row["knob"] == "1":
            assert row["max_levels"] <= 1 and row["identical"] > 0.9999
        if row["knob"] == "budget 0.9":
            # Not all of it: pixels of the same score go one way together.
            assert 0.8 < row["flops_ratio_engine"] <= 0.9
        assert row["seconds"] > 0 and row["peak_bytes"] > 12 * 4 * row["lr_height"]
    here.succeed(
        *("bench", "--weights", files["pcsr"], files["original"], "--images", large),
        *("--knob", "1", "--steps", "2", "--rounds", "0", "--out", grown),
    )
    assert "no file has cases of a method" in here.refuse("latency", grown, "--out", page)
    sizes = json.loads(grown.read_text())["sizes"]
    assert [(s["hr_width"], s["hr_height"]) for s in sizes[:2]] == [(960, 540), (1920, 1080)]
    here.succeed("latency", out, grown, "--out", page)
    text = page.read_text()
    assert "What takes the time" in text and "mkldnn_convolution" in text
    assert "| carn-pcsr | reference PCSR | float32 |" in text and "How time grows" in text
    assert text.index("What a user could run") < text.index("| ONNX Runtime | float32 |")
    assert all(page.with_suffix(suffix).exists() for suffix in (".png", ".svg", ".html"))
    older = tmp_path / "older.json"
    older.write_text(out.read_text().replace("heavy_share", "dear_share"))
    refused = here.refuse("latency", older, "--out", page)
    assert "older.json: cases.0.heavy_share: Field required" in refused
    assert "no original of carn" in here.refuse(
        *("bench", "--weights", files["pcsr"], "--images", files["astronaut"], "--out", out)
    )
    half = ("--images", large, "--precision", "float16", "--device", "cpu", "--out", out)
    assert "half precision is bf16 on this device" in here.refuse(
        "bench", "--weights", files["original"], *half
    )
    assert "cannot be read" in here.refuse("latency", files["cat"], "--out", page)


def test_the_gpu_script_resumes_where_it_stopped(
    here: Workspace, files: dict[str, Path], tmp_path: Path
) -> None:
    large, out = tmp_path / "large.png", tmp_path / "engine.json"
    Image.open(files["cat"]).resize((960, 540)).save(large)
    script = Path(__file__).parents[2] / "benchmarks/gpu/engine.py"
    how = ("--device", "cpu", "--backbones", "fsrcnn", "--sizes", "1K", "--image", large)
    command = [sys.executable, script, *how, "--weights", tmp_path, "--out", out]
    done = [
        subprocess.run(command, env=here.environment(), capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert "fsrcnn 1K pcsr float32 eager" in done[0].stdout and not done[1].stdout
    rows = json.loads(out.read_text())["rows"]
    assert [row["case"][2] for row in rows] == ["original", "pcsr"]
    assert all(row["seconds"] > 0 and row["profile"] for row in rows)


def test_held_memory_is_what_bench_reports() -> None:
    with memory.Held() as held, torch.no_grad():
        restored(build("fsrcnn", "original"), torch.rand(1, 3, 16, 16), 4, None, refine=False)
    assert held.peak > 56 * 16 * 16 * 4
