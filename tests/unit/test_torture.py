"""The harness of ``make torture`` finds what it is there to find, and its kinds can be tried."""

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torture.harness import Attempt, Case, Kind, torture

from pcsr.errors import UserError


@contextmanager
def faults(folder: Path) -> Iterator[Attempt]:
    """Misbehave in another way each time, and behave in the first two cases and the last."""

    def attempt(case: Case) -> None:
        if case.number == 1:
            raise UserError("x.png: no image; give one.")
        if case.number == 2:
            raise ValueError("a bug")
        if case.number == 3:
            os.system("touch proof")
        if case.number == 4:
            np.ones(2**26)  # 512 MiB
        if case.number == 5:
            os._exit(1)
        if case.number == 6:
            raise UserError("x" * 10_000)

    yield attempt


@contextmanager
def hangs(folder: Path) -> Iterator[Attempt]:
    yield lambda case: time.sleep(60)


def test_every_fault_is_a_finding() -> None:
    tally = torture(Kind(8, faults), "faults", 0, 0, 8)
    assert (tally.handled, tally.refused) == (2, 1)
    said = {
        2: "ValueError: a bug",
        3: "executed something: ['os.system']",
        4: "took 512 MiB",
        5: "the process died",
        6: "a message of 10000 characters",
    }
    assert tally.findings.keys() == said.keys()
    assert all(tally.findings[number].startswith(start) for number, start in said.items())
    hung = torture(Kind(1, hangs, seconds=0.5), "hangs", 0, 0, 1).findings
    assert list(hung) == [0] and hung[0].startswith("ended after")


@pytest.mark.parametrize(
    "name", ["images", "pickles", "weights", "flips", "texts", "results", "archives"]
)
def test_a_few_of_a_kind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind: Kind = importlib.import_module(f"torture.{name}").KIND
    refused = 0
    with kind.attempts(tmp_path) as attempt:
        for number in range(1, 20):
            try:
                attempt(Case(number, np.random.default_rng([9, number])))
            except UserError:
                refused += 1
    assert refused > 5
