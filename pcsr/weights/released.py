"""Recognise and rename the authors' released checkpoints; nothing in them is executed.

Layouts: github.com/3587jjh/PCSR (originals and PCSR phase 1), XPixelGroup/ClassSR (joint models and
single branches), github.com/chenbong/ARM-Net (weights in ``.pth``, PSNR tables in ``.state``),
github.com/nmduonggg/ENAF. Static networks: see ``static``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsr.backbones.carn import MEAN_RGB
from pcsr.config.models import WIDEST, HeadConfig, ModelConfig
from pcsr.errors import UserError, one_line
from pcsr.weights import pickled, static

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
    **static.RENAMES,
}
MARKS = {
    "fsrcnn": "head_conv.0.weight",
    "carn": "b1.c1.0.weight",
    "srresnet": "conv_first.weight",
    **static.MARKS,
}
PARTS = {"heavy_sampler.imnet.layers.": "heads.1.", "light_sampler.imnet.layers.": "heads.0."}
PCSR_PLACE = "model -> sd"  # of the weights in a file of the PCSR release
WRAPPERS = ("params_ema", "params", "state_dict")  # where training frameworks put the weights
BESIDE_WEIGHTS = (bool, int, float, str, pickled.Ignored)  # what may stand between the tensors
PHASE0_ITERATIONS = 2_000_000  # a phase-1 file counts only its own iterations
CLASSIFIER = "classifier.imnet.layers."
CLASSSR = {"classifier.CondNet.": "classifier.layers.", "classifier.lastOut.": "classifier.last."}
ENAF = {
    "predictors.": "network.exits.",
    "estimator.CondNet.": "estimator.layers.",
    "estimator.lastOut.": "estimator.last.",
}
# Published MFLOPs of bicubic, the exits and the network, by which the released weights decide.
ENAF_COSTS = {
    "fsrcnn": (0, 146.42, 315.45, 468.2),
    "carn": (0, 778.55, 868.86, 1161.72),
}


@dataclass(frozen=True)
class Released:
    """A recognised release: the model to build, its weights under the suite's names, its origin."""

    model: ModelConfig
    tensors: dict[str, Tensor]
    iterations: int | None  # over all stages; None if unknown
    recognised: str


def rename(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a backbone's released parameters to the suite's names."""

    def ours(name: str) -> str:
        for pattern, replacement in RENAMES[backbone]:
            renamed, times = re.subn(pattern, replacement, name)
            if times:
                return renamed
        return name

    renamed = {ours(name): tensor for name, tensor in names.items()}
    return _with_mean(renamed) if backbone in ("carn", "carn-m") else renamed


def _with_mean(carn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold CARN's mean-shift layers, where a release has them, into its mean and outer layers.

    In ClassSR's release these 1x1 convolutions are no longer the fixed shifts they started as. The
    network's input A x + b equals A (x - m) with m = -A^-1 b, so A is folded into the first layer
    and m is subtracted, which keeps zero padding exact. The output's shift goes into the last
    layer.
    """
    mean = torch.tensor(MEAN_RGB).view(1, 3, 1, 1)
    if "sub_mean.weight" not in carn:
        return carn | {"mean": mean}
    before, shift_before, after, shift_after = (
        carn.pop(name).double().squeeze()
        for name in ("sub_mean.weight", "sub_mean.bias", "add_mean.weight", "add_mean.bias")
    )
    mean = -torch.linalg.solve(before, shift_before)
    entry, last, bias = (carn[n].double() for n in ("entry.weight", "exit.weight", "exit.bias"))
    folded = {
        "mean": mean.view(1, 3, 1, 1),
        "entry.weight": torch.einsum("oiyx,ij->ojyx", entry, before),
        "exit.weight": torch.einsum("ij,jcyx->icyx", after, last),
        "exit.bias": after @ bias + shift_after - mean,
    }
    return carn | {name: tensor.float() for name, tensor in folded.items()}


def rename_classsr(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released ClassSR joint model to the suite's names."""
    renamed: dict[str, Tensor] = {}
    for j in range(3):
        network = rename(backbone, _under(f"net{j + 1}.", names))
        renamed |= {f"networks.{j}.{name}": tensor for name, tensor in network.items()}
    return renamed | _moved(CLASSSR, names)


def rename_enaf(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released ENAF model to the suite's names."""
    trunk = {name: t for name, t in names.items() if not name.startswith(tuple(ENAF))}
    renamed = {f"network.network.{name}": t for name, t in rename(backbone, trunk).items()}
    return renamed | _moved(ENAF, names)


def rename_pcsr(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released PCSR phase-1 model to the suite's names."""
    encoder = _under("encoder.", names)
    renamed = {f"encoder.{name}": t for name, t in rename(backbone, encoder).items()}
    return renamed | _moved(PARTS | {CLASSIFIER: "classifier."}, names)


def read(path: Path) -> Released:
    """Recognise a released file.

    Raises:
        UserError: the file is not readable, not plain weights, or of no known layout.
    """
    if path.suffix == ".state":
        raise UserError(f"{path}: these are the tables of an ARM release; give its .pth file.")
    content = pickled.read(path)
    try:
        return _recognise(path, content)
    except (
        *(TypeError, ValueError, AttributeError, LookupError),
        *(ArithmeticError, RuntimeError),
    ) as error:
        # The file is untrusted, and its values may be of any type.
        raise UserError(
            f"{path}: not recognised: its contents are inconsistent ({one_line(error)})."
        ) from None


def _recognise(path: Path, content: Any) -> Released:
    weights, at = _find_weights(content)
    if not weights:
        raise UserError(
            f"{path}: not recognised: neither plain weights (ClassSR, ARM), nor weights under "
            f"model -> sd (PCSR) or {', '.join(WRAPPERS)}. Give a checkpoint of these networks."
        )
    _check_numbers(path, weights)
    if at == PCSR_PLACE or any(name.startswith("encoder.") for name in weights):
        return _pcsr(path, content, weights)
    if "classifier.lastOut.weight" in weights:
        release = _classsr(path, weights)
    elif "estimator.lastOut.weight" in weights:
        release = _enaf(path, weights)
    elif any(mark in weights for mark in static.MARKS.values()):
        release = _static(path, weights)
    else:
        tables = path.with_suffix(".state")
        release = _arm(path, weights, tables) if tables.exists() else _branch(path, weights)
    return replace(release, recognised=f"{release.recognised}, of its {at}") if at else release


def _find_weights(content: Any) -> tuple[dict[str, Tensor], str]:
    """Return the weights in a checkpoint, under their bare names, and where they were in it."""
    if not isinstance(content, dict):
        return {}, ""
    model = content.get("model")
    places = {"": content, PCSR_PLACE: model.get("sd") if isinstance(model, dict) else None}
    for place, found in (places | {name: content.get(name) for name in WRAPPERS}).items():
        if weights := _weights(found):
            return weights, place
    return {}, ""


def _weights(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dictionary; empty if ``content`` is not one.

    Numbers beside the tensors, such as the iteration, are ignored. ``DataParallel`` puts
    ``module.`` before every name.
    """
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    others = [value for value in content.values() if not isinstance(value, Tensor)]
    if not all(value is None or isinstance(value, BESIDE_WEIGHTS) for value in others):
        return {}
    parallel = all(name.startswith("module.") for name in tensors)
    return _under("module.", tensors) if parallel else tensors


def _check_numbers(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not plain finite floats; only BatchNorm's counters are integers."""
    pickled.require_bounded(path, weights)
    for name, tensor in weights.items():
        counter = name.endswith("num_batches_tracked")
        if not (counter or (tensor.is_floating_point() and tensor.isfinite().all())):
            raise UserError(
                f"{path}: '{one_line(name)}' is not of plain finite numbers; get the file again."
            )


def _pcsr(path: Path, content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Released:
    """Read an original, or PCSR phase 1, of the PCSR release."""
    phase1 = any(name.startswith("heavy_sampler.") for name in weights)
    iterations = _steps(content.get("iter"))
    if iterations is not None and phase1:
        iterations += PHASE0_ITERATIONS
    part = _under("encoder.", weights) if phase1 else weights
    if not phase1 and any(name.startswith("encoder.") for name in weights):
        raise UserError(f"{path}: this is PCSR phase 0, which has no router; give phase 1.")
    backbone, width = _backbone(path, part)
    if phase1:
        config = ModelConfig(
            backbone=backbone,
            method="pcsr",
            options={
                "width": width,
                "heads": [_head(path, name, weights) for name in reversed(PARTS)],
                "classifier": _head(path, CLASSIFIER, weights),
            },
        )
        tensors = rename_pcsr(backbone, weights)
    else:
        scale = _scale(content.get("model"))
        config = _original(backbone, width, scale)
        tensors = {f"network.{name}": t for name, t in rename(backbone, weights).items()}
    trained = f"{iterations} iterations" if iterations else "unknown length"
    what = f"PCSR release, {backbone} {config.method} x{config.scale:g}, width {width}, {trained}"
    return Released(config, tensors, iterations, what)


def _classsr(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a joint model of the ClassSR release: three networks and the classifier."""
    found = [_backbone(path, _under(f"net{j}.", weights)) for j in (1, 2, 3)]
    backbone, widths = found[0][0], tuple(width for _, width in found)
    config = ModelConfig(backbone=backbone, method="classsr", options={"widths": widths})
    what = f"ClassSR release, {backbone} joint model x4, widths {', '.join(map(str, widths))}"
    return Released(config, rename_classsr(backbone, weights), None, what)


def _enaf(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a model of the ENAF release: a network, its exits and the estimator."""
    backbone, width = _backbone(path, weights)
    # The bias of an exit's first layer: of a plain convolution, or of one whose output is shuffled.
    shuffle = 1 if backbone == "fsrcnn" else 4
    first = [f"predictors.{j}.0.bias" for j in range(2)]
    widths = (*(_width(path, name, weights[name]) // shuffle for name in first), width)
    options: dict[str, Any] = {"widths": widths}
    if backbone in ENAF_COSTS:
        *costs, whole = ENAF_COSTS[backbone]
        options["cost_shares"] = (*(cost / whole for cost in costs), 1.0)
    config = ModelConfig(
        backbone=backbone, method="enaf", options=options, backbone_options=_norm(backbone)
    )
    what = f"ENAF release, {backbone} x4, widths {', '.join(map(str, widths))}"
    return Released(config, rename_enaf(backbone, weights), None, what)


def _branch(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a single network: a branch of the ClassSR release is an original of that width."""
    backbone, width = _backbone(path, weights)
    if backbone == "carn" and "b1.c1.0.bias" in weights:
        raise UserError(
            f"{path}: these are weights of an ARM release, whose PSNR tables are in a second file; "
            f"put {path.with_suffix('.state').name} beside it."
        )
    config = _original(backbone, width)
    tensors = {f"network.{name}": tensor for name, tensor in rename(backbone, weights).items()}
    what = (
        f"one network of the ClassSR release (or of ARM's, without its .state file), {backbone} "
        f"original x4, width {width}"
    )
    return Released(config, tensors, None, what)


def _static(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a static network of its authors' own."""
    backbone, width = _backbone(path, weights)
    own = static.options(backbone, weights)
    config = _original(backbone, width).model_copy(update={"backbone_options": own})
    network = rename(backbone, static.used(backbone, weights))
    tensors = {f"network.{name}": tensor for name, tensor in network.items()}
    what = f"{static.SOURCES[backbone]}, {backbone} x4, width {width}"
    return Released(config, tensors, None, what)


def _arm(path: Path, weights: Mapping[str, Tensor], tables: Path) -> Released:
    """Read a model of the ARM release, with the tables from the file beside its weights."""
    backbone, width = _backbone(path, weights)
    state = pickled.read(tables, pickled.TABLES)
    iterations = _steps(state.get("iter"))
    table = state["hmap"]
    centres, psnr = (
        np.stack([of_width.values for of_width in table[name]])
        for name in ("hmap_x_list", "hmap_y_mean_list")
    )
    fits = centres.shape == psnr.shape and not (centres != centres[0]).any() and psnr.any()
    if not fits or not np.isfinite([centres, psnr]).all():
        raise UserError(f"{tables}: its tables are inconsistent; get the file again.")
    config = ModelConfig(backbone=backbone, method="arm", backbone_options=_norm(backbone))
    tensors = {f"network.network.{name}": t for name, t in rename(backbone, weights).items()}
    tensors |= {"edges": torch.from_numpy(centres[0]), "psnr": torch.from_numpy(psnr)}
    trained = f"{iterations} iterations" if iterations else "unknown length"
    what = f"ARM release, {backbone} x4, full width {width}, {trained}, tables of {tables.name}"
    return Released(config, tensors, iterations, what)


def _norm(backbone: str) -> dict[str, Any]:
    """Return a backbone's options in the releases of ARM and ENAF: their CARN has no BatchNorm."""
    return {"batch_norm": False} if backbone == "carn" else {}


def _original(backbone: str, width: int, scale: float = 4) -> ModelConfig:
    return ModelConfig(backbone=backbone, method="original", scale=scale, options={"width": width})


def _moved(prefixes: Mapping[str, str], names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters under any of the prefixes, with the suite's prefix instead."""
    return {
        f"{ours}{name}": tensor
        for theirs, ours in prefixes.items()
        for name, tensor in _under(theirs, names).items()
    }


def _under(prefix: str, names: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): v for name, v in names.items() if name.startswith(prefix)}


def _backbone(path: Path, names: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the backbone with these parameters, and its width."""
    for backbone, mark in MARKS.items():
        for name, tensor in names.items():
            if name.startswith(mark):
                return backbone, _width(path, name, tensor)
    first = one_line(next(iter(names), "nothing"))
    raise UserError(
        f"{path}: not recognised: its first parameter is '{first}', and no backbone of this suite "
        f"({', '.join(MARKS)}) has it."
    )


def _width(path: Path, name: str, tensor: Tensor) -> int:
    if len(tensor) > WIDEST:
        raise UserError(f"{path}: not recognised: '{one_line(name)}' has {len(tensor)} channels.")
    return len(tensor)


def _steps(count: Any) -> int | None:
    """Return the number of iterations that a file states, or None if it is not plausible."""
    return count if type(count) is int and 0 <= count < 10**9 else None


def _scale(model: Any) -> float:
    arguments = model.get("args") if isinstance(model, dict) else None
    values = arguments if isinstance(arguments, dict) else {}
    return float(values.get("scale") or values.get("upscale") or 4)


def _head(path: Path, prefix: str, weights: Mapping[str, Tensor]) -> HeadConfig:
    """Infer a multilayer perceptron's hidden layers from its weights: all but the last."""
    layers = [(n, w) for n, w in _under(prefix, weights).items() if n.endswith("weight")]
    hidden = [_width(path, prefix + name, weight) for name, weight in layers[:-1]]
    return HeadConfig(width=hidden[0] if hidden else 0, depth=len(hidden))
