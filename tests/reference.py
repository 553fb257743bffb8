"""The reference models of the golden files, built by the suite from their published names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcsr import registry
from pcsr.backbones.carn import MEAN_RGB
from pcsr.baselines.arm import ARM
from pcsr.baselines.classsr import ClassSR
from pcsr.baselines.enaf import ENAF
from pcsr.config.models import ModelConfig
from pcsr.methods.base import Method
from pcsr.weights import checkpoint
from pcsr.weights.load import assemble, load_method
from pcsr.weights.released import read, rename_method


def golden(shared: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of a golden file."""
    return dict(np.load(shared / f"golden/{name}.npz"))


def golden_tiles(values: Mapping[str, NDArray[Any]]) -> Tensor:
    """The four LR tiles of a golden file, (4, 3, 32, 32) in [0, 1]."""
    return torch.from_numpy(values["tiles_uint8"]).permute(0, 3, 1, 2).float() / 255


def formula_weights(shared: Path, name: str) -> dict[str, Tensor]:
    """Weights by formula (protocol section 8), under the published names."""
    parameters = json.loads((shared / "golden/reference_parameter_names.json").read_text())[name]
    return {
        parameter: _formula(j, parameter, shape) for j, (parameter, shape) in enumerate(parameters)
    }


def _formula(j: int, name: str, shape: list[int]) -> Tensor:
    layer, kind = name.split(".")[-2:]
    if layer in ("sub_mean", "add_mean"):  # these keep their fixed values
        shift = torch.tensor(MEAN_RGB) * (-1 if layer == "sub_mean" else 1)
        return torch.eye(3)[:, :, None, None] if kind == "weight" else shift
    count = torch.Size(shape).numel()
    s = torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + 1.3 * j).view(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("running_var"):
        value = 1 + 0.1 * s
    elif name.endswith("running_mean"):
        value = 0.01 * s
    elif len(shape) >= 2:
        value = 0.7 * s * (2 / (count / shape[0])) ** 0.5
    elif count == 1:
        value = torch.full(shape, 0.25, dtype=torch.float64)
    elif name.endswith("weight"):
        value = 1 + 0.05 * s
    else:
        value = 0.01 * s
    return value.float()


def released(shared: Path, name: str) -> Method:
    """A released PCSR or original model."""
    method, _ = load_method(shared / f"mirror/released/PCSR/save/{name}/iter_last.pth")
    return method


def arm(shared: Path, backbone: str) -> ARM:
    """A released ARM model."""
    method, _ = load_method(shared / f"mirror/released/ARM-Net/ckpt/arm-{backbone}.pth")
    assert isinstance(method, ARM)
    return method


def enaf(shared: Path, backbone: str, *, as_released: bool = False) -> ENAF:
    """A released ENAF model, as designed or as the released code runs it."""
    path = shared / f"mirror/released/ENAF/{backbone}_eunaf.t7"
    release = read(path)
    options = {**release.model.options, "as_released": as_released}
    method = assemble(release.model.model_copy(update={"options": options}), release.tensors, "it")
    assert isinstance(method, ENAF)
    return method


def classsr_release(shared: Path, backbone: str) -> Path:
    """The file of a released ClassSR joint model."""
    return shared / f"mirror/released/ClassSR/ClassSR_{backbone.upper()}.pth"


def classsr(shared: Path, backbone: str) -> ClassSR:
    """A released ClassSR joint model."""
    method, _ = load_method(classsr_release(shared, backbone))
    assert isinstance(method, ClassSR)
    return method


def classsr_formula(shared: Path, backbone: str) -> ClassSR:
    """ClassSR with formula weights, and the classifier of the golden file."""
    weights = formula_weights(shared, f"classsr-{backbone}")
    with np.load(shared / "golden/classsr_formula.npz") as golden:
        for name in [name for name in weights if name.startswith("classifier.")]:
            stored = golden[f"{backbone}_classifier/{name.removeprefix('classifier.')}"]
            weights[name] = torch.from_numpy(stored)
    method = registry.build(ModelConfig(backbone=backbone, method="classsr")).eval()
    checkpoint.fill(method, rename_method("classsr", backbone, weights), "formula")
    assert isinstance(method, ClassSR)
    return method


def srresnet(shared: Path) -> tuple[Method, Method]:
    """SRResNet's PCSR and original with formula weights: they were not released."""
    pcsr = registry.build(ModelConfig(backbone="srresnet", method="pcsr")).eval()
    weights = rename_method("pcsr", "srresnet", formula_weights(shared, "srresnet-pcsr"))
    checkpoint.fill(pcsr, weights, "formula")
    original = registry.build(ModelConfig(backbone="srresnet", method="original")).eval()
    weights = rename_method("original", "srresnet", formula_weights(shared, "srresnet-x4"))
    checkpoint.fill(original, weights, "formula")
    return pcsr, original
