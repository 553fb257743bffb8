"""Batches: functions of the seed and the step alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from models import build, stage_of

from pcsr.config.models import StageConfig
from pcsr.data.batches import Batches, Crops, crop_table
from pcsr.data.bicubic import degrade
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.geometry import crop_origins
from pcsr.training.run import Run

CPU = torch.device("cpu")


def stage(**changes: object) -> StageConfig:
    values = {"iterations": 100, "learning_rate": 1e-3, "batch": 6, "patch": 8, **changes}
    return StageConfig.model_validate(values)


def test_a_batch_depends_on_seed_and_step_alone(cat: Store) -> None:
    batches = Batches(cat, stage(), 4, 3, CPU)
    first = batches.batch(17)
    batches.batch(4)
    again = Batches(cat, stage(), 4, 3, CPU).batch(17)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], batches.batch(18)[1])
    other = Batches(cat, stage(), 4, 4, CPU).batch(17)
    assert not torch.equal(first[1], other[1])


def test_processes_share_one_batch(cat: Store) -> None:
    whole = Batches(cat, stage(), 4, 3, CPU).batch(5)
    parts = [Batches(cat, stage(), 4, 3, CPU, (r, 3)).batch(5) for r in range(3)]
    for rank, part in enumerate(parts):
        assert torch.equal(part[0], whole[0][rank::3])
        assert torch.equal(part[1], whole[1][rank::3])


def test_crops_of_one_class_alone_are_drawn(cat: Store) -> None:
    def batch(only: list[int] | None) -> torch.Tensor:
        numbers = None if only is None else np.array(only)
        return Batches(cat, stage(batch=40), 4, 0, CPU, only=numbers).batch(0)[1]

    crops = Crops(cat, 32, CPU)
    some = [3, 50, 51]
    allowed = {int(crop.sum()) for crop in crops.cut(crops.places(np.array(some))).int()}
    seen = {int((sample * 255).round().sum()) for sample in batch(some)}
    assert seen == allowed
    # All numbers in their order are no choice at all.
    everything = list(range(len(crops)))
    assert torch.equal(batch(everything), batch(None))
    assert not torch.equal(batch(everything[::-1]), batch(None))


def test_processes_share_the_crops_of_a_class(cat: Store) -> None:
    only = np.array([9, 2, 40, 41, 7])
    whole = Batches(cat, stage(), 4, 3, CPU, only=only).batch(5)[1]
    for rank in range(2):
        part = Batches(cat, stage(), 4, 3, CPU, (rank, 2), only).batch(5)[1]
        assert torch.equal(part, whole[rank::2])


def test_a_state_of_other_crops_is_another_run(cat: Store, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    method = build("fsrcnn", "original", width=8)
    run = Run(method, stage_of(method, "train"), stage(), 0, cat, out, CPU, facts={})
    others = [replace(run, only=np.array(only)) for only in ([1, 2], [1, 3], [2, 1])]
    assert len({run.states[0], *(other.states[0] for other in others)}) == 4
    assert replace(run, only=np.array([1, 2])).states == others[0].states


def test_chance_of_a_step_is_the_same_in_all_processes(cat: Store) -> None:
    one, other = (Batches(cat, stage(), 4, 3, CPU, (rank, 2)) for rank in range(2))
    again = Batches(cat, stage(), 4, 4, CPU)
    drawn = [batches.random(7).random(4).tolist() for batches in (one, other, one, again)]
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
    assert one.random(8).random(4).tolist() != drawn[0]
    # It is not what the crops were drawn by.
    assert np.random.default_rng((3, 7)).random(4).tolist() != drawn[0]


@pytest.mark.parametrize("bits", ["8bit", "float"])
def test_lr_is_the_degraded_augmented_crop(cat: Store, bits: str) -> None:
    lr, hr = Batches(cat, stage(lr=bits), 4, 0, CPU).batch(0)
    assert lr.shape == (6, 3, 8, 8) and hr.shape == (6, 3, 32, 32)
    expected = degrade(hr, (8, 8), bits)  # type: ignore[arg-type]
    eighths = lr * 255
    assert torch.allclose(eighths, eighths.round(), atol=1e-4) == (bits == "8bit")
    if bits == "8bit":  # the order of a sum may turn a value between two levels
        assert (lr != expected).float().mean() < 0.002
        expected = torch.where(lr == expected, expected, expected.clamp(lr - 1 / 254, lr + 1 / 254))
    torch.testing.assert_close(lr, expected, rtol=0, atol=1e-6 if bits == "float" else 0)


def test_all_eight_orientations_of_real_crops_appear(cat: Store) -> None:
    batches = Batches(cat, stage(batch=64, patch=8), 4, 0, CPU)
    _, hr = batches.batch(0)
    chosen = np.random.default_rng((0, 0)).integers(len(batches.crops), size=64)
    crops = batches.crops.cut(batches.crops.places(chosen)).float() / 255
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


def test_crop_table_is_the_product_of_the_origins() -> None:
    sizes = [(128, 300), (100, 400), (241, 177), (128, 128)]
    expected = [
        (i, y, x)
        for i, (height, width) in enumerate(sizes)
        for y in crop_origins(height, 128, 64, 48)
        for x in crop_origins(width, 128, 64, 48)
    ]
    table = crop_table(sizes, 128)
    assert table.dtype == np.int32
    assert [tuple(row) for row in table.tolist()] == expected
    assert set(table[:, 0].tolist()) == {0, 2, 3}
    # The border rule scales with the crop: 24 pixels at half the size.
    assert len(crop_table([(64, 64 + 24)], 64)) == 1
    assert len(crop_table([(64, 64 + 25)], 64)) == 2
    # 2040 x 1356, the usual size in DIV2K: 31 x 20 crops
    assert len(crop_table([(1356, 2040)], 128)) == 31 * 20


def test_crops_larger_than_every_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"no image holds a crop of 64 x 64 pixels"):
        crop_table([(40, 30), (16, 50), (33, 33)], 64)
    with pytest.raises(UserError, match="no image"):
        crop_table([], 64)
