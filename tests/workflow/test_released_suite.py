"""The suite of released weights from a mirror that has some of them and few images."""

import hashlib
from pathlib import Path
from shutil import copy, copytree

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from reference import formula_weights
from workspace import Workspace

pytestmark = pytest.mark.shared

RELEASED = [
    "PCSR/save/fsrcnn-x4/iter_last.pth",
    "PCSR/save/fsrcnn-pcsr-phase1/iter_last.pth",
    "ClassSR/ClassSR_FSRCNN.pth",
    "ARM-Net/ckpt/arm-fsrcnn.pth",
    "ARM-Net/ckpt/arm-fsrcnn.state",
]


@pytest.fixture(scope="module")
def mirror(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FSRCNN's releases, SRResNet by formula in their layout, two small images of Urban100."""
    folder = tmp_path_factory.mktemp("mirror")
    for name in RELEASED:
        (folder / "released" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(shared / "mirror/released" / name, folder / "released" / name)
    for name, weights in (
        ("srresnet-x4", "srresnet-x4"),
        ("srresnet-pcsr-phase1", "srresnet-pcsr"),
    ):
        file = folder / "released/PCSR/save" / name / "iter_last.pth"
        file.parent.mkdir()
        model = {"name": "srresnet", "args": {}, "sd": formula_weights(shared, weights)}
        torch.save({"model": model, "iter": 2_000_000}, file)
    (folder / "Urban100/HR").mkdir(parents=True)
    for number in (1, 2):
        name = f"img_00{number}.png"
        with Image.open(shared / "mirror/Urban100/HR" / name) as image:
            image.crop((300, 200, 300 + 258, 200 + 130)).save(folder / "Urban100/HR" / name)
    return folder


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, workspace: Workspace, mirror: Path
) -> Workspace:
    """A checkout in which the suite was run with that mirror, and its files are the published."""
    made = Workspace(tmp_path_factory.mktemp("released"))
    path = made.path("configs/released.yaml")
    configured = yaml.safe_load(path.read_text())
    for experiment in ("srresnet-original", "srresnet-pcsr"):
        for file in configured["released"][experiment]["files"]:
            held = (mirror / "released" / file["path"]).read_bytes()
            file["git_blob"] = hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()
    path.write_text(yaml.safe_dump(configured))
    done = made.snakemake("--configfile", "configs/suites/released.yaml", PCSR_MIRROR=str(mirror))
    assert done.returncode == 0, done.stdout[-5000:]
    return made


def test_what_the_mirror_has_is_measured(released: Workspace) -> None:
    results = pd.read_csv(released.path("reports/released/results.csv"))
    methods = {"fsrcnn": {"original", "classsr", "arm", "pcsr"}, "srresnet": {"original", "pcsr"}}
    measured = results.groupby("backbone")["method"].agg(set).to_dict()
    assert measured == methods
    assert set(results.image) == {"img_001", "img_002"} and results.released.all()
    by_method = results.groupby("method")
    protocols = {
        method: set(zip(of.lr, of.crop, of.refine, strict=True)) for method, of in by_method
    }
    tiles = {("8bit", "tiles", True), ("float", "tiles", True)}
    assert protocols["classsr"] == protocols["arm"] == tiles
    assert protocols["original"] == tiles | {("8bit", "none", True)}
    raw = {("8bit", "tiles", False), ("float", "tiles", False)}
    assert protocols["pcsr"] == protocols["original"] | raw


def test_what_it_lacks_is_named_and_not_run(released: Workspace) -> None:
    page = released.path("reports/released/inputs.md").read_text()
    assert "neither PCSR_MIRROR nor data/raw has released/PCSR/save/carn-x4/iter_last.pth" in page
    reason = "PCSR_MIRROR has neither Set5/HR nor benchmark.tar, data/raw has no benchmark.tar"
    assert f"| set5 | not run: {reason} |" in page
    assert "| b100 | not run: " in page
    assert "| urban100 | partial | 2 | 100 | img_001 to img_002 |" in page
    assert "PCSR release, srresnet pcsr x4, width 58" in page
    assert "| PCSR/save/srresnet-pcsr-phase1/iter_last.pth |" in page
    claims = released.path("reports/released/claims.md").read_text()
    urban = claims.partition("## Urban100")[2].partition("Relative to the original")[0]
    lines = {line.split("|")[1].strip(): line for line in urban.splitlines() if "K)" in line}
    for model in ("FSRCNN (25K)", "FSRCNN-ClassSR (113K)", "FSRCNN-ARM (25K)", "FSRCNN-PCSR (25K)"):
        assert lines[model].endswith("| partial: 2 of 100 images |")
    assert claims.count("partial: 2 of 100 images |") == 6
    assert lines["CARN (295K)"].endswith("| not run |")
    assert "### FSRCNN-PCSR: published 22.89 dB, 3.4 GFLOPs" in claims


def test_images_and_curves_are_drawn(released: Workspace) -> None:
    folder = released.path("reports/released/urban100")
    drawn = {path.stem for path in folder.glob("*.png")}
    curves = {"fsrcnn-psnr-flops", "srresnet-psnr-flops"}
    methods = ("fsrcnn-classsr", "fsrcnn-arm", "fsrcnn-pcsr", "srresnet-pcsr")
    assert drawn == curves | {f"{m}-{kind}" for m in methods for kind in ("routing", "comparison")}


def test_nothing_runs_twice_and_an_added_image_is_found(
    released: Workspace, mirror: Path, tmp_path: Path
) -> None:
    suite = ("-n", "--configfile", "configs/suites/released.yaml")
    again = released.snakemake(*suite, PCSR_MIRROR=str(mirror))
    assert "Nothing to be done" in again.stdout
    more = tmp_path / "mirror"
    copytree(mirror, more)
    copytree(mirror / "Urban100", more / "Set5")
    (more / "released/PCSR/save/srresnet-x4/iter_last.pth").unlink()  # it was taken before
    grown = released.snakemake(*suite, PCSR_MIRROR=str(more))
    assert "pcsr prepare set5" in grown.stdout and "pcsr inputs" in grown.stdout
    assert grown.stdout.count("pcsr sweep") == 6 and "fetch-released" not in grown.stdout


def test_without_anything_the_run_ends_with_what_is_missing(
    workspace: Workspace, tmp_path: Path
) -> None:
    done = workspace.snakemake(
        "-n", "--configfile", "configs/suites/released.yaml", PCSR_MIRROR=str(tmp_path)
    )
    assert done.returncode and "none of its weights are available here" in done.stdout
    message = workspace.refuse("fetch-released", "carn-pcs", "--out", tmp_path / "w.safetensors")
    assert (
        "configs/released.yaml: unknown experiment 'carn-pcs'. Did you mean 'carn-pcsr'" in message
    )


def test_a_file_of_another_model_is_refused(
    workspace: Workspace, shared: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw/released/ClassSR"
    raw.mkdir(parents=True)
    copy(shared / "mirror/released/ClassSR/ClassSR_FSRCNN.pth", raw / "ClassSR_SRResNet.pth")
    out = tmp_path / "w.safetensors"
    arguments = ("fetch-released", "srresnet-classsr", "--raw", tmp_path / "raw", "--out", out)
    message = workspace.refuse(*arguments)
    assert "is no srresnet-classsr: its backbone is fsrcnn" in message and not out.exists()


def test_a_suite_of_released_weights_does_not_train(workspace: Workspace, tmp_path: Path) -> None:
    suite = ("--suite", "configs/suites/released.yaml", "--out", tmp_path / "w.safetensors")
    message = workspace.refuse("train", "carn-pcsr", "stage0", *suite)
    assert "released ones are not trained; use a suite that trains" in message
