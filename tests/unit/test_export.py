"""Exported graphs give the suite's images in other programs: ONNX Runtime and OpenVINO."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from conftest import ROOT
from models import at, build, photograph_like, saved

from pcsr import registry
from pcsr.backbones.fsrcnn import FSRCNN
from pcsr.config.models import ModelConfig
from pcsr.engine.deploy import folded
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation import export as exporting
from pcsr.evaluation.export import export
from pcsr.methods.base import Method
from pcsr.storage import content
from pcsr.weights.load import load_method

SIZES = ((24, 33), (17, 41), (1, 7))
PCSR = ROOT / "weights/fsrcnn-pcsr.safetensors"
Run = Callable[..., np.ndarray]


def in_runtimes(file: Path) -> dict[str, Run]:
    """An exported file in both runtimes, in float32: functions of lr, and of k where it has one."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", exact)

    def by_ort(**inputs: Any) -> np.ndarray:
        return session.run(
            None, {name: np.asarray(value, np.float32) for name, value in inputs.items()}
        )[0]

    def by_openvino(**inputs: Any) -> np.ndarray:
        return compiled({name: np.asarray(value, np.float32) for name, value in inputs.items()})[0]

    return {"onnxruntime": by_ort, "openvino": by_openvino}


def image(size: tuple[int, int]) -> torch.Tensor:
    """Two LR images, (2, 3, *size): a batch."""
    return photograph_like(2 * size[0], size[1]).view(3, 2, *size).transpose(0, 1)


def require_same(
    runs: dict[str, Run], method: Method, size: tuple[int, int], scale: float, **options: Any
) -> None:
    """Hold both runtimes to the runner's image: one grey level, and hardly any value differs."""
    lr = image(size)
    point = at(options.get("k"), options.get("refine", False))
    with torch.no_grad():
        expected = runner(method).run(lr, scale, point).sr.clamp(0, 1).mul(255).round()
    inputs = {"lr": lr.numpy(), **{name: options[name] for name in ("k",) if name in options}}
    for name, run in runs.items():
        levels = torch.from_numpy(np.round(run(**inputs) * 255))
        assert levels.shape == expected.shape, (name, size, options)
        apart = (levels - expected).abs()
        assert apart.max() <= 1, (name, size, options)
        assert (apart > 0).float().mean() < 1e-3, (name, size, options)


def test_pcsr_routes_in_the_graph(tmp_path: Path) -> None:
    file = tmp_path / "pcsr.onnx"
    assert export(PCSR, file) == f"fsrcnn-pcsr, x4 -> {file}"
    method, runs = load_method(PCSR)[0], in_runtimes(file)
    for size in SIZES:
        for k in (-25.0, 0.0, 1.0, 25.0):
            require_same(runs, method, size, 4, k=k, refine=True)
    model = onnx.load(file)
    assert {"NonZero", "Gather", "ScatterND"} <= {node.op_type for node in model.graph.node}
    assert [one.name for one in model.graph.input] == ["lr", "k"]
    facts = {one.key: one.value for one in model.metadata_props}
    assert json.loads(facts.pop("pcsr.model"))["backbone"] == "fsrcnn"
    assert facts["pcsr.weights_sha256"] == content.sha256(PCSR)
    assert (facts["pcsr.scale"], facts["pcsr.k"], facts["pcsr.refine"]) == ("4", "0", "true")
    assert str(ROOT).encode() not in file.read_bytes(), "paths of the machine"


def test_pcsr_at_a_fractional_scale(tmp_path: Path) -> None:
    """In float32, 175 LR pixels at x2.7 become 472 HR pixels; the suite makes them 473."""
    export(PCSR, tmp_path / "pcsr.onnx", scale=2.7, refine=False)
    method, runs = load_method(PCSR)[0], in_runtimes(tmp_path / "pcsr.onnx")
    for size in SIZES:
        require_same(runs, method, size, 2.7, k=0.0)
    require_same({"onnxruntime": runs["onnxruntime"]}, method, (9, 175), 2.7, k=1.0)


@pytest.mark.parametrize("backbone", ["fsrcnn", "carn", "srresnet", "efdn", "span"])
def test_originals_take_images_of_any_size(tmp_path: Path, backbone: str) -> None:
    method = build(backbone, "original", width=8)
    export(saved(method, tmp_path / "original.safetensors"), tmp_path / "o.onnx")
    runs = in_runtimes(tmp_path / "o.onnx")
    for height, width in SIZES:
        least = method.network.least_side
        require_same(runs, method, (max(height, least), max(width, least)), 4)


def test_batch_norm_is_folded() -> None:
    network = build("carn", "original", width=8).network
    plain = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    lr = image((9, 12))
    assert torch.allclose(plain(lr), network(lr), atol=1e-5)


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    for name in ("arm", "classsr"):
        weights = ROOT / f"weights/fsrcnn-{name}.safetensors"
        with pytest.raises(UserError, match=f"{weights}: {name} cannot be exported, because its"):
            export(weights, out)
    method = registry.build(ModelConfig(backbone="fsrcnn", method="enaf"))
    enaf = saved(method, tmp_path / "enaf.safetensors")
    with pytest.raises(UserError, match="enaf cannot be exported, because its"):
        export(enaf, out)
    whole = saved(build("safmnv3", "original", width=10), tmp_path / "safmnv3.safetensors")
    with pytest.raises(UserError, match=r"SAFMNv3 cannot be exported .* any size: [^\n]*$"):
        export(whole, out)
    with pytest.raises(UserError, match="--scale 3: this fsrcnn-original was built for x4"):
        export(ROOT / "weights/fsrcnn-original.safetensors", out, scale=3)
    with pytest.raises(UserError, match="--refine: original decides"):
        export(ROOT / "weights/fsrcnn-original.safetensors", out, refine=True)
    with pytest.raises(UserError, match=r"written as \.onnx"):
        export(PCSR, tmp_path / "o.pb")
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".onnx", ".pb")]


def test_a_backbone_that_fixes_the_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter would write a file for images of one size."""
    features = FSRCNN.features

    def of_one_size(self: FSRCNN, lr: torch.Tensor) -> torch.Tensor:
        return features(self, lr) * torch.ones(int(lr.shape[-2]), 1)

    monkeypatch.setattr(FSRCNN, "features", of_one_size)
    with pytest.raises(UserError, match=r"FSRCNN cannot be exported .* any size: [^\n]*$"):
        export(ROOT / "weights/fsrcnn-original.safetensors", tmp_path / "o.onnx")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        export(PCSR, tmp_path / "o.onnx")
