"""The step of training: compiled, in other precisions, and around a validation."""

import pytest
import torch
from models import build, stage_of
from torch._dynamo.utils import counters

from pcsr import runtime
from pcsr.config.models import StageConfig
from pcsr.data.batches import Batches
from pcsr.data.store import Store
from pcsr.training.loop import Loop, learning_rate

CPU = torch.device("cpu")


def stage(**changes: object) -> StageConfig:
    values = {"iterations": 100, "learning_rate": 1e-3, "batch": 4, "patch": 8, **changes}
    return StageConfig.model_validate(values)


def loop(cat: Store, backbone: str, method: str, name: str, **changes: object) -> Loop:
    torch.manual_seed(0)
    made = runtime.move(build(backbone, method), CPU)
    return Loop(
        made, stage_of(made, name), stage(**changes), Batches(cat, stage(**changes), 4, 0, CPU)
    )


def losses(cat: Store, backbone: str, method: str, name: str, **changes: object) -> list[float]:
    running = loop(cat, backbone, method, name, **changes)
    return [running.step(step)["loss"].item() for step in range(4)]


CASES = [("fsrcnn", "arm", "train"), ("carn", "pcsr", "stage1"), ("carn", "classsr", "joint")]


@pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(("backbone", "method", "name"), CASES[:2])
def test_a_compiled_step_is_the_step(cat: Store, backbone: str, method: str, name: str) -> None:
    expected = losses(cat, backbone, method, name)
    counters.clear()
    compiled = losses(cat, backbone, method, name, compile=True)
    assert counters["stats"]["unique_graphs"] > 0  # it was compiled, not only requested
    assert compiled == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == 4


@pytest.mark.parametrize(("backbone", "method", "name"), [*CASES, ("fsrcnn", "pcsr", "stage0")])
def test_half_products_train_alike(cat: Store, backbone: str, method: str, name: str) -> None:
    expected = losses(cat, backbone, method, name)
    halves = losses(cat, backbone, method, name, precision="bf16")
    assert halves == pytest.approx(expected, rel=0.02)
    assert halves != expected


def test_float32_is_exact_outside_of_a_step(cat: Store) -> None:
    seen = []
    running = loop(cat, "fsrcnn", "original", "train", precision="tf32")
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    running._model.register_forward_hook(lambda *_: seen.append([b.allow_tf32 for b in backends]))
    running.step(0)
    assert seen == [[True, True]]
    assert not any(backend.allow_tf32 for backend in backends)


def test_after_a_validation_every_module_is_in_its_mode_again(cat: Store) -> None:
    running = loop(cat, "carn", "classsr", "medium")
    method = running._method
    before = {name: module.training for name, module in method.named_modules()}
    assert set(before.values()) == {True, False}
    with running.evaluating():
        assert not any(module.training for module in method.modules())
    assert {name: module.training for name, module in method.named_modules()} == before


@pytest.mark.parametrize("method", ["original", "pcsr"])
def test_moments_resume_in_the_memory_layout_of_their_parameters(cat: Store, method: str) -> None:
    """Files are contiguous; weights may be in the channels-last format."""
    name = "train" if method == "original" else "stage0"
    whole = loop(cat, "carn", method, name)
    whole.step(0)
    weights = {k: v.clone().contiguous() for k, v in whole._method.state_dict().items()}
    moments = {
        number: {key: value.clone().contiguous() for key, value in values.items()}
        for number, values in whole.moments().items()
    }
    whole.step(1)
    torch.manual_seed(1)
    other = runtime.move(build("carn", method), CPU)
    other.load_state_dict(weights)
    again = Loop(other, stage_of(other, name), stage(), Batches(cat, stage(), 4, 0, CPU), moments)
    again.step(1)
    for key, value in whole._method.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_learning_rate_is_a_cosine() -> None:
    rates = [learning_rate(stage(), step) for step in (0, 25, 50, 75, 100)]
    assert rates[0] == 1e-3 and rates[4] == pytest.approx(1e-7)
    assert rates[2] == pytest.approx((1e-3 + 1e-7) / 2)
    assert rates[1] + rates[3] == pytest.approx(1e-3 + 1e-7)


def test_branches_of_classsr_train_in_any_order(cat: Store) -> None:
    """A branch has the same bits whatever the others hold: they may be trained side by side."""
    methods = [runtime.move(build("carn", "classsr"), CPU) for _ in range(2)]
    methods[1].load_state_dict(methods[0].state_dict())
    with torch.no_grad():
        for parameter in methods[1].networks[0].parameters():
            parameter.mul_(0.5)
    before = methods[1].networks[0].state_dict()
    before = {name: values.clone() for name, values in before.items()}
    for method in methods:
        running = Loop(
            method, stage_of(method, "medium"), stage(), Batches(cat, stage(), 4, 0, CPU)
        )
        for step in range(3):
            running.step(step)
    one, other = (method.networks[1].state_dict() for method in methods)
    assert all(torch.equal(one[name], other[name]) for name in one)
    after = methods[1].networks[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
