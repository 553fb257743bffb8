"""Data types that networks run in, and whether they are faster on this machine."""

import timeit
from functools import cache

import torch
import torch.nn.functional as F

from pcsr.errors import UserError, log

HALF = {"cpu": "bf16", "cuda": "float16"}  # what half precision is on each device
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
TRIALS = 3  # timed runs, of which the fastest counts


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of a precision for inference; auto is float32.

    Raises:
        UserError: the half precision of the other kind of device was requested.
    """
    if name in ("auto", "float32"):
        return torch.float32
    if name != HALF[device.type]:
        raise UserError(
            f"--precision {name}: half precision is {HALF[device.type]} on this device; use that "
            "or float32."
        )
    warn_if_slower(DTYPES[name], device)
    return DTYPES[name]


def warn_if_slower(dtype: torch.dtype, device: torch.device) -> None:
    """Log a warning if a CPU takes longer in half precision than in float32."""
    if device.type == "cpu" and (times := times_as_long(dtype)) > 1:
        log.warning(
            "bf16: this processor takes %.1f times as long as in float32, which is more exact, too",
            times,
        )


@cache
def times_as_long(dtype: torch.dtype) -> float:
    """Return the time of a convolution on this CPU, as a multiple of its time in float32.

    The instruction set does not tell: with AVX-512 BF16, CARN's encoder took 0.4 of its float32
    time on one processor and 1.4 times as long on another; where bf16 is emulated, networks take
    five times as long. So a layer as wide as CARN's is timed (0.1 s).
    """
    return _seconds(dtype) / _seconds(torch.float32)


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    image = torch.ones(1, 64, 64, 96).to(dtype, memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(dtype, memory_format=torch.channels_last)
    times = timeit.repeat(lambda: F.conv2d(image, weight, padding=1), number=1, repeat=1 + TRIALS)
    return min(times[1:])  # the first is a warm-up: oneDNN prepares
