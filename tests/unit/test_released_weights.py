"""Published ClassSR and ARM files: recognised, converted without loss, and never executed."""

import math
import pickle
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import photograph_like, restored
from reference import formula_weights
from workspace import Runs, Workspace

from pcsr.data import images
from pcsr.errors import UserError
from pcsr.images.levels import to_uint8
from pcsr.training.tabulate import tabulate
from pcsr.weights import checkpoint, released
from pcsr.weights.convert import import_released
from pcsr.weights.load import load_method

pytestmark = pytest.mark.shared

# File in the mirror -> method, channels, and the beginning of what is said of it.
FILES = {
    "ARM-Net/ckpt/arm-fsrcnn.pth": ("arm", (16, 36, 56), "ARM release, fsrcnn x4, full width 56"),
    "ARM-Net/ckpt/arm-carn.pth": ("arm", (36, 52, 64), "ARM release, carn x4, full width 64"),
    "ClassSR/ClassSR_FSRCNN.pth": ("classsr", (16, 36, 56), "ClassSR release, fsrcnn joint model"),
    "ClassSR/ClassSR_CARN.pth": ("classsr", (36, 52, 64), "ClassSR release, carn joint model"),
    "ClassSR/FSRCNN_branch1.pth": ("original", 16, "one network of the ClassSR release"),
    "ClassSR/CARN_branch2.pth": ("original", 52, "one network of the ClassSR release"),
    "ClassSR/SRResNet_branch1.pth": ("original", 36, "one network of the ClassSR release"),
}


@pytest.fixture
def mirror(shared: Path) -> Path:
    return shared / "mirror/released"


PCSR_FILES = {
    "PCSR/save/fsrcnn-x4/iter_last.pth": ("fsrcnn original x4, width 56", 2_000_000),
    "PCSR/save/fsrcnn-pcsr-phase1/iter_last.pth": ("fsrcnn pcsr x4, width 48", 2_500_000),
    "PCSR/save/fsrcnn-pcsr-phase1/iter_100000.pth": ("fsrcnn pcsr x4, width 48", 2_100_000),
    "PCSR/save/carn-x4/iter_last.pth": ("carn original x4, width 64", 2_000_000),
    "PCSR/save/carn-pcsr-phase1/iter_last.pth": ("carn pcsr x4, width 52", 2_500_000),
}


@pytest.mark.parametrize("name", list(PCSR_FILES))
def test_the_whole_pcsr_release_is_recognised(mirror: Path, tmp_path: Path, name: str) -> None:
    what, iterations = PCSR_FILES[name]
    out = tmp_path / "w.safetensors"
    said = import_released(mirror / name, out=out)
    assert said == f"PCSR release, {what}, {iterations} iterations -> {out}"
    _, facts = load_method(out)
    assert facts["iterations"] == iterations
    assert facts["source"]["sha256"] == checkpoint.sha256(mirror / name)


def srresnet(shared: Path, folder: Path, name: str) -> Path:
    """SRResNet's formula weights in the layout of the PCSR release, which is not available."""
    file = folder / name / "iter_last.pth"
    file.parent.mkdir()
    model = {"name": "srresnet", "args": {"scale": 4}, "sd": formula_weights(shared, name)}
    torch.save({"model": model, "optimizer": {}, "iter": 500_000}, file)
    return file


@pytest.mark.parametrize(
    ("name", "knob", "expected"),
    [("srresnet-x4", None, "original"), ("srresnet-pcsr", 0.0, "sr_k0_refined")],
)
@torch.no_grad()
def test_srresnet_of_the_pcsr_release(
    shared: Path, tmp_path: Path, name: str, knob: float | None, expected: str
) -> None:
    out = tmp_path / "w.safetensors"
    said = import_released(srresnet(shared, tmp_path, name), out=out)
    kind = {"original": "original", "sr_k0_refined": "pcsr"}[expected]
    assert said.startswith(f"PCSR release, srresnet {kind} x4, width ")
    method, _ = load_method(out)
    with np.load(shared / "golden/pcsr_srresnet_formula.npz") as golden:
        lr = torch.from_numpy(golden["lr_input"])[None]
        sr = restored(method, lr, 4, knob, refine=True).sr[0]
        np.testing.assert_allclose(sr.numpy(), golden[expected], rtol=0, atol=1e-4)


def test_srresnet_of_the_classsr_release(shared: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "ClassSR_SRResNet.pth", tmp_path / "w.safetensors"
    torch.save(formula_weights(shared, "classsr-srresnet"), file)
    said = import_released(file, out=out)
    assert said.startswith("ClassSR release, srresnet joint model x4, widths 36, 52, 64")
    weights = formula_weights(shared, "classsr-srresnet")
    expected = released.rename_method("classsr", "srresnet", weights)
    ours = load_method(out)[0].state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)


@torch.no_grad()
def test_srresnet_of_the_arm_release(shared: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "arm-srresnet.pth", tmp_path / "w.safetensors"
    torch.save(formula_weights(shared, "srresnet-x4"), file)
    copy(shared / "mirror/released/ARM-Net/ckpt/arm-carn.state", file.with_suffix(".state"))
    said = import_released(file, out=out)
    assert said.startswith("ARM release, srresnet x4, full width 64, 2000002 iterations")
    method, _ = load_method(out)
    full = restored(method, photograph_like(40, 56), 4, 50.0, refine=False)
    assert full.labels.max() == 3 and torch.isfinite(full.sr).all()


def test_pcsr_phase_0_is_refused(shared: Path, tmp_path: Path) -> None:
    file = tmp_path / "iter_last.pth"
    weights = formula_weights(shared, "fsrcnn-pcsr-phase1")
    phase0 = {n: w for n, w in weights.items() if n.startswith(("encoder.", "sampler."))}
    torch.save({"model": {"name": "pcsr-phase0", "args": {}, "sd": phase0}, "iter": 1}, file)
    assert "PCSR phase 0, which has no router; give phase 1" in refused(file)


def wide(width: int) -> torch.Tensor:
    return torch.zeros(1, 1, 1, 1).expand(width, 3, 3, 3)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("conv_first.weight", torch.zeros(2000, 3, 3, 3), "'conv_first.weight' has 2000 channels"),
        ("conv_first.weight", wide(200_000), "'conv_first.weight' is larger than the file"),
        ("conv_first.bias", torch.full((64,), math.nan), "'conv_first.bias' is not of plain fin"),
        ("conv_first.bias", torch.zeros(64, device="meta"), "refused, because it is more"),
        ("conv_first.bias", torch.zeros(64).to_sparse(), "refused, because it is more"),
        ("conv_first.bias", torch.zeros(64, dtype=torch.int8), "'conv_first.bias' is not of pl"),
    ],
)
def test_tensors_that_are_no_weights_are_refused(
    shared: Path, tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    file = tmp_path / "iter_last.pth"
    weights = formula_weights(shared, "srresnet-x4") | {name: tensor}
    torch.save({"model": {"name": "srresnet", "args": {}, "sd": weights}, "iter": 1}, file)
    assert message in refused(file)


def test_an_invalid_number_of_iterations_is_ignored(shared: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "iter_last.pth", tmp_path / "w.safetensors"
    model = {"name": "srresnet", "args": {}, "sd": formula_weights(shared, "srresnet-x4")}
    for count in (10**30, True, -1, "many"):
        torch.save({"model": model, "iter": count}, file)
        assert "unknown length" in import_released(file, out=out)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_a_command_does_nothing(
    tmp_path: Path, workspace: Workspace, legacy: bool
) -> None:
    """As the whole file or deep inside what looks like a release, in both formats of torch."""
    proof, file = tmp_path / "ran", tmp_path / "iter_last.pth"
    release_like = {"model": {"name": "carn", "args": {}, "sd": Runs(proof)}, "iter": 1}
    for content in (Runs(proof), release_like, {"weight": Runs(proof)}):
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        message = workspace.refuse("import-released", file, "--out", tmp_path / "w.safetensors")
        assert str(file) in message and "refused, because it is more than weights" in message
        assert "system" in message
    file.write_bytes(pickle.dumps(Runs(proof)))  # not even torch's format
    message = workspace.refuse("import-released", file, "--out", tmp_path / "w.safetensors")
    assert str(file) in message
    assert not proof.exists() and not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("name", list(FILES))
@torch.no_grad()
def test_converted_weights_route_and_restore_like_the_file(
    mirror: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "w.safetensors"
    kind, width, recognised = FILES[name]
    assert import_released(mirror / name, out=out).startswith(recognised)
    theirs, _ = load_method(mirror / name)
    ours, facts = load_method(out)
    assert ours.config == theirs.config and ours.config.method == kind
    assert width in [ours.config.options.get("width"), tuple(ours.config.options.get("widths", ()))]
    assert facts["source"]["sha256"] == checkpoint.sha256(mirror / name)
    assert facts["iterations"] == (2_000_002 if kind == "arm" else None)
    lr = photograph_like(40, 56)
    for knob in (theirs.points[0], 0.4):
        one, other = (restored(method, lr, 4, knob, refine=False) for method in (theirs, ours))
        assert torch.equal(one.labels, other.labels) and torch.equal(one.sr, other.sr)
    sr = restored(theirs, lr, 4, theirs.points[0], refine=False).sr
    small = torch.nn.functional.avg_pool2d(sr, 4)
    assert (small - lr).abs().mean() < 0.05  # it is the image


def test_a_table_built_anew_for_a_released_file(mirror: Path, tmp_path: Path) -> None:
    """What `pcsr tabulate` writes can be used, whatever file its weights came from."""
    image, out = tmp_path / "image.png", tmp_path / "w.safetensors"
    images.write(image, to_uint8(photograph_like(4 * 40, 4 * 56)))
    released = mirror / "ARM-Net/ckpt/arm-fsrcnn.pth"
    tabulate(weights=released, images=image, out=out, device="cpu", threads=1)
    method, facts = load_method(out)
    assert facts["table"]["tiles"] == 1 and facts["table"]["weights"] == checkpoint.digest(released)
    assert not torch.equal(method.psnr, load_method(released)[0].psnr)  # type: ignore[arg-type]


@pytest.fixture
def carn(mirror: Path, tmp_path: Path) -> Path:
    """ARM's CARN without the file of its tables, which may be put beside it."""
    return Path(copy(mirror / "ARM-Net/ckpt/arm-carn.pth", tmp_path / "mine.pth"))


def refused(file: Path) -> str:
    out = file.with_name("out.safetensors")
    with pytest.raises(UserError) as error:
        import_released(file, out=out)
    assert not out.exists() and not out.with_suffix(".json").exists()
    return str(error.value)


def test_arm_without_its_tables_is_refused(carn: Path) -> None:
    message = refused(carn)
    assert str(carn) in message and "put mine.state beside it" in message


def test_the_tables_alone_are_refused(mirror: Path) -> None:
    state = mirror / "ARM-Net/ckpt/arm-carn.state"
    with pytest.raises(UserError, match=f"{state}: these are the tables .* give its .pth file"):
        released.read(state)


def test_tables_that_would_run_something_are_refused(carn: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    tables = {"hmap_x_list": Runs(proof), "hmap_y_mean_list": [[0.0] * 30] * 4}
    for state in (Runs(proof), {"hmap": tables}):
        torch.save(state, carn.with_suffix(".state"))
        message = refused(carn)
        assert str(carn.with_suffix(".state")) in message and "it would run" in message
        assert "system" in message
    assert not proof.exists()


BINS = [float(one) for one in range(30)]
GOOD = [BINS] * 4


@pytest.mark.parametrize(
    "state",
    [
        {"hmap": {"hmap_x_list": GOOD, "hmap_y_mean_list": GOOD[:3]}},
        {"hmap": {"hmap_x_list": [*GOOD[:3], [1.0] * 30], "hmap_y_mean_list": GOOD}},
        {"hmap": {"hmap_x_list": GOOD, "hmap_y_mean_list": [*GOOD[:3], [math.nan] * 30]}},
        {"hmap": {"hmap_x_list": GOOD, "hmap_y_mean_list": [*GOOD[:3], "text"]}},
        {"hmap": {"hmap_x_list": GOOD}},
        {"iter": 5},
        [1, 2],
        {"hmap": {"hmap_x_list": [], "hmap_y_mean_list": []}},
    ],
)
def test_files_that_are_no_tables_are_refused(carn: Path, state: object) -> None:
    torch.save(state, carn.with_suffix(".state"))
    assert "inconsistent" in refused(carn)


def test_tables_of_another_shape_are_refused(carn: Path) -> None:
    short = [np.linspace(0, 200, 7)] * 4
    hmap = {"hmap_x_list": short, "hmap_y_mean_list": short}
    torch.save({"hmap": hmap}, carn.with_suffix(".state"))
    message = refused(carn)
    assert "edges" in message and "(7,)" in message and "(30,)" in message


class Pointers:
    """Pickles to an array of pointers made of the file's own bytes."""

    def __reduce__(self) -> Any:
        return np.ndarray, ((4, 30), ObjectType(), b"A" * 960)


class ObjectType:
    def __reduce__(self) -> Any:
        return np.dtype, ("O",)


def test_arrays_of_pointers_are_refused(carn: Path) -> None:
    hmap = {"hmap_x_list": Pointers(), "hmap_y_mean_list": Pointers()}
    torch.save({"iter": 1, "hmap": hmap}, carn.with_suffix(".state"))
    assert str(carn.with_suffix(".state")) in refused(carn)


def test_truncated_files_are_refused(carn: Path, mirror: Path) -> None:
    state = Path(copy(mirror / "ARM-Net/ckpt/arm-carn.state", carn.with_suffix(".state")))
    state.write_bytes(state.read_bytes()[:1000])
    message = refused(carn)
    assert str(state) in message and "not a readable PyTorch file" in message
    joint = Path(copy(mirror / "ClassSR/ClassSR_FSRCNN.pth", carn.with_name("joint.pth")))
    weights = torch.load(joint, weights_only=True)
    del weights["net2.tail_conv.bias"]
    torch.save(weights, joint)
    assert f"{joint}: has no tensor 'networks.1.tail.bias'" in refused(joint)
