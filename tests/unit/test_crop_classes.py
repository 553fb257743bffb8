"""Classes of training crops: measured like everything else, split evenly, resumed exactly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import build, restored
from safetensors.torch import load_file

from pcsr import metrics
from pcsr.config.load import fingerprint
from pcsr.data import bicubic
from pcsr.data.batches import Crops
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.images.levels import to_tensor, to_uint8
from pcsr.methods.base import Method
from pcsr.storage import files
from pcsr.storage.journal import Journal
from pcsr.training import crop_classes
from pcsr.training.crop_classes import crops_of_class, part_evenly
from pcsr.weights import checkpoint

PATCH, SIZE = 16, 64  # side of a crop in LR and in HR pixels
FACTS = {"weights": "0123456789ab"}


@pytest.mark.parametrize(("crops", "classes"), [(9, 3), (10, 3), (11, 3), (64, 2), (7, 5), (2, 3)])
def test_classes_are_of_equal_size_and_the_easiest_is_0(crops: int, classes: int) -> None:
    psnr = np.random.default_rng(0).permutation(crops).astype(np.float32)
    of_crop, cuts = part_evenly(psnr, classes)
    counts = np.bincount(of_crop, minlength=classes)
    assert counts.sum() == crops and np.ptp(counts) <= 1
    easiest_first = of_crop[np.argsort(-psnr)]
    assert (np.diff(easiest_first.astype(int)) >= 0).all()
    assert len(cuts) == classes - 1 and cuts == sorted(cuts)


def test_a_cut_is_the_lowest_psnr_of_the_easier_class() -> None:
    of_crop, cuts = part_evenly(np.array([30, 20, 50, 40, 25, 35], np.float32), 3)
    assert of_crop.tolist() == [1, 2, 0, 0, 2, 1]
    assert cuts == [30, 40]


def test_crops_of_equal_psnr_are_split_evenly_too() -> None:
    of_crop, cuts = part_evenly(np.full(6, 33, np.float32), 3)
    assert of_crop.tolist() == [0, 0, 1, 1, 2, 2] and cuts == [33, 33]


def test_crops_that_are_restored_exactly_are_the_easiest() -> None:
    of_crop, cuts = part_evenly(np.array([30, np.inf, 20, np.inf, np.inf, 25], np.float32), 2)
    assert of_crop.tolist() == [1, 0, 1, 0, 0, 1]
    assert cuts == [np.inf]


@pytest.fixture(scope="module")
def method() -> Method:
    return build("fsrcnn", "original", width=8)


@pytest.fixture(scope="module")
def made(method: Method, cat: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes from an uninterrupted run."""
    out = tmp_path_factory.mktemp("made") / "classes.safetensors"
    crop_classes.classify(method, cat, PATCH, 3, out, FACTS)
    return out


@torch.no_grad()
def test_every_crop_is_measured_like_a_test_image(method: Method, cat: Store, made: Path) -> None:
    crops = Crops(cat, SIZE, torch.device("cpu"))
    tensors, facts = load_file(made), json.loads(files.sidecar(made).read_text())
    assert len(tensors["psnr"]) == len(tensors["class"]) == len(crops) == 8 * 13
    for number in (0, 50, 103):
        hr = crops.cut(crops.places(np.array([number])))[0].permute(1, 2, 0).numpy()
        lr = bicubic.degrade(to_tensor(hr), (PATCH, PATCH), "8bit")
        sr = to_uint8(restored(method, lr, 4, None, refine=False).sr)
        expected = metrics.psnr_rgb(sr, hr, 4)
        assert float(tensors["psnr"][number]) == pytest.approx(expected, abs=0.01)
    of_crop, cuts = part_evenly(tensors["psnr"].numpy(), 3)
    assert tensors["class"].tolist() == of_crop.tolist()
    assert facts["cuts_db"] == cuts and facts["counts"] == np.bincount(of_crop).tolist()
    assert facts["data"] == cat.digest and facts["crop"] == SIZE
    assert not list(made.parent.glob("*.part"))


class StopError(Exception):
    """Interrupts a run."""


@pytest.mark.parametrize("lost", [0, 2, 50])  # bytes; 4 are a crop's
def test_a_run_interrupted_twice_ends_with_the_same_file(
    method: Method,
    cat: Store,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: int,
) -> None:
    out = tmp_path / made.name
    part = out.with_name(f"{out.name}.part")
    measure, measured = crop_classes._measure, []

    def run(most: int) -> None:
        """Run until this many batches have been measured in total."""

        def count(method: Method, lr: torch.Tensor, hr: torch.Tensor) -> np.ndarray:
            if len(measured) == most:
                raise StopError
            measured.append(len(hr))
            return measure(method, lr, hr)

        monkeypatch.setattr(crop_classes, "_measure", count)
        crop_classes.classify(method, cat, PATCH, 3, out, FACTS)

    monkeypatch.setattr(crop_classes, "BATCH", 32)
    for most in (1, 2):
        with pytest.raises(StopError):
            run(most)
        part.write_bytes(part.read_bytes()[: -lost or None])
    assert measured == [32, 32] and not out.exists()
    run(99)
    again = 2 * 32 if lost else 0  # whole batches, because results depend on the batch a little
    assert sum(measured) == 104 + again
    assert out.read_bytes() == made.read_bytes()
    assert files.sidecar(out).read_bytes() == files.sidecar(made).read_bytes()
    assert not part.exists()


def test_progress_after_an_interruption_is_counted_in_batches(
    method: Method, cat: Store, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shown = tmp_path / made.name, []

    def progress(steps: range, description: str, done: int = 0) -> range:
        shown.append((done, len(steps)))
        return steps

    identity = fingerprint(FACTS["weights"], cat.digest, SIZE, 32)
    measured = load_file(made)["psnr"][:64].tolist()
    part = out.with_name(f"{out.name}.part")
    Journal(part, identity).restart([measured[:32], measured[32:]])
    monkeypatch.setattr(crop_classes, "BATCH", 32)
    monkeypatch.setattr(crop_classes.runtime, "progress", progress)
    crop_classes.classify(method, cat, PATCH, 3, out, FACTS)
    assert shown == [(2, 2)]  # of the four batches of 104 crops


def test_measurements_of_other_weights_are_not_resumed(
    method: Method, cat: Store, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / made.name
    part = out.with_name(f"{out.name}.part")
    Journal(part, "ba9876543210").restart([[12.5] * 64])
    crop_classes.classify(method, cat, PATCH, 3, out, FACTS)
    assert out.read_bytes() == made.read_bytes()


def test_crops_of_a_class(cat: Store, made: Path) -> None:
    parts = [crops_of_class(made, one, cat, SIZE) for one in range(3)]
    assert sorted(np.concatenate(parts)) == list(range(104))
    psnr = load_file(made)["psnr"].numpy()
    assert psnr[parts[0]].min() >= psnr[parts[1]].max() > psnr[parts[2]].max()


def test_a_calibration_that_does_not_fit_is_refused(cat: Store, made: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(UserError, match=f"{missing}: no such weights file"):
        crops_of_class(missing, 0, cat, SIZE)
    with pytest.raises(
        UserError, match=f"{made}: was made for other .* run `pcsr classify-crops` again"
    ):
        crops_of_class(made, 0, cat, SIZE // 2)
    tensors, facts = checkpoint.load(made)
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, tensors, {**facts, "data": "of other images"})
    with pytest.raises(UserError, match="was made for other images or crops than these"):
        crops_of_class(other, 0, cat, SIZE)
    with pytest.raises(UserError, match="no crop is of class 3; use more training images"):
        crops_of_class(made, 3, cat, SIZE)
    checkpoint.save_weights(other, build("fsrcnn", "original", width=8), {"model": {}})
    with pytest.raises(UserError, match="run `pcsr classify-crops` again"):
        crops_of_class(other, 0, cat, SIZE)
