"""Command-line options shared by several commands: types, validation and help."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number


def _usable_cores() -> int:
    """Return how many cores this process may use: by its affinity and its container's quota."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or "max" for no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, ceil(int(quota) / int(period)))
    return cores


CORES = _usable_cores()

#: A switch without a --no- form.
Flag = Parameter(negative=())

WeightsFile = Annotated[Path, Parameter(help="weights file: .safetensors, or a released .pth")]
WeightsFiles = Annotated[
    list[Path], Parameter(help="weights files: .safetensors, or a released .pth")
]
HRImages = Annotated[Path, Parameter(help="folder of HR images, an image, or a packed store")]
Results = Annotated[Path, Parameter(help="results.csv, made by `pcsr collect`")]
MarkdownOut = Annotated[Path, Parameter(help="Markdown to write, with .html beside it")]
Suite = Annotated[Path, Parameter(help="suite file, e.g. configs/suites/quick.yaml")]

LR = Annotated[Literal["8bit", "float"], Parameter(help="round LR to 8 bit, or leave it in float")]
Crop = Annotated[
    Literal["tiles", "none"], Parameter(help="crop LR to whole 32x32 tiles, or keep all of it")
]
Refine = Annotated[bool, Parameter(help="smooth light pixels next to heavy ones")]
Knob = Annotated[
    float | None,
    Parameter(
        help="value of the method's knob. PCSR and ClassSR: k; 0 takes the likeliest branch, "
        "higher values save more. ARM: eta over the full cost; lower values save more. Default: "
        "the method's own"
    ),
]
Adaptive = Annotated[bool, Flag, Parameter(help="adaptive decision (ADM) instead of a knob")]
Scale = Annotated[
    float | None, Parameter(help="HR size / LR size; default: the one the weights were trained at")
]

Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[int, Parameter(validator=Number(gte=1), help="CPU threads")]
Precision = Annotated[
    Literal["float32", "float16"], Parameter(help="of the networks; float16 is for GPUs")
]
MaxMemory = Annotated[
    str | None,
    Parameter(
        help="memory the process may use, e.g. 2GiB (on a GPU: GPU memory); larger images are "
        "computed in strips, with the same result"
    ),
]
LogFile = Annotated[Path | None, Parameter(name="--log", help="also log to this file")]
