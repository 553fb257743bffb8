"""Command-line options shared by several commands: types, validation and help.

Every numeric option has bounds on both sides, which also refuses NaN and infinity.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from pcsr.config.models import (
    COUNT_LIMIT,
    DEGRADATIONS,
    KNOB_LIMIT,
    PATCH_LIMIT,
    SCALE_LIMIT,
    THREADS_LIMIT,
    Bicubic,
    LRBits,
)
from pcsr.storage import files


def _usable_cores() -> int:
    """Return how many cores this process may use: by its affinity and its container's quota."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or "max" for no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, ceil(int(quota) / int(period)))
    return cores


def default_threads() -> int:
    """Return how many CPU threads a command takes: as OMP_NUM_THREADS says, else one per core."""
    said = 0
    with suppress(ValueError):  # not a number
        said = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0])
    return said if 0 < said <= THREADS_LIMIT else CORES


CORES = _usable_cores()
THREADS = default_threads()

BUDGET_LIMIT = 10.0  # times the original; FSRCNN-PCSR executes up to 7.4 times FSRCNN's FLOPs
DROP_LIMIT = 10.0  # dB; bicubic interpolation loses less

#: A switch without a --no- form.
Flag = Parameter(negative=())


def _to_int(_: type, tokens: Sequence[Token]) -> int:
    """Convert an option to a whole number; cyclopts itself would round 2.5 to 2."""
    return int(tokens[0].value)


def whole_number(least: int, most: int) -> Parameter:
    """Return the kind of option that is a whole number from ``least`` to ``most``."""
    return Parameter(converter=_to_int, validator=Number(gte=least, lte=most))


#: Kinds of number; a sequence's elements are checked one by one.
KnobValue = Parameter(validator=Number(gte=-KNOB_LIMIT, lte=KNOB_LIMIT))
Share = Parameter(validator=Number(gt=0, lte=BUDGET_LIMIT))
Decibels = Parameter(validator=Number(gte=0, lte=DROP_LIMIT))
PSNR = Parameter(validator=Number(gt=0, lte=100))  # dB
Seconds = Parameter(validator=Number(gt=0, lte=86400))
Count = whole_number(1, COUNT_LIMIT)
CountOrNone = whole_number(0, COUNT_LIMIT)
Processes = whole_number(0, 1024)
Doublings = whole_number(0, 10)
Patch = whole_number(8, PATCH_LIMIT)
Classes = whole_number(2, 255)


def _to_weights(_: type, tokens: Sequence[Token]) -> Path:
    """Convert an option to a weights file; the suite's own may be given by name."""
    return files.weights_file(tokens[0].value)


WEIGHTS = "a .safetensors, a released .pth, or the name of shipped weights, such as carn-pcsr"
WeightsFile = Annotated[Path, Parameter(converter=_to_weights, help=f"weights: {WEIGHTS}")]
WeightsOrNone = Annotated[
    Path | None, Parameter(name="--weights", converter=_to_weights, help=f"weights: {WEIGHTS}")
]
WeightsFiles = Annotated[
    list[Annotated[Path, Parameter(converter=_to_weights)]],
    Parameter(help=f"weights, one or several: {WEIGHTS}"),
]
HRImages = Annotated[Path, Parameter(help="folder of HR images, an image, or a packed store")]
Results = Annotated[Path, Parameter(help="results.csv, made by `pcsr collect`")]
MarkdownOut = Annotated[Path, Parameter(help="Markdown to write, with .html beside it")]
Suite = Annotated[Path, Parameter(help="suite file, e.g. configs/suites/quick.yaml")]

LR = Annotated[LRBits, Parameter(help="round LR to 8 bit, or leave it in float")]
Degradation = Annotated[Bicubic, Parameter(help=DEGRADATIONS)]
Crop = Annotated[
    Literal["tiles", "none"], Parameter(help="crop LR to whole 32x32 tiles, or keep all of it")
]
Refine = Annotated[bool, Parameter(help="smooth light pixels next to heavy ones")]
Knob = Annotated[
    float | None,
    KnobValue,
    Parameter(
        name=("--k", "--knob"),
        help="value of the method's knob. PCSR and ClassSR: k; 0 takes the most likely branch, "
        "higher values save more. ARM: eta over the full cost; lower values save more. ENAF: eta "
        "in dB; higher values save more. Default: the method's own",
    ),
]
Adaptive = Annotated[bool, Flag, Parameter(help="adaptive decision (ADM) instead of a knob")]
Scale = Annotated[
    float | None,
    Parameter(
        validator=Number(gt=1, lte=SCALE_LIMIT),
        help="HR size / LR size; default: the one the weights were trained at",
    ),
]

Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[
    int,
    whole_number(1, THREADS_LIMIT),
    Parameter(help="CPU threads; OMP_NUM_THREADS sets the default, which is else one per core"),
]
PrecisionName = Literal["float32", "bf16", "float16"]
Precision = Annotated[
    PrecisionName,
    Parameter(
        help="of the networks; half precision, for originals and PCSR, is bf16 on a CPU and "
        "float16 on a GPU"
    ),
]
MaxMemory = Annotated[
    str | None,
    Parameter(
        help="memory the process may use, e.g. 2GiB (on a GPU: GPU memory); larger images are "
        "computed in tiles, with the same result"
    ),
]
LogFile = Annotated[Path | None, Parameter(name="--log", help="also log to this file")]
