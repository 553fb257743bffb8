"""The sweep, demo and upscale commands on real photographs."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from models import build, saved
from PIL import Image
from workspace import Workspace

from pcsr import registry
from pcsr.config.models import HeadConfig, ModelConfig
from pcsr.storage.journal import Journal

COLUMNS = [
    *("image", "method", "backbone", "scale", "knob", "adaptive", "lr", "crop", "refine"),
    *("psnr_rgb", "psnr_y", "ssim", "flops_paper", "flops_algorithmic"),
    *("flops_engine", "activations", "parameters", "share_0", "share_1"),
    *("units", "lr_pixels", "lr_height", "lr_width", "seconds", "weights"),
]


def save(path: Path, **options: object) -> Path:
    torch.manual_seed(0)
    method = registry.build(ModelConfig.model_validate({"backbone": "fsrcnn", **options}))
    return saved(method, path)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


@pytest.fixture(scope="module")
def pcsr_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "pcsr.safetensors", method="pcsr")


@pytest.fixture(scope="module")
def original_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "original.safetensors", method="original")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crops of a photograph that comes with scikit-image."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photographs")
    for i, x in enumerate((0, 80, 160)):
        Image.fromarray(data.chelsea()[:200, x : x + 260]).save(folder / f"cat_{i}.png")
    return folder


def test_sweep(
    workspace: Workspace,
    photographs: Path,
    pcsr_weights: Path,
    original_weights: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "sweep.csv"
    arguments = ("sweep", "--weights", original_weights, pcsr_weights, "--images", photographs)
    workspace.succeed(*arguments, "--knob", "-25", "0", "1", "--adaptive", "--out", out)
    table = pd.read_csv(out)
    assert list(table) == COLUMNS
    assert len(table) == 3 * (1 + 4)
    original, pcsr = table[table.method == "original"], table[table.method == "pcsr"]
    assert original.knob.isna().all() and not original.adaptive.any()
    assert pcsr[~pcsr.adaptive].knob.tolist() == [-25, 0, 1] * 3
    assert (pcsr.share_0 + pcsr.share_1).to_numpy() == pytest.approx(1)
    assert (pcsr[pcsr.knob == -25].share_1 == 1).all()
    assert (table.lr_height == 32).all() and (table.lr_width == 60).all()
    assert (original.flops_paper == 457_048 * 32 * 60).all()
    assert (original.units == 1).all() and (pcsr.units == 128 * 240).all()
    assert (table.lr_pixels == 32 * 60).all()
    assert (table.lr == "8bit").all() and (table.crop == "tiles").all() and table.refine.all()
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["protocol"] == {"lr": "8bit", "crop": "tiles", "refine": True}
    assert facts["images"] == 3 and facts["complete"] is True
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture(scope="module")
def tiled_weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A fresh ClassSR, and an ARM with a table."""
    folder = tmp_path_factory.mktemp("tiled")
    names = ("classsr", "arm")
    return [saved(build("fsrcnn", name), folder / f"{name}.safetensors") for name in names]


def test_methods_of_all_kinds_in_one_sweep_by_four_protocols(
    workspace: Workspace,
    photographs: Path,
    pcsr_weights: Path,
    original_weights: Path,
    tiled_weights: list[Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "sweep.csv"
    weights = ("--weights", original_weights, pcsr_weights, *tiled_weights)
    four = ("--no-refine", "--also", "lr=float", "refine=true", "lr=float,refine=true")
    image = ("--images", photographs / "cat_0.png", "--adaptive")
    workspace.succeed("sweep", *weights, *image, *four, "--out", out)
    table = pd.read_csv(out)
    last_shares = ["share_2", "share_3"]
    assert list(table) == [*COLUMNS[:-6], *last_shares, *COLUMNS[-6:]]
    # Method -> branches, units, LR pixels, operating points, refinements.
    two_tiles = 2 * 32 * 32
    eta = [0, 0.25, 0.5, 1, 1.5, 2, 3, 5]
    expected: dict[str, tuple[Any, ...]] = {
        "original": (1, 1, 32 * 60, [None], [False]),
        "pcsr": (2, 128 * 240, 32 * 60, [0, 0.5, 1, "ADM"], [False, True]),
        "classsr": (3, 2, two_tiles, [0, 0.5, 1], [False]),
        "arm": (4, 2, two_tiles, eta, [False]),
    }
    assert set(table.method) == expected.keys()
    for method, (branches, units, lr_pixels, knobs, refinements) in expected.items():
        rows = table[table.method == method]
        assert (rows.units == units).all() and (rows.lr_pixels == lr_pixels).all()
        shares = rows.filter(like="share_")
        assert (shares.notna().sum(axis=1) == branches).all()
        assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
        points = rows.groupby(["lr", "crop", "refine"])
        # Only a method that refines is measured with and without.
        assert set(points.groups) == set(product(("8bit", "float"), ["tiles"], refinements))
        for _, curve in points:
            knob = curve.knob.astype(object).mask(curve.adaptive, "ADM")
            assert knob.where(knob.notna(), None).tolist() == knobs
    # Where both heads are at work all four protocols make a difference.
    assert table[table.adaptive].psnr_rgb.nunique() == 4
    own = (table.lr == "8bit") & ~table.refine
    for measure in ("psnr_y", "ssim"):
        assert (table[measure].notna() == own).all()


def test_an_image_that_the_scale_does_not_divide(
    workspace: Workspace, photographs: Path, original_weights: Path, tmp_path: Path
) -> None:
    """Either way of cropping cuts it from the top left; one keeps all whole LR pixels."""
    odd = tmp_path / "odd.png"
    Image.open(photographs / "cat_0.png").crop((0, 0, 257, 199)).save(odd)
    out = tmp_path / "sweep.csv"
    sweep = ("sweep", "--weights", original_weights, "--images", odd, "--out", out)
    workspace.succeed(*sweep, "--also", "crop=none")
    table = pd.read_csv(out).set_index("crop")
    assert table.loc["none", ["lr_height", "lr_width"]].tolist() == [49, 64]
    assert table.loc["tiles", ["lr_height", "lr_width"]].tolist() == [32, 60]


def test_sweep_resumes_where_it_was_interrupted(
    workspace: Workspace, photographs: Path, pcsr_weights: Path, tmp_path: Path
) -> None:
    out, again = tmp_path / "sweep.csv", tmp_path / "again.csv"
    arguments = ("sweep", "--weights", pcsr_weights, "--images", photographs)
    broken = tmp_path / "photographs"
    broken.mkdir()
    for image in photographs.iterdir():
        (broken / image.name).write_bytes(image.read_bytes())
    workspace.succeed(*arguments, "--out", out)
    # An interruption leaves whole lines and the beginning of one.
    rows = [
        json.loads(pd.read_csv(out)[lambda t, n=n: t.image == n].to_json(orient="records"))
        for n in ("cat_0", "cat_1")
    ]
    identity = _identity(workspace, arguments, tmp_path)
    rows[0][0]["psnr_y"] = 12.5  # tells a kept row from one that is measured again
    part = again.with_name("again.csv.part")
    Journal(part, identity).restart(rows)
    part.write_bytes(part.read_bytes()[:-50])
    output = workspace.succeed(*arguments, "--out", again)
    assert "resuming after 1 measured images" in output
    first, second = pd.read_csv(out), pd.read_csv(again)
    assert second.psnr_y[0] == 12.5
    assert first.image.tolist() == second.image.tolist()
    pd.testing.assert_frame_equal(
        first.drop(columns=["seconds", "psnr_y"]), second.drop(columns=["seconds", "psnr_y"])
    )
    Journal(part, "other").restart(rows)
    workspace.succeed(*arguments, "--out", again)
    assert pd.read_csv(again).psnr_y[0] == first.psnr_y[0]


def _identity(workspace: Workspace, arguments: tuple[object, ...], folder: Path) -> str:
    """First line of the part file that this sweep writes."""
    out = folder / "identity.csv"
    process = workspace.start(workspace.command(*arguments, "--out", out))  # type: ignore[arg-type]
    part = out.with_name("identity.csv.part")
    while process.poll() is None and not (part.exists() and "\n" in part.read_text()):
        pass
    text = part.read_text()
    process.communicate()
    return text.splitlines()[0]


def test_lr_images_are_those_made(
    workspace: Workspace, photographs: Path, pcsr_weights: Path, tmp_path: Path
) -> None:
    """Given LR images give the numbers of the degradation that made them."""
    demo = tmp_path / "demo"
    arguments = ("--weights", pcsr_weights)
    lr = tmp_path / "lr"
    lr.mkdir()
    for image in sorted(photographs.iterdir()):
        workspace.succeed("demo", image, *arguments, "--lr", "8bit", "--out", demo)
        (lr / f"{image.stem}x4.png").write_bytes((demo / "LR.png").read_bytes())
    made, ready = tmp_path / "made.csv", tmp_path / "ready.csv"
    sweep = ("sweep", *arguments, "--images", photographs, "--crop", "none", "--no-refine")
    workspace.succeed(*sweep, "--out", made)
    workspace.succeed(*sweep, "--out", ready, "--lr-images", lr)
    pd.testing.assert_frame_equal(
        pd.read_csv(made).drop(columns="seconds"), pd.read_csv(ready).drop(columns="seconds")
    )


def test_demo(
    workspace: Workspace,
    photographs: Path,
    pcsr_weights: Path,
    original_weights: Path,
    tmp_path: Path,
) -> None:
    weights = ("--weights", original_weights, pcsr_weights)
    printed = workspace.succeed(
        "demo", photographs / "cat_0.png", *weights, "--adaptive", "--refine", "--out", tmp_path
    )
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(line in printed for line in lines)
    assert lines[0].startswith("fsrcnn-original: ") and lines[0].endswith("G (100 %)")
    assert lines[1].startswith("fsrcnn-pcsr: ") and " dB | " in lines[1]
    sizes = {path.name: size(path) for path in tmp_path.glob("*.png")}
    hr = ("HR", "fsrcnn-original", "fsrcnn-pcsr", "fsrcnn-pcsr-routing")
    assert sizes == {"LR.png": (65, 50), **{f"{name}.png": (260, 200) for name in hr}}


def test_demo_of_tile_methods(
    workspace: Workspace, photographs: Path, tiled_weights: list[Path], tmp_path: Path
) -> None:
    image = photographs / "cat_0.png"
    workspace.succeed("demo", image, "--weights", *tiled_weights, "--out", tmp_path)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["fsrcnn-classsr", "fsrcnn-arm"]
    for name in ("fsrcnn-classsr", "fsrcnn-arm"):
        assert size(tmp_path / f"{name}.png") == size(tmp_path / f"{name}-routing.png")
        assert size(tmp_path / f"{name}.png") == (260, 200)  # no whole number of tiles


@pytest.mark.parametrize("scale", [2, 3, 4, 2.5])
def test_upscale(workspace: Workspace, photographs: Path, tmp_path: Path, scale: float) -> None:
    heads = (HeadConfig(width=4, depth=1), HeadConfig(width=8, depth=1))
    weights = save(tmp_path / "w.safetensors", method="pcsr", scale=scale, heads=heads)
    workspace.succeed(
        "upscale", photographs / "cat_0.png", tmp_path / "sr.png", "--weights", weights
    )
    assert size(tmp_path / "sr.png") == (260 * scale, 200 * scale)


def test_upscale_a_folder(workspace: Workspace, pcsr_weights: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        noise = random.integers(0, 255, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).save(source / f"{name}.jpg")
    (source / "bad.png").write_text("no image")
    message = workspace.refuse("upscale", source, target, "--weights", pcsr_weights, "--k", "1")
    assert "bad.png" in message
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "b.png"]
    assert size(target / "a.png") == (28, 36)
