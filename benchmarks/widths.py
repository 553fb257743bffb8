"""Time encoders of different widths in turns: does time follow FLOPs?

Weights are untrained, since the time hardly depends on them.

Example: python -m pcsr.benchmarks.widths --out reports/latency/widths.json
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter

from pcsr import registry, runtime
from pcsr.benchmarks.timing import seconds
from pcsr.config import options
from pcsr.engine.deploy import deploy
from pcsr.errors import log
from pcsr.flops import per_lr_pixel
from pcsr.precision import dtype_of
from pcsr.storage import files, provenance


@torch.no_grad()
def widths(
    *,
    out: Annotated[Path, Parameter(help="JSON to write")],
    backbones: Annotated[Sequence[str], Parameter(help="backbones")] = ("carn", "srresnet"),
    channels: Annotated[Sequence[int], Parameter(help="widths")] = (48, 52, 56, 58, 60, 64),
    lr_size: Annotated[tuple[int, int], Parameter(help="LR rows and columns")] = (276, 420),
    precision: Annotated[Sequence[options.PrecisionName], Parameter(help="of the encoders")] = (
        "float32",
    ),
    rounds: Annotated[int, options.CountOrNone, Parameter(help="times to run every encoder")] = 6,
    threads: options.Threads = options.THREADS,
) -> None:
    """Time deployed encoders on a CPU, all in turns; the fastest round counts."""
    runtime.setup_logging()
    files.require_suffix(out, ".json", "--out")
    runtime.set_up(0, threads)
    cpu = torch.device("cpu")
    lr = torch.rand(1, 3, *lr_size)
    rows: list[dict[str, Any]] = []
    runs = []
    for backbone in backbones:
        for width in channels:
            if backbone == "carn" and width % 4:  # its convolutions have four groups
                continue
            network = registry.resolve("backbone", backbone)(width=width, scale=None).eval()
            network = runtime.move(network, cpu)
            for name in precision:
                dtype = dtype_of(name, cpu)
                flops = per_lr_pixel(network).engine
                rows.append(
                    {"backbone": backbone, "width": width, "precision": name, "flops": flops}
                )
                runs.append(partial(deploy(network, dtype).features, lr.to(dtype)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(1 + rounds):  # oneDNN prepares in the first
        for encode, taken in zip(runs, times, strict=True):
            taken.append(seconds(encode, cpu))
    for row, taken in zip(rows, times, strict=True):
        row["seconds"] = min(taken[1:])
        log.info("%s of %d channels, %s: %.0f FLOPs per LR pixel, %.3f s", *row.values())
    facts = provenance.record(device=runtime.describe(cpu), threads=threads, lr_size=lr_size)
    files.write_json(out, {"encoders": rows, "provenance": facts})


if __name__ == "__main__":
    app = App(default_parameter=Parameter(consume_multiple=True, negative_iterable=()))
    app.default(widths)
    app()
