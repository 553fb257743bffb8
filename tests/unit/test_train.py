"""Batches and the learning rate: functions of the step alone."""

import numpy as np
import pytest
import torch

from pcsr.config import DatasetConfig, StageConfig, WheelsSource
from pcsr.datasets import Store
from pcsr.prepare import prepare
from pcsr.resize import degrade
from pcsr.train import Batches, learning_rate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    source = WheelsSource(kind="wheels", images=("skimage/data/chelsea.png",))
    prepare("chelsea", DatasetConfig(source=source), folder)
    return Store.open(folder)


def stage(**changes: object) -> StageConfig:
    values = {"iterations": 100, "learning_rate": 1e-3, "batch": 6, "patch": 8, **changes}
    return StageConfig.model_validate(values)


def test_learning_rate_is_a_cosine() -> None:
    rates = [learning_rate(stage(), step) for step in (0, 25, 50, 75, 100)]
    assert rates[0] == 1e-3 and rates[4] == pytest.approx(1e-7)
    assert rates[2] == pytest.approx((1e-3 + 1e-7) / 2)
    assert rates[1] + rates[3] == pytest.approx(1e-3 + 1e-7)


def test_a_batch_depends_on_seed_and_step_alone(store: Store) -> None:
    batches = Batches(store, stage(), 4, seed=3, rank=0, world=1)
    first = batches.batch(17, CPU)
    batches.batch(4, CPU)
    again = Batches(store, stage(), 4, seed=3, rank=0, world=1).batch(17, CPU)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], batches.batch(18, CPU)[1])
    other = Batches(store, stage(), 4, seed=4, rank=0, world=1).batch(17, CPU)
    assert not torch.equal(first[1], other[1])


def test_processes_share_one_batch(store: Store) -> None:
    whole = Batches(store, stage(), 4, seed=3, rank=0, world=1).batch(5, CPU)
    parts = [Batches(store, stage(), 4, seed=3, rank=r, world=3).batch(5, CPU) for r in range(3)]
    for rank, part in enumerate(parts):
        assert torch.equal(part[0], whole[0][rank::3])
        assert torch.equal(part[1], whole[1][rank::3])


@pytest.mark.parametrize("bits", ["8bit", "float"])
def test_lr_is_the_degraded_augmented_crop(store: Store, bits: str) -> None:
    lr, hr = Batches(store, stage(lr=bits), 4, 0, 0, 1).batch(0, CPU)
    assert lr.shape == (6, 3, 8, 8) and hr.shape == (6, 3, 32, 32)
    torch.testing.assert_close(lr, degrade(hr, (8, 8), bits), rtol=0, atol=0)  # type: ignore[arg-type]
    eighths = lr * 255
    assert torch.allclose(eighths, eighths.round(), atol=1e-4) == (bits == "8bit")


def test_all_eight_orientations_of_real_crops_appear(store: Store) -> None:
    batches = Batches(store, stage(batch=64, patch=8), 4, 0, 0, 1)
    _, hr = batches.batch(0, CPU)
    chosen = np.random.default_rng((0, 0)).integers(len(batches.crops), size=64)
    crops = torch.from_numpy(batches.crops.batch(chosen)).permute(0, 3, 1, 2).float() / 255
    seen = set()
    for sample, crop in zip(hr, crops, strict=True):
        turned = {
            (v, h, t): _turn(crop, v, h, t)
            for v in (False, True)
            for h in (False, True)
            for t in (False, True)
        }
        matching = [name for name, view in turned.items() if torch.equal(view, sample)]
        assert matching
        seen.add(matching[0])
    assert len(seen) == 8


def _turn(crop: torch.Tensor, v: bool, h: bool, t: bool) -> torch.Tensor:
    crop = crop.flip(-2) if v else crop
    crop = crop.flip(-1) if h else crop
    return crop.mT if t else crop
