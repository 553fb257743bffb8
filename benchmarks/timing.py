"""Measure the time, the peak memory and the operation profile of a function."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import profile

from pcsr.engine.memory import Held

MOST = 8  # operations in a profile


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``run`` takes, including all work on the device."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def peak(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, int]:
    """Return the output of ``run``, and the peak of the bytes it holds on top of those before."""
    if device.type == "cpu":
        with Held() as held:
            return run(), held.peak
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return run(), torch.cuda.max_memory_allocated(device) - before


def profiled(run: Callable[[], object], device: torch.device) -> list[tuple[str, float, int]]:
    """Return (operation, share of the time, calls) of the longest operations, longest first."""
    with profile() as profiler:
        seconds(run, device)
    spent = [
        (event.key, float(getattr(event, f"self_{where}_time_total")), event.count)
        for where in ["device" if device.type == "cuda" else "cpu"]
        for event in profiler.key_averages()
    ]
    total = sum(time for _, time, _ in spent)
    spent.sort(key=lambda operation: -operation[1])
    return [(name, time / total, count) for name, time, count in spent[:MOST]]
