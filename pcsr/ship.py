"""Weights that come with the suite: copied from the study that trained them, with what is known."""

import json
import logging
from pathlib import Path
from typing import Any

from pcsr import artefacts, checkpoint, stock
from pcsr.config import Study
from pcsr.errors import UserError

log = logging.getLogger("pcsr")


def ship(study: Study, licence: str, folder: Path) -> list[Path]:
    """Copy the final weights of every experiment of a study into a folder; returns the files.

    The description of each says in addition under which licence it is, and how the validation PSNR
    of every stage rose (``curve``: stage -> pairs of step and PSNR-RGB in dB).

    Raises:
        UserError: weights are missing, or were made by code that no commit holds.
    """
    shipped = []
    for name, setup in study.experiments.items():
        source = Path(stock.weights(study, name))
        tensors, facts = checkpoint.load(source)
        if facts["provenance"]["modified"]:
            raise UserError(
                f"{source}: was made by code that was changed after the commit it names; commit, "
                "and train again."
            )
        stages = {
            stage: Path(artefacts.weights(study.suite.suite, name, stage)).parent
            for stage in setup.stages
        }
        facts |= {"licence": licence, "curve": {s: curve(path) for s, path in stages.items()}}
        target = folder / f"{name}.safetensors"
        artefacts.write_json(artefacts.sidecar(target), facts)
        checkpoint.save(target, tensors, facts)
        log.info("%s: %d iterations", target, facts["iterations"])
        shipped.append(target)
    return shipped


def curve(folder: Path) -> list[tuple[int, float]]:
    """Return step and validation PSNR-RGB in dB of the latest training run in a folder."""
    logs = sorted(folder.glob("train-*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        raise UserError(f"{folder}: has no log of a training; train this stage again.")
    lines: list[dict[str, Any]] = [json.loads(line) for line in logs[-1].read_text().splitlines()]
    return [
        (line["step"], round(line["valid_psnr_rgb"], 3))
        for line in lines
        if "valid_psnr_rgb" in line
    ]
