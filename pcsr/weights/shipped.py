"""Ship weights with the suite: copy them from the study that trained, with their model card."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field
from torch import Tensor

from pcsr import runtime
from pcsr.config.base import Facts
from pcsr.config.load import Study, load_study, parse
from pcsr.config.options import Suite
from pcsr.errors import UserError, log, one_line
from pcsr.escape import markdown
from pcsr.storage import content, files
from pcsr.weights import available, checkpoint

LONGEST = 200  # characters of a licence's name
STAGE_COLUMNS = ("Stage", "Steps", "Crops", "LR", "Learning rate", "PSNR (dB)")


class Provenance(Facts):
    """The commit that made the weights."""

    commit: str | None
    modified: bool


class Trained(Facts):
    """How a stage was trained, or a table measured."""

    provenance: Provenance


class Line(Facts):
    """A line of a training log; some have a validation."""

    step: int = Field(ge=0)
    valid_psnr_rgb: float | None = Field(default=None, ge=0)


def ship(
    *,
    suite: Suite,
    licence: Annotated[str, Parameter(help="licence of the weights, in one line")],
    out: Annotated[Path, Parameter(help="folder to write <experiment>.safetensors to")],
) -> None:
    """Collect the weights that a suite trained, with their licence and validation curves.

    Example: `pcsr ship --suite configs/suites/weights.yaml --licence "MIT" --out weights`.
    """
    if not 0 < len(licence.strip()) <= LONGEST or not licence.isprintable():
        raise UserError(f"--licence: give one line of at most {LONGEST} characters.")
    runtime.setup_logging()
    copy_trained(load_study(suite), licence, out)


def copy_trained(study: Study, licence: str, folder: Path) -> list[Path]:
    """Copy the final weights of every experiment that a study trained; return the files.

    A model card is written beside each. ``SHA256SUMS`` lists all other files of the folder, which
    loading verifies by it. Each description also gets the ``licence`` and the validation ``curve``
    of every stage: stage -> pairs of step and PSNR-RGB in dB.

    Raises:
        UserError: weights are missing, or were trained by uncommitted code. Nothing is copied then.
    """
    own = [name for name in study.experiments if name not in study.released]
    targets = {name: folder / f"{name}.safetensors" for name in own}
    written = [(path, files.sidecar(path), path.with_suffix(".md")) for path in targets.values()]
    files.check_outputs((), (*chain(*written), folder / content.SUMS))
    found = {target: _trained(study, name) for name, target in targets.items()}
    for target, (tensors, facts) in found.items():
        facts["licence"] = licence
        files.write_json(files.sidecar(target), facts)
        files.write_text(target.with_suffix(".md"), card(target.stem, tensors, facts))
        checkpoint.save(target, tensors, facts)
        log.info("%s: %s iterations", target, facts.get("iterations"))
    whole = [*folder.glob("*.safetensors"), *folder.glob("*.json")]
    files.write_text(folder / content.SUMS, content.sums(whole))
    return list(found)


def _trained(study: Study, experiment: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the final weights of an experiment and their facts, with validation curves."""
    curves = {}
    for stage in study.experiments[experiment].stages:
        path = Path(files.weights(study.suite.suite, experiment, stage))
        _require_commit(path, checkpoint.load(path)[1])
        curves[stage] = curve(path.parent)
    final = Path(available.weights(study, experiment))
    tensors, facts = checkpoint.load(final)
    _require_commit(final, facts.get("table", facts))
    return tensors, {**facts, "curve": curves}


def _require_commit(path: Path, facts: Mapping[str, Any]) -> None:
    made = parse(Trained, facts, str(path)).provenance
    if made.modified or not made.commit:
        raise UserError(
            f"{path}: was made by uncommitted code; commit it, in a git checkout, and train again."
        )


def curve(folder: Path) -> list[tuple[int, float]]:
    """Return step and validation PSNR-RGB in dB of the latest training run in a folder.

    Raises:
        UserError: there is no log of a run, or it is damaged; names it.
    """
    logs = sorted(folder.glob("train-*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise UserError(f"{folder}: has no training log; train this stage again.")
    path = logs[-1]
    try:
        lines = content.read_bytes(path, content.LARGEST_JSON).decode("utf-8").splitlines()
        values = [content.parse_json(line) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: damaged ({one_line(error)}); train again.") from None
    read = [parse(Line, value, f"{path}: line {n}") for n, value in enumerate(values, start=1)]
    return [
        (line.step, round(line.valid_psnr_rgb, 3))
        for line in read
        if line.valid_psnr_rgb is not None
    ]


def card(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the model card of weights as Markdown; their facts are those of ``copy_trained``."""
    model, made = facts["model"], facts["provenance"]
    numbers = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    rows = [
        ("Network", f"{model['backbone']}, method {model['method']}, x{model['scale']:g}"),
        ("Parameters", f"{numbers:,}, with statistics and tables"),
        ("Input", "LR images, RGB; trained on MATLAB's bicubic reduction, without noise"),
        ("Trained on", ", ".join(made["data"])),
        ("Licence", facts["licence"]),
        ("Commit", f"{made['commit']}, seed {made['seed']}, {made['device']}"),
    ]
    stages = [_stage(n, stage, facts) for n, stage in made["stages"].items()]
    table = "Its table was filled from {tiles:,} validation tiles.\n\n"
    return f"""\
# {markdown(name)}

    pcsr upscale image.png image_x4.png --weights {name}

{_table(("", ""), rows)}
## Training

{_table(STAGE_COLUMNS, stages)}
PSNR is that of the validation images after the last step, on RGB.

{table.format(**facts["table"]) if "table" in facts else ""}\
What to expect, and what not: [README.md](README.md).
"""


def _stage(name: str, stage: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, ...]:
    crops = f"{stage['batch']} of {stage['patch']}x{stage['patch']}"
    psnr = facts["curve"].get(name)
    return (
        name,
        f"{stage['iterations']:,}",
        crops,
        stage["lr"],
        f"{stage['learning_rate']:g}",
        f"{psnr[-1][1]:.2f}" if psnr else "-",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *(list(map(markdown, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
