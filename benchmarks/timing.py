"""Measure time, its spread and the machine's load, peak memory and the profile of operations."""

import statistics
import time
from collections.abc import Callable, Sequence

import psutil
import torch
from torch import Tensor
from torch.profiler import profile

from pcsr.engine.memory import Held

MOST = 8  # operations in a profile
STEADY = 0.05  # between the quartiles of a ratio, as a share of it
OTHERS = ("user", "nice", "system", "irq", "softirq", "steal")  # times of cores that are busy


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that ``run`` takes, including all work on the device."""
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def ratio_quartiles(
    times: Sequence[float], originals: Sequence[float]
) -> tuple[float, float, float]:
    """Return the quartiles of the ratios to the original's time in the same round."""
    return quartiles([time / whole for time, whole in zip(times, originals, strict=True)])


def steady(low: float, high: float) -> bool:
    """Tell whether the quartiles of a ratio are close enough to rely on it."""
    return high - low <= STEADY * low


class Load:
    """How much of the machine other work takes, from when this is made."""

    def __init__(self) -> None:
        self._started, self._busy = time.perf_counter(), _busy_elsewhere()

    def others(self) -> float:
        """Return how many cores, on average, other processes than this one have used.

        Neighbours of a virtual machine count, if the system reports them.
        """
        passed = time.perf_counter() - self._started
        return max(0.0, _busy_elsewhere() - self._busy) / passed


def _busy_elsewhere() -> float:
    """Return the seconds that cores were busy since they started, without this process's."""
    cores, own = psutil.cpu_times()._asdict(), psutil.Process().cpu_times()
    return sum(cores.get(kind, 0.0) for kind in OTHERS) - own.user - own.system


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
