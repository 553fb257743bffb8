"""The model card of shipped weights: what they are, how they were trained, their licence."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pcsr.escape import markdown

STAGE_COLUMNS = ("Stage", "Steps", "Crops", "LR", "Learning rate", "PSNR (dB)")


def card(name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the model card of weights, as Markdown.

    Args:
        name: of the file, without its suffix.
        tensors: the weights.
        facts: their description, with ``licence`` and ``curve`` (``shipped.copy_trained``).
    """
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
    lines = [
        f"# {markdown(name)}",
        "",
        f"    pcsr upscale image.png image_x4.png --weights {name}",
        "",
        *_table(("", ""), rows),
        "",
        "## Training",
        "",
        *_table(STAGE_COLUMNS, [_stage(n, stage, facts) for n, stage in made["stages"].items()]),
        "",
        "PSNR is that of the validation images after the last step, on RGB.",
    ]
    if "table" in facts:
        lines += ["", f"Its table was filled from {facts['table']['tiles']:,} validation tiles."]
    lines += ["", "What to expect, and what not: [README.md](README.md)."]
    return "\n".join(lines) + "\n"


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *(list(map(markdown, row)) for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
