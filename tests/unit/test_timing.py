"""Times are believed with their spread, after several rounds, and noise is named."""

import logging
import weakref
from collections.abc import Callable, Iterator
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import build, photograph_like
from torch import Tensor

from pcsr.benchmarks import latency, peers, timing
from pcsr.evaluation.measure import Pair
from pcsr.flops import Flops
from pcsr.routing import OperatingPoint


def case(path: str) -> latency.Case:
    exact = np.zeros((4, 4, 3), np.uint8)
    names = ("fsrcnn", "original" if path == "original" else "pcsr", None)
    return latency.Case(*names, path, "float32", "", lambda: lambda lr: lr, Flops(), 1.0, exact)


def rounds_of(
    ratios: Iterator[float], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> list[latency.Timed]:
    """Time an original and an engine whose time is the next ratio to it."""
    calls = 0

    def seconds(run: Callable[[], Tensor], device: torch.device) -> float:
        nonlocal calls
        calls += 1
        run()
        return 1.0 if calls % 2 else next(ratios)

    monkeypatch.setattr(latency, "seconds", seconds)
    subjects = [case("original"), case("engine")]
    return latency.time_all(subjects, [], torch.zeros(1, 3, 4, 4), latency.Plan(rounds=wanted))


@torch.no_grad()
def test_what_cannot_be_run_is_left_out_before_the_turns(caplog: pytest.LogCaptureFixture) -> None:
    """A precision that a method lacks, and a network that is no graph for images of any size."""
    lr = photograph_like(16, 20)
    pair = Pair("noise", lr, np.zeros((64, 80, 3), np.uint8))
    half = {"float32": torch.float32, "float16": torch.float16}
    plan = latency.Plan(precisions=half, peers=("onnxruntime",))
    with caplog.at_level(logging.INFO, "pcsr"):
        routed = list(latency.cases([build("fsrcnn", "pcsr")], pair, 4, 1e6, plan))
        whole = list(latency.cases([build("safmnv3", "original")], pair, 4, 1e6, plan))
    assert [case.path for case in routed] == ["engine", "definition", "onnxruntime"]
    assert {case.path for case in whole} == {"original"}
    said = "".join(caplog.messages)
    assert "fsrcnn-pcsr in float16: left out, because half precision is bf16 on a CPU" in said
    assert "safmnv3-original in onnxruntime: left out, because SAFMNv3 cannot be exported" in said


@torch.no_grad()
def test_a_runtime_loads_a_model_once_for_all_knobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session keeps gigabytes for a 4K image, so none outlives the cases of its image."""
    loaded = []
    load = peers.LOADERS["onnxruntime"]

    def counted(model: bytes, threads: int) -> Callable[[peers.Feed], np.ndarray]:
        loaded.append(weakref.ref(run := load(model, threads)))
        return run

    monkeypatch.setitem(peers.LOADERS, "onnxruntime", counted)
    method, lr = build("fsrcnn", "pcsr"), photograph_like(16, 20)
    runtimes = peers.Runtimes()
    runs = [runtimes.load("onnxruntime", method, 4, OperatingPoint(k)) for k in (-25.0, 25.0)]
    low, high = (run(lr) for run in runs)
    assert len(loaded) == 1
    assert not torch.equal(low, high)
    (session,) = loaded
    del runtimes, runs
    assert session() is None


@pytest.mark.parametrize(("wanted", "expected"), [(1, 3), (3, 3), (5, 5)])
def test_one_round_is_not_believed(
    wanted: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, engine = rounds_of(cycle([0.5]), wanted, monkeypatch)
    assert len(original.seconds) == len(engine.seconds) == expected


def test_unsteady_ratios_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    original, engine = rounds_of(cycle([0.5, 0.5, 0.9, 0.9]), 3, monkeypatch)
    assert len(engine.seconds) == 9
    low, _, high = timing.ratio_quartiles(engine.seconds, original.seconds)
    assert (low, high) == (0.5, 0.9)


def test_ratios_that_become_steady_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two formats a turn; the first turn warms up, the second is disturbed.
    _, engine = rounds_of(iter([0.5] * 2 + [5.0] * 2 + [0.5] * 40), 3, monkeypatch)
    assert 3 < len(engine.seconds) < 9


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a noisy machine more rounds take long, too."""
    monkeypatch.setattr(latency, "perf_counter", iter(range(0, 10_000, 50)).__next__)
    _, engine = rounds_of(cycle([0.5, 0.5, 0.9, 0.9]), 3, monkeypatch)
    assert 3 < len(engine.seconds) < 9


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that becomes slower for both changes no ratio."""
    assert timing.ratio_quartiles([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == (0.5, 0.5, 0.5)


def test_other_work_and_unsteady_ratios_are_named(caplog: pytest.LogCaptureFixture) -> None:
    quiet, unsteady = ({"time_ratio_quartiles": pair} for pair in ((0.6, 0.61), (0.6, 0.7)))
    with caplog.at_level(logging.WARNING, "pcsr"):
        latency.warn_if_noisy([quiet], 0.02)
        assert not caplog.records
        latency.warn_if_noisy([quiet, unsteady], 1.84)
    noisy, spread = (record.getMessage() for record in caplog.records)
    assert "other work took 1.8 of" in noisy
    assert spread.startswith("1 of 2 ratios are unsteady")


def test_the_load_of_others_leaves_out_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two seconds cores were busy for ten, this process had six of them: two cores."""
    now = {"clock": 50.0, "user": 100.0, "steal": 7.0, "idle": 10.0, "own": 30.0}

    def of_process() -> SimpleNamespace:
        return SimpleNamespace(user=now["own"], system=1.0)

    times = SimpleNamespace(_asdict=lambda: {kind: now[kind] for kind in ("user", "steal", "idle")})
    monkeypatch.setattr(timing, "psutil", SimpleNamespace(cpu_times=lambda: times))
    timing.psutil.Process = lambda: SimpleNamespace(cpu_times=of_process)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now["clock"]))
    load = timing.Load()
    now |= {"clock": 52.0, "user": 109.0, "steal": 8.0, "idle": 999.0, "own": 36.0}
    assert load.others() == pytest.approx(2)
    now["own"] = 99.0  # its clock ticks otherwise: never less than nothing
    assert load.others() == 0


def test_the_load_of_this_machine_can_be_read() -> None:
    assert 0 <= timing.Load().others() < 1e6
