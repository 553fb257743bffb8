"""`pcsr check` of an experiment: whose weights they are, and promises that are not kept."""

from pathlib import Path

import pytest
from workspace import ROOT

from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.training import contract
from pcsr.training.check import check


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("weights", "said"),
    [("carn-pcsr", "its backbone is carn"), ("fsrcnn-arm", "its method is arm")],
)
def test_weights_of_another_experiment_are_not_checked_under_its_name(
    weights: str, said: str
) -> None:
    path = Path(f"weights/{weights}.safetensors")
    with pytest.raises(UserError, match=f"--weights {path}: is no fsrcnn-pcsr: {said}"):
        check("fsrcnn-pcsr", weights=path)


def test_weights_go_with_an_experiment() -> None:
    with pytest.raises(UserError, match="--weights: goes with an experiment"):
        check("configs/suites/quick.yaml", weights=Path("weights/carn-pcsr.safetensors"))


def test_all_broken_promises_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(method: Method) -> None:
        raise contract.BrokenPromiseError("it is not so")

    promises = {"one": broken, "two": lambda method: None, "three": broken}
    monkeypatch.setattr(contract, "PROMISES", promises)
    said = "fsrcnn-pcsr: NOT one, three: it is not so. 1 of 3 promises are kept."
    with pytest.raises(UserError, match=said) as error:
        check("configs/experiments/fsrcnn-pcsr.yaml")
    assert str(error.value) == said
    promises.pop("one"), promises.pop("three")
    kept, tried = check("fsrcnn-pcsr", weights=Path("weights/fsrcnn-pcsr.safetensors"))
    assert kept == "fsrcnn-pcsr: two" and "of 2 branches were tried" in tried
