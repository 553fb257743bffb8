"""The reference loop trains what the suite's loop trains."""

import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from models import build, stage_of
from torch.autograd import DeviceType
from torch.utils.data import DataLoader

from pcsr.benchmarks.training import reference_loop, training_speed
from pcsr.benchmarks.training import training_speed_page as page
from pcsr.config.models import HeadConfig, StageConfig
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.training.loop import Step

CPU = torch.device("cpu")


def stage(**changes: object) -> StageConfig:
    values = {"iterations": 100, "learning_rate": 1e-3, "batch": 4, "patch": 8, **changes}
    return StageConfig.model_validate(values)


def test_samples_are_the_batches(cat: Store) -> None:
    batches = Batches(cat, stage(lr="float"), 4, 0, CPU)
    samples = reference_loop.Samples(cat, stage(lr="float"), batches)
    for step, (lr, hr) in zip(range(8), DataLoader(samples, 4), strict=False):
        expected_lr, expected_hr = batches.batch(step)
        assert torch.equal(hr, expected_hr)
        torch.testing.assert_close(lr, expected_lr, rtol=0, atol=1e-6)


@pytest.mark.parametrize("branches", [2, 3])
@pytest.mark.parametrize("name", ["stage0", "stage1"])
def test_losses_are_those_of_the_method(name: str, branches: int) -> None:
    heads = tuple(HeadConfig(width=4 * (j + 1), depth=j + 1) for j in range(branches))
    method = build("fsrcnn", "pcsr", heads=heads)
    step = Step(method, stage_of(method, name))
    lr, hr = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 24, 24)
    found = reference_loop.plain_losses(method, name, lr, hr)["loss"]
    torch.testing.assert_close(found, step(lr, hr, None)["loss"])


def subject(cat: Store, name: str, stage_name: str) -> training_speed.Subject:
    def make() -> Method:
        return build("fsrcnn", name)

    return training_speed.Subject(f"fsrcnn-{name}", stage_name, stage(), make, cat, CPU)


def test_both_loops_are_measured_in_turns(cat: Store) -> None:
    plan = training_speed.Plan(["reference", "suite"], 0.01, 2, workers=1)
    rows = [
        row
        for name, stage_name in (("pcsr", "stage0"), ("pcsr", "stage1"), ("arm", "train"))
        for row in training_speed.compare(subject(cat, name, stage_name), plan)
    ]
    assert [row["way"] for row in rows] == ["reference", "suite"] * 3
    for usual, suite in zip(rows[::2], rows[1::2], strict=True):
        assert suite["first_loss"] == pytest.approx(usual["first_loss"], rel=1e-3)
    for row in rows:
        assert row["steps_per_second"] > 0 and row["peak_bytes"] > 0
    table = page.table(rows)
    assert table["Speedup over the reference loop"].tolist()[::2] == [1, 1, 1]
    hours = page.projected(rows).set_index("Model")
    of_suite = sum(row["iterations"] / row["steps_per_second"] / 3600 for row in rows[1:4:2])
    assert hours.loc["fsrcnn-pcsr", "Suite (hours)"] == pytest.approx(of_suite)
    assert (hours["Fastest (hours)"] <= hours["Suite (hours)"]).all()


def test_a_loop_that_trains_something_else_is_refused(
    cat: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reference_loop.plain_losses
    monkeypatch.setattr(
        reference_loop, "plain_losses", lambda *how: {"loss": 2 * plain(*how)["loss"]}
    )
    plan = training_speed.Plan(["reference", "suite"], 0.01, 1, workers=0)
    with pytest.raises(UserError, match=r"the first loss is .* by the way 'suite'"):
        training_speed.compare(subject(cat, "pcsr", "stage0"), plan)


def test_busy_is_the_time_spent_computing() -> None:
    def step() -> dict[str, torch.Tensor]:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        time.sleep(0.2)
        return {}

    wall, used = training_speed._timed(step, 2, CPU)
    assert wall >= 0.8
    assert used * (psutil.cpu_count() or 1) == pytest.approx(0.4, abs=0.1)


def test_kernels_are_counted_once() -> None:
    def event(device: DeviceType, microseconds: float, annotation: bool = False) -> Any:
        return SimpleNamespace(
            device_type=device,
            self_device_time_total=microseconds,
            is_user_annotation=annotation,
        )

    operation, kernel = event(DeviceType.CPU, 300), event(DeviceType.CUDA, 300)
    copied = event(DeviceType.CUDA, 200)
    step = event(DeviceType.CUDA, 500, annotation=True)
    assert training_speed.device_seconds([operation, kernel, copied, step]) == pytest.approx(500e-6)
