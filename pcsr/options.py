"""Options that several commands share: their types, checks and help stand here once."""

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

CORES = os.cpu_count() or 1

#: A switch that is only ever turned on.
Flag = Parameter(negative=())

WeightsFile = Annotated[Path, Parameter(help="weights file: .safetensors, or a released .pth")]
WeightsFiles = Annotated[
    list[Path], Parameter(help="weights files: .safetensors, or a released .pth")
]
HRImages = Annotated[Path, Parameter(help="folder of HR images, an image, or a packed store")]
Results = Annotated[Path, Parameter(help="results.csv, made by `pcsr collect`")]
MarkdownOut = Annotated[Path, Parameter(help="Markdown to write; .html is written beside it")]
Suite = Annotated[Path, Parameter(help="suite file, e.g. configs/suites/quick.yaml")]

LR = Annotated[Literal["8bit", "float"], Parameter(help="round LR to 8 bit, or keep it in float")]
Crop = Annotated[
    Literal["tiles", "none"], Parameter(help="crop LR to whole 32x32 tiles, or keep all of it")
]
Refine = Annotated[bool, Parameter(help="smooth light pixels beside heavy ones")]
Knob = Annotated[
    float | None,
    Parameter(
        help="value of the method's knob. PCSR and ClassSR: k, 0 takes the likeliest branch and "
        "more saves more. ARM: eta over the full cost, less saves more. Left out: the method's "
        "default"
    ),
]
Adaptive = Annotated[bool, Flag, Parameter(help="adaptive decision (ADM) instead of a knob")]
Scale = Annotated[
    float | None, Parameter(help="HR size / LR size, if not the one the weights were trained at")
]

Device = Annotated[str, Parameter(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[int, Parameter(validator=Number(gte=1), help="CPU threads")]
Precision = Annotated[
    Literal["float32", "float16"], Parameter(help="of the networks; float16 is for GPUs")
]
MaxMemory = Annotated[
    str | None,
    Parameter(
        help="what the process may take, e.g. 2GiB (on a GPU: of its memory); larger images are "
        "computed in strips, with the same result"
    ),
]
LogFile = Annotated[Path | None, Parameter(name="--log", help="also log to this file")]
