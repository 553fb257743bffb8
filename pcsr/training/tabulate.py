"""Fill the table that a method routes by, from validation images, after training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from torch import Tensor

from pcsr import runtime
from pcsr.config.models import ProtocolConfig
from pcsr.config.options import THREADS, Device, LogFile, Threads, WeightsFile
from pcsr.data.test_images import open_images
from pcsr.errors import UserError, log
from pcsr.evaluation.measure import make_pair
from pcsr.images.levels import to_tensor
from pcsr.methods.tiled import Tabulated
from pcsr.storage import files, provenance
from pcsr.weights import checkpoint
from pcsr.weights.load import load_all


def tabulate(
    *,
    weights: WeightsFile,
    images: Annotated[Path, Parameter(help="validation images (HR)")],
    out: Annotated[Path, Parameter(help="weights file to write")],
    device: Device = "auto",
    threads: Threads = THREADS,
    log_file: LogFile = None,
) -> None:
    """Fill the table that ARM routes by: PSNR of every width against a tile's edge score.

    Example: `pcsr tabulate --weights trained.safetensors --images data/prepared/div2k-valid --out
    arm.safetensors`.
    """
    files.require_suffix(out, ".safetensors", "--out")
    files.check_outputs((weights, images), (out, files.sidecar(out), log_file))
    runtime.setup_logging(log_file)
    picked, ((method, facts),) = load_all([weights], device, threads)
    if not isinstance(method, Tabulated):
        raise UserError(
            f"{weights}: {method.config.method} keeps no table; drop `table: true` from the "
            "experiment."
        )
    test = open_images(images)
    scale = method.config.scale

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for number in runtime.progress(range(len(test)), "tabulate"):
            pair = make_pair(test[number], scale, ProtocolConfig())
            log.info("%d/%d %s", number + 1, len(test), pair.name)
            yield pair.lr.to(picked), to_tensor(pair.hr).to(picked)

    with files.locked(out):
        recorded = method.tabulate(pairs())
        # The facts from training stay: they describe the weights.
        table = {"weights": checkpoint.digest(weights), "images": test.digest, **recorded}
        made = provenance.record(device=runtime.describe(picked))
        model = method.config.model_dump(mode="json")
        facts = {**facts, "model": model, "table": {**table, "provenance": made}}
        checkpoint.save_weights(out, method, facts)
