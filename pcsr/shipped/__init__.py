"""What comes with the suite: weights, configuration, the workflow and a photograph.

In a checkout the entries are links to the folders at its top, in an installed package copies.
"""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pcsr.errors import UserError
from pcsr.storage import files

SAMPLE = "sample.png"


def sample(out: Annotated[Path, Parameter(help="file to write (.png)")] = Path(SAMPLE), /) -> str:
    """Write a small photograph to try the suite on: Chelsea the cat, 225 x 150 pixels (CC0).

    Example: `pcsr sample cat.png`.
    """
    files.require_suffix(out, ".png", "output")
    if out.exists():
        raise UserError(f"{out}: exists already; give another name.")
    files.check_outputs((), (out,))
    with files.atomic(out) as temporary:
        temporary.write_bytes((files.SHIPPED / SAMPLE).read_bytes())
    larger = out.with_name(f"{out.stem}_x4.png")
    command = shlex.join(["pcsr", "upscale", str(out), str(larger), "--weights", "carn-pcsr"])
    return f"{out}: enlarge it with: {command}"


def where() -> str:
    """Print the folder that holds the suite's Snakefile, configuration and weights.

    Example: `snakemake -s "$(pcsr where)/Snakefile" --configfile configs/suites/mine.yaml`.
    """
    return str((files.SHIPPED / "Snakefile").resolve().parent)
