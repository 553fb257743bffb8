"""Recognise and rename the authors' released checkpoints; nothing in them is executed.

Layouts: github.com/3587jjh/PCSR (originals and PCSR phase 1), XPixelGroup/ClassSR (joint models and
single branches), github.com/chenbong/ARM-Net (weights in ``.pth``, PSNR tables in ``.state``),
github.com/nmduonggg/ENAF. Static networks: see ``static``.
"""

import re
from collections.abc import Mapping, Sequence
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

# How parameters of a backbone begin in a release and in the suite; of several that fit, the first
# counts. `#` is a number that a release counts from 1 and the suite from 0, `@` one that both count
# from 0. None leaves a parameter out.
RENAMES: dict[str, dict[str, str | None]] = {
    "fsrcnn": {
        "head_conv.": "extract.",
        "body_conv.0.": "shrink.",
        "body_conv.6.": "expand.",
        "body_conv.#.": "map.#.",
        "tail_conv.": "tail.",
    },
    "carn": {
        "b#.b1.": "body.units.#.units.0.",
        "b#.c#.": "body.units.#.fuse.#.",
        "c#.": "body.fuse.#.",
        "upsample.up.body.": "tail.",
    },
    "srresnet": {
        "conv_first.": "entry.0.",
        "recon_trunk.@.conv1.": "body.@.body.0.",
        "recon_trunk.@.conv2.": "body.@.body.2.",
        "upconv1.": "tail.0.",
        "upconv2.": "tail.3.",
        "HRconv.": "tail.6.",
        "conv_last.": "tail.8.",
    },
    **static.RENAMES,
}
MARKS = {
    "fsrcnn": "head_conv.0.weight",
    "carn": "b1.c1.0.weight",
    "srresnet": "conv_first.weight",
    **static.MARKS,
}
# How a method's networks, and then its other modules, begin in its release and in the suite.
NETWORKS = {
    "original": {"": "network."},
    "classsr": {f"net{j + 1}.": f"networks.{j}." for j in range(3)},
    "arm": {"": "network.network."},
    "enaf": {"": "network.network."},
    "pcsr": {"encoder.": "encoder."},
}
HEADS = {"light_sampler.imnet.layers.": "heads.0.", "heavy_sampler.imnet.layers.": "heads.1."}
CLASSIFIER = "classifier.imnet.layers."
OTHERS = {
    "classsr": {
        "classifier.CondNet.": "classifier.layers.",
        "classifier.lastOut.": "classifier.last.",
    },
    "enaf": {
        "predictors.": "network.exits.",
        "estimator.CondNet.": "estimator.layers.",
        "estimator.lastOut.": "estimator.last.",
    },
    "pcsr": {**HEADS, CLASSIFIER: "classifier."},
}
PCSR_PLACE = "model -> sd"  # of the weights in a file of the PCSR release
WRAPPERS = ("params_ema", "params", "state_dict")  # where training frameworks put the weights
BESIDE_WEIGHTS = (bool, int, float, str, pickled.Ignored)  # what may stand between the tensors
PHASE0_ITERATIONS = 2_000_000  # a phase-1 file counts only its own iterations
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
    ours = {_ours(name, RENAMES[backbone]): tensor for name, tensor in names.items()}
    used = {name: tensor for name, tensor in ours.items() if name is not None}
    return _with_mean(used) if backbone in ("carn", "carn-m") else used


def _ours(name: str, renames: Mapping[str, str | None]) -> str | None:
    """Return a parameter's name in the suite, or None if it is left out; see ``RENAMES``."""
    for theirs, ours in renames.items():
        pattern = re.escape(theirs).replace(r"\#", "([1-9])").replace("@", r"(\d+)")
        if found := re.match(pattern, name):
            return ours and _numbered(theirs, ours, found.groups()) + name[found.end() :]
    return name


def _numbered(theirs: str, ours: str, numbers: Sequence[str]) -> str:
    for place, number in zip(re.findall("[#@]", theirs), numbers, strict=True):
        ours = ours.replace(place, str(int(number) - (place == "#")), 1)
    return ours


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


def rename_method(method: str, backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released method to the suite's names."""
    others = OTHERS.get(method, {})
    networks = {name: t for name, t in names.items() if not name.startswith(tuple(others))}
    renamed: dict[str, Tensor] = {}
    for theirs, ours in NETWORKS[method].items():
        network = rename(backbone, _under(theirs, networks))
        renamed |= {f"{ours}{name}": tensor for name, tensor in network.items()}
    for theirs, ours in others.items():
        renamed |= {f"{ours}{name}": tensor for name, tensor in _under(theirs, names).items()}
    return renamed


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
    except UserError:
        raise
    except Exception as error:  # the file is untrusted, and its values may be of any type
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
    pickled.require_plain(path, weights)
    if at == PCSR_PLACE or any(name.startswith("encoder.") for name in weights):
        return _pcsr(path, content, weights)
    if "classifier.lastOut.weight" in weights:
        release = _classsr(path, weights)
    elif "estimator.lastOut.weight" in weights:
        release = _enaf(path, weights)
    else:
        is_static = any(mark in weights for mark in static.MARKS.values())
        is_arm = not is_static and path.with_suffix(".state").exists()
        release = _arm(path, weights) if is_arm else _single(path, weights)
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


def _pcsr(path: Path, content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Released:
    """Read an original, or PCSR phase 1, of the PCSR release."""
    iterations = _steps(content.get("iter"))
    if any(name.startswith("heavy_sampler.") for name in weights):
        if iterations is not None:
            iterations += PHASE0_ITERATIONS
        backbone, width = _backbone(path, _under("encoder.", weights))
        options = {
            "width": width,
            "heads": [_head(path, name, weights) for name in HEADS],
            "classifier": _head(path, CLASSIFIER, weights),
        }
        config = ModelConfig(backbone=backbone, method="pcsr", options=options)
    elif any(name.startswith("encoder.") for name in weights):
        raise UserError(f"{path}: this is PCSR phase 0, which has no router; give phase 1.")
    else:
        backbone, width = _backbone(path, weights)
        given = content["model"].get("args")
        arguments = given if isinstance(given, dict) else {}
        scale = float(arguments.get("scale") or arguments.get("upscale") or 4)
        config = _original(backbone, width, scale)
    what = f"PCSR release, {backbone} {config.method} x{config.scale:g}, width {width}, "
    return _release(config, weights, what + _length(iterations), iterations)


def _classsr(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a joint model of the ClassSR release: three networks and the classifier."""
    found = [_backbone(path, _under(prefix, weights)) for prefix in NETWORKS["classsr"]]
    backbone, widths = found[0][0], tuple(width for _, width in found)
    config = ModelConfig(backbone=backbone, method="classsr", options={"widths": widths})
    what = f"ClassSR release, {backbone} joint model x4, widths {', '.join(map(str, widths))}"
    return _release(config, weights, what)


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
    return _release(config, weights, what)


def _single(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a static network, or a branch of the ClassSR release: an original of that width."""
    backbone, width = _backbone(path, weights)
    config = _original(backbone, width)
    if backbone in static.SOURCES:
        if backbone == "span":
            fused = len(weights["conv_cat.weight"])
            config = config.model_copy(update={"backbone_options": {"fused": fused}})
        what = f"{static.SOURCES[backbone]}, {backbone} x4, width {width}"
        return _release(config, weights, what)
    if backbone == "carn" and "b1.c1.0.bias" in weights:
        raise UserError(
            f"{path}: these are weights of an ARM release, whose PSNR tables are in a second file; "
            f"put {path.with_suffix('.state').name} beside it."
        )
    what = (
        f"one network of the ClassSR release (or of ARM's, without its .state file), {backbone} "
        f"original x4, width {width}"
    )
    return _release(config, weights, what)


def _arm(path: Path, weights: Mapping[str, Tensor]) -> Released:
    """Read a model of the ARM release, with the tables from the file beside its weights."""
    backbone, width = _backbone(path, weights)
    tables = path.with_suffix(".state")
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
    what = f"ARM release, {backbone} x4, full width {width}, {_length(iterations)}"
    release = _release(config, weights, f"{what}, tables of {tables.name}", iterations)
    filled = {"edges": torch.from_numpy(centres[0]), "psnr": torch.from_numpy(psnr)}
    return replace(release, tensors=release.tensors | filled)


def _release(
    config: ModelConfig, weights: Mapping[str, Tensor], what: str, iterations: int | None = None
) -> Released:
    tensors = rename_method(config.method, config.backbone, weights)
    return Released(config, tensors, iterations, what)


def _length(iterations: int | None) -> str:
    return f"{iterations} iterations" if iterations else "unknown length"


def _norm(backbone: str) -> dict[str, Any]:
    """Return a backbone's options in the releases of ARM and ENAF: their CARN has no BatchNorm."""
    return {"batch_norm": False} if backbone == "carn" else {}


def _original(backbone: str, width: int, scale: float = 4) -> ModelConfig:
    return ModelConfig(backbone=backbone, method="original", scale=scale, options={"width": width})


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


def _head(path: Path, prefix: str, weights: Mapping[str, Tensor]) -> HeadConfig:
    """Infer a multilayer perceptron's hidden layers from its weights: all but the last."""
    layers = [(n, w) for n, w in _under(prefix, weights).items() if n.endswith("weight")]
    hidden = [_width(path, prefix + name, weight) for name, weight in layers[:-1]]
    return HeadConfig(width=hidden[0] if hidden else 0, depth=len(hidden))
