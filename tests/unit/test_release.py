"""Published ClassSR and ARM files: recognised, converted without loss, and never executed."""

import math
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import torch
from models import photograph_like
from workspace import Runs

from pcsr import catalog, checkpoint, images, release, verbs
from pcsr.errors import UserError

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


@pytest.mark.parametrize("name", list(FILES))
@torch.no_grad()
def test_converted_weights_route_and_restore_like_the_file(
    mirror: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "w.safetensors"
    kind, width, recognised = FILES[name]
    assert verbs.import_released(mirror / name, out).startswith(recognised)
    theirs, _ = catalog.load_method(mirror / name)
    ours, facts = catalog.load_method(out)
    assert ours.config == theirs.config and ours.config.method == kind
    assert width in (ours.config.width, ours.config.widths)
    assert facts["source"]["sha256"] == checkpoint.digest(mirror / name)
    assert facts["iterations"] == (2_000_002 if kind == "arm" else None)
    lr = photograph_like(40, 56)
    for knob in (theirs.default_knob, 0.4):
        one, other = (method.restore(lr, 4, knob, refine=False) for method in (theirs, ours))
        assert torch.equal(one.labels, other.labels) and torch.equal(one.sr, other.sr)
    sr = theirs.restore(lr, 4, theirs.default_knob, refine=False).sr
    small = torch.nn.functional.avg_pool2d(sr, 4)
    assert (small - lr).abs().mean() < 0.05  # it is the picture


def test_a_table_built_anew_for_a_released_file(mirror: Path, tmp_path: Path) -> None:
    """What `pcsr tabulate` writes can be used, whatever file its weights came from."""
    image, out = tmp_path / "image.png", tmp_path / "w.safetensors"
    images.write(image, images.to_uint8(photograph_like(4 * 40, 4 * 56)))
    released = mirror / "ARM-Net/ckpt/arm-fsrcnn.pth"
    verbs.tabulate(released, image, out, "cpu", 1, None)
    method, facts = catalog.load_method(out)
    assert facts["table"]["tiles"] == 1 and facts["table"]["weights"] == checkpoint.digest(released)
    assert not torch.equal(method.psnr, catalog.load_method(released)[0].psnr)  # type: ignore[arg-type]


@pytest.fixture
def carn(mirror: Path, tmp_path: Path) -> Path:
    """ARM's CARN without the file of its tables, which may be put beside it."""
    return Path(copy(mirror / "ARM-Net/ckpt/arm-carn.pth", tmp_path / "mine.pth"))


def refused(file: Path) -> str:
    out = file.with_name("out.safetensors")
    with pytest.raises(UserError) as error:
        verbs.import_released(file, out)
    assert not out.exists() and not out.with_suffix(".json").exists()
    return str(error.value)


def test_arm_without_its_tables_is_refused(carn: Path) -> None:
    message = refused(carn)
    assert str(carn) in message and "put mine.state beside it" in message


def test_the_tables_alone_are_refused(mirror: Path) -> None:
    state = mirror / "ARM-Net/ckpt/arm-carn.state"
    with pytest.raises(UserError, match=f"{state}: these are the tables .* give its .pth file"):
        release.read(state)


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
def test_tables_that_are_none_are_refused(carn: Path, state: object) -> None:
    torch.save(state, carn.with_suffix(".state"))
    assert "do not fit together" in refused(carn)


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


def test_cut_files_are_refused(carn: Path, mirror: Path) -> None:
    state = Path(copy(mirror / "ARM-Net/ckpt/arm-carn.state", carn.with_suffix(".state")))
    state.write_bytes(state.read_bytes()[:1000])
    message = refused(carn)
    assert str(state) in message and "not a readable PyTorch file" in message
    joint = Path(copy(mirror / "ClassSR/ClassSR_FSRCNN.pth", carn.with_name("joint.pth")))
    weights = torch.load(joint, weights_only=True)
    del weights["net2.tail_conv.bias"]
    torch.save(weights, joint)
    assert f"{joint}: has no tensor 'networks.1.tail.bias'" in refused(joint)
