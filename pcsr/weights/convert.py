"""Convert published checkpoints to the suite's weights files; nothing in them is executed."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pcsr import runtime
from pcsr.config.load import RELEASED, load_experiment, load_released
from pcsr.config.options import LogFile
from pcsr.errors import UserError, require_name
from pcsr.storage import files, provenance
from pcsr.weights import checkpoint
from pcsr.weights.load import assemble
from pcsr.weights.released import Released, read

SafetensorsOut = Annotated[Path, Parameter(help="safetensors file to write")]


def import_released(
    file: Annotated[Path, Parameter(help="a published checkpoint, e.g. iter_last.pth")],
    /,
    *,
    out: SafetensorsOut,
) -> str:
    """Convert published weights to safetensors; nothing in the file is executed.

    Example: `pcsr import-released save/carn-x4/iter_last.pth --out carn-x4.safetensors`.
    """
    files.require_suffix(out, ".safetensors", "--out")
    files.check_outputs([file], (out, files.sidecar(out)))
    return _convert(file, read(file), out, file.name)


def fetch_released(
    experiment: Annotated[str, Parameter(help="an experiment of configs/released.yaml")],
    /,
    *,
    out: SafetensorsOut,
    raw: Annotated[Path, Parameter(help="folder of downloads")] = Path("data/raw"),
    log_file: LogFile = None,
) -> str:
    """Download the weights that a paper's authors published, verify and convert them.

    With `PCSR_MIRROR` set, files are taken from there and nothing is downloaded. Files without a
    download address belong in `data/raw/released`.

    Example: `pcsr fetch-released carn-pcsr --out carn-pcsr.safetensors`.
    """
    from pcsr.weights import available  # noqa: PLC0415 - downloads need the extra [suite]

    files.require_suffix(out, ".safetensors", "--out")
    table = load_released()
    require_name("experiment", experiment, table, str(RELEASED))
    weights = table[experiment]
    outputs = (out, files.sidecar(out), log_file)
    files.check_outputs([raw / available.FOLDER / one.path for one in weights.files], outputs)
    runtime.setup_logging(log_file)
    expected = load_experiment(experiment).model
    file = available.obtain(weights, raw)
    release = read(file)
    for key in ("backbone", "method", "scale"):
        found = getattr(release.model, key)
        if found != getattr(expected, key):
            raise UserError(
                f"{file}: is no {experiment}: its {key} is {found} ({release.recognised}); fix "
                f"{RELEASED}, or put the right file there."
            )
    # What a file cannot say of itself, such as how its authors ran it, the experiment says.
    options = {**expected.options, **release.model.options}
    release = replace(release, model=release.model.model_copy(update={"options": options}))
    with files.locked(out):
        return _convert(file, release, out, weights.files[0].path, experiment=experiment)


def _convert(file: Path, release: Released, out: Path, name: str, **extra: Any) -> str:
    method = assemble(release.model, release.tensors, str(file))
    facts = {
        **extra,
        "model": method.config.model_dump(mode="json"),
        "released": release.recognised,
        "iterations": release.iterations,
        "source": {"file": name, "sha256": checkpoint.sha256(file)},
        "provenance": provenance.record(),
    }
    checkpoint.save_weights(out, method, facts)
    return f"{release.recognised} -> {out}"
