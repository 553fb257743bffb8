"""The authors' released checkpoints, recognised and renamed; nothing in them is executed.

Layouts: github.com/3587jjh/PCSR (originals and PCSR phase 1).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pcsr import checkpoint
from pcsr.config import HeadConfig, ModelConfig
from pcsr.errors import UserError

# (pattern, replacement) pairs from a release's parameter names to the suite's.
RENAMES: dict[str, list[tuple[str, str | Callable[[re.Match[str]], str]]]] = {
    "fsrcnn": [
        (r"^head_conv\.", "extract."),
        (r"^body_conv\.0\.", "shrink."),
        (r"^body_conv\.([1-5])\.(weight|bias)", lambda m: f"map.{int(m[1]) - 1}.{m[2]}"),
        (r"^body_conv\.6\.", "expand."),
        (r"^tail_conv\.", "tail."),
    ],
    "carn": [
        (r"^b([123])\.b1\.", lambda m: f"body.units.{int(m[1]) - 1}.units.0."),
        (r"^b([123])\.c([123])\.", lambda m: f"body.units.{int(m[1]) - 1}.fuse.{int(m[2]) - 1}."),
        (r"^c([123])\.", lambda m: f"body.fuse.{int(m[1]) - 1}."),
        (r"^upsample\.up\.body\.", "tail."),
    ],
    "srresnet": [
        (r"^conv_first\.", "entry.0."),
        (r"^recon_trunk\.(\d+)\.conv1\.", r"body.\1.body.0."),
        (r"^recon_trunk\.(\d+)\.conv2\.", r"body.\1.body.2."),
        (r"^upconv1\.", "tail.0."),
        (r"^upconv2\.", "tail.3."),
        (r"^HRconv\.", "tail.6."),
        (r"^conv_last\.", "tail.8."),
    ],
}
MARKS = {"fsrcnn": "head_conv.0.weight", "carn": "b1.c1.0.weight", "srresnet": "recon_trunk."}
PARTS = {"heavy_sampler.imnet.layers.": "heads.1.", "light_sampler.imnet.layers.": "heads.0."}
PHASE0_ITERATIONS = 2_000_000  # a phase-1 file counts its own iterations alone
CLASSIFIER = "classifier.imnet.layers."


@dataclass(frozen=True)
class Released:
    """A recognised release: what to build, its weights under our names, and what is known of it."""

    model: ModelConfig
    tensors: dict[str, Tensor]
    iterations: int | None  # of all stages together
    recognised: str


def rename(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a backbone's released parameters to the suite's names."""

    def ours(name: str) -> str:
        for pattern, replacement in RENAMES[backbone]:
            renamed, times = re.subn(pattern, replacement, name)
            if times:
                return renamed
        return name

    return {ours(name): tensor for name, tensor in names.items()}


def rename_pcsr(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released PCSR phase-1 model to the suite's names."""
    encoder = _under("encoder.", names)
    renamed = {f"encoder.{name}": t for name, t in rename(backbone, encoder).items()}
    for theirs, ours in (*PARTS.items(), (CLASSIFIER, "classifier.")):
        renamed |= {f"{ours}{name}": tensor for name, tensor in _under(theirs, names).items()}
    return renamed


def read(path: Path) -> Released:
    """Recognise a released file.

    Raises:
        UserError: not readable, not plain weights, or of no known layout; says which and why.
    """
    content = checkpoint.read_pickled(path)
    try:
        return _recognise(path, content)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        # The file is somebody else's: any of its parts may be of any kind.
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: not recognised: its parts do not fit together ({reason})."
        ) from None


def _recognise(path: Path, content: Any) -> Released:
    model = content.get("model") if isinstance(content, dict) else None
    weights = model.get("sd") if isinstance(model, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise UserError(
            f"{path}: not recognised: a PCSR release holds its weights under model -> sd. Give "
            "save/<name>/iter_*.pth of the PCSR release."
        )
    phase1 = any(name.startswith("heavy_sampler.") for name in weights)
    iterations = content.get("iter") if isinstance(content.get("iter"), int) else None
    if iterations is not None and phase1:
        iterations += PHASE0_ITERATIONS
    part = _under("encoder.", weights) if phase1 else weights
    backbone = _backbone(part)
    if backbone is None:
        first = next(iter(weights), "nothing")
        raise UserError(
            f"{path}: not recognised: its first parameter is '{first}', and no backbone of this "
            f"suite ({', '.join(MARKS)}) has it."
        )
    if not phase1 and any(name.startswith("encoder.") for name in weights):
        raise UserError(f"{path}: this is PCSR phase 0, which has no router; give phase 1.")
    width = len(next(iter(part.values())))
    if phase1:
        config = ModelConfig(
            backbone=backbone,
            method="pcsr",
            width=width,
            heads=tuple(_head(_under(name, weights)) for name in reversed(PARTS)),
            classifier=_head(_under(CLASSIFIER, weights)),
        )
        tensors = rename_pcsr(backbone, weights)
    else:
        scale = _scale(content["model"])
        config = ModelConfig(backbone=backbone, method="original", width=width, scale=scale)
        tensors = {f"network.{name}": t for name, t in rename(backbone, weights).items()}
    trained = f"{iterations} iterations" if iterations else "unknown length"
    what = f"PCSR release, {backbone} {config.method} x{config.scale:g}, width {width}, {trained}"
    return Released(config, tensors, iterations, what)


def _under(prefix: str, names: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): v for name, v in names.items() if name.startswith(prefix)}


def _backbone(names: Mapping[str, Tensor]) -> str | None:
    for backbone, mark in MARKS.items():
        if any(name.startswith(mark) for name in names):
            return backbone
    return None


def _scale(model: Mapping[str, Any]) -> float:
    arguments = model.get("args")
    values = arguments if isinstance(arguments, dict) else {}
    return float(values.get("scale") or values.get("upscale") or 4)


def _head(layers: Mapping[str, Tensor]) -> HeadConfig:
    """Read a multilayer perceptron's shape off its weights: every linear map but the last."""
    weights = [tensor for name, tensor in layers.items() if name.endswith("weight")]
    hidden = weights[:-1]
    return HeadConfig(width=len(hidden[0]) if hidden else 0, depth=len(hidden))
