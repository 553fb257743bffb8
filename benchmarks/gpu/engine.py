"""Time the engine beside the originals on a GPU: 1K to 8K, both precisions, graphs, compiled.

Times run from LR values on the device to 8-bit SR levels on it. Every row is written as soon as it
is measured. Run again, the script resumes; it starts no row after its time is over. Backbones
without published weights get fresh ones.

Example: python benchmarks/gpu/engine.py --image data/raw/bench/4k.png --out
reports/gpu/engine.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcsr import metrics, registry, runtime
from pcsr.benchmarks import timing
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.data.test_images import open_images
from pcsr.engine.base import Runner
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.measure import make_pair
from pcsr.images.levels import levels
from pcsr.methods.base import Method
from pcsr.storage import files, provenance
from pcsr.weights.load import load_method

SCALE = 4
SIZES = {"1K": (540, 960), "2K": (1080, 1920), "4K": (2160, 3840), "8K": (4320, 7680)}
PRECISIONS = {"float32": torch.float32, "float16": torch.float16}
WAYS = ("eager", "graph", "compiled")
ROUNDS = 20
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """What one row measures; the knob is 0."""

    backbone: str
    size: str
    method: str
    precision: str
    way: str


def cases(backbones: list[str], sizes: list[str], device: str) -> Iterator[Case]:
    """Yield the rows, most important first."""
    for way in WAYS if device == "cuda" else WAYS[:1]:
        for precision in reversed(PRECISIONS) if device == "cuda" else ["float32"]:
            if way != "eager" and precision == "float32":
                continue
            for backbone in backbones:
                for size in reversed(sizes):
                    for method in ("original", "pcsr"):
                        yield Case(backbone, size, method, precision, way)


def load(weights: Path, backbone: str, method: str, device: torch.device) -> Method:
    """Return a model from ``weights``, or a fresh one if there is none."""
    file = weights / f"{backbone}-{method}" / "released" / "weights.safetensors"
    if file.exists():
        model, _ = load_method(file)
    else:
        torch.manual_seed(0)
        model = registry.build(ModelConfig(backbone=backbone, method=method)).eval()
    return runtime.move(model, device)


def image(path: Path, size: str, device: torch.device) -> tuple[Tensor, metrics.Image]:
    """Return LR (1, 3, h, w) and HR: the middle of an image, extended by mirroring if too small."""
    (source,) = open_images(path)
    pair = make_pair(source, SCALE, ProtocolConfig(crop="none"))
    height, width = (side // SCALE for side in SIZES[size])
    lr, hr = pair.lr.to(device), torch.from_numpy(pair.hr.copy()).permute(2, 0, 1)
    while lr.shape[-1] < width or lr.shape[-2] < height:
        lr, hr = (torch.cat([one, one.flip(-1)], dim=-1) for one in (lr, hr))
        lr, hr = (torch.cat([one, one.flip(-2)], dim=-2) for one in (lr, hr))
    top, left = (lr.shape[-2] - height) // 2, (lr.shape[-1] - width) // 2
    lr = lr[..., top : top + height, left : left + width]
    hr = hr[:, SCALE * top : SCALE * (top + height), SCALE * left : SCALE * (left + width)]
    return lr.contiguous(), hr.permute(1, 2, 0).contiguous().numpy()


def made(method: Method, case: Case) -> tuple[Runner, Run]:
    """Return the runner of a method, and the function to time."""
    fast = runner(method, PRECISIONS[case.precision])
    point = replace(method.points[0], refine=True)

    def run(lr: Tensor) -> Tensor:
        return levels(fast.run(lr, SCALE, point).sr)

    return fast, run


def graphed(run: Run, lr: Tensor) -> Run:
    """Record all launches once, and launch them as one."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run(lr)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(lr)

    def replay(_: Tensor) -> Tensor:
        graph.replay()
        return out

    return replay


def row_of(case: Case, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return a row."""
    method = load(arguments.weights, case.backbone, case.method, device)
    lr, hr = image(arguments.image, case.size, device)
    lr_size = (lr.shape[-2], lr.shape[-1])
    fast, run = made(method, case)
    labels = fast.run(lr, SCALE, method.points[0]).labels
    units = torch.bincount(labels.flatten(), minlength=method.branches).tolist()
    cost = method.costs(lr_size, SCALE).total(units)
    if case.way == "graph":
        run = graphed(run, lr)
    elif case.way == "compiled":
        fast.compile()
    for _ in range(3):
        run(lr)
    times = [timing.seconds(lambda: run(lr), device) for _ in range(ROUNDS)]
    sr, peak = timing.peak(lambda: run(lr), device)
    found = sr[0].permute(1, 2, 0).cpu().numpy()
    seconds = statistics.median(times)
    return {
        "seconds": seconds,
        "fastest": min(times),
        "peak_bytes": peak,
        "heavy_share": units[-1] / sum(units),
        "flops_algorithmic": cost.algorithmic,
        "flops_engine": cost.engine,
        "teraflops_per_second": cost.engine / seconds / 1e12,
        "psnr_rgb": metrics.psnr_rgb(found, hr, metrics.shave_for(SCALE)),
        "profile": timing.profiled(lambda: run(lr), device),
    }


def main() -> None:
    """Measure what is missing, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, required=True, help="HR image, 3840x2160 or more")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write and go on with")
    parser.add_argument("--weights", type=Path, default=Path("results/released"))
    parser.add_argument("--backbones", nargs="+", default=["carn", "fsrcnn", "srresnet"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=500, help="after which no row is begun")
    arguments = parser.parse_args()
    started = time.monotonic()
    device = runtime.pick_device(arguments.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    known = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    done = {tuple(row["case"]) for row in known}
    todo = [
        case
        for case in cases(arguments.backbones, arguments.sizes, arguments.device)
        if astuple(case) not in done
    ]
    facts = provenance.record(device=runtime.describe(device), rounds=ROUNDS)
    with torch.no_grad():
        for number, case in enumerate(todo):
            if time.monotonic() - started > arguments.seconds:
                print(f"{len(todo) - number} rows are left: run it again.")
                break
            try:
                row = row_of(case, arguments, device)
            except (UserError, RuntimeError) as error:
                row = {"error": str(error)[:300]}
            known.append({"case": astuple(case), "commit": facts["commit"], **row})
            files.write_json(arguments.out, {"rows": known, "provenance": facts})
            print(*astuple(case), row.get("seconds", row.get("error")), flush=True)


if __name__ == "__main__":
    main()
