"""Inference runtimes that a user could run an exported model in, instead of the suite."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from pcsr.engine.graph import Routed, graph
from pcsr.errors import UserError
from pcsr.evaluation.export import NEEDED, onnx_bytes
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint

RuntimeName = Literal["onnxruntime", "openvino", "openvino-bf16"]
Feed = Mapping[str, Any]  # arrays by the names of inputs

PRECISIONS = {"onnxruntime": "float32", "openvino": "float32", "openvino-bf16": "bf16"}


def require(names: list[RuntimeName]) -> None:
    """Check that the packages of these runtimes, and those that write ONNX, are installed.

    Raises:
        ImportError: a package that writes ONNX is missing.
        UserError: the package of a runtime is missing.
    """
    for package in NEEDED if names else ():
        import_module(package)
    for package in sorted({name.removesuffix("-bf16") for name in names}):
        if find_spec(package) is None:
            raise UserError(f"--peers: needs the package {package}; run `pip install {package}`.")


class Runtimes:
    """Methods in inference runtimes; each is exported and loaded once, for all values of k.

    A runtime keeps gigabytes for a 4K image, so let go of this before the next image.
    """

    def __init__(self) -> None:
        self._export, self._load = cache(_export), cache(_load)

    def exported(self, method: Method, scale: float, point: OperatingPoint) -> tuple[bytes, bool]:
        """Return a method as an ONNX file, and whether k is one of its inputs.

        Raises:
            UserError: the method cannot be exported, or decides otherwise than by a knob.
        """
        if point.knob is None and method.knobs:
            raise UserError("an exported model is given its k alone.")
        return self._export(method, scale, point.refine)

    def load(
        self, name: RuntimeName, method: Method, scale: float, point: OperatingPoint
    ) -> Callable[[Tensor], Tensor]:
        """Load a method into a runtime, with as many threads as torch has.

        Args:
            name: of the runtime, and of the precision that is asked of it.
            method: an original, or PCSR with its routing in the graph.
            scale: HR size / LR size.
            point: operating point, by its knob.

        Returns:
            LR (1, 3, h, w) -> SR (1, 3, H, W) in [0, 1].

        Raises:
            UserError: see ``exported``.
        """
        model, routed = self.exported(method, scale, point)
        run = self._load(name, model, torch.get_num_threads())
        k = {"k": torch.tensor(float(point.knob or 0)).numpy()} if routed else {}
        return lambda lr: torch.from_numpy(run({"lr": lr.numpy()} | k))


def _export(method: Method, scale: float, refine: bool) -> tuple[bytes, bool]:
    made = graph(method, scale, refine)
    return onnx_bytes(made, {}), isinstance(made, Routed)


def _load(name: RuntimeName, model: bytes, threads: int) -> Callable[[Feed], Any]:
    return LOADERS[name](model, threads)


def _onnxruntime(model: bytes, threads: int) -> Callable[[Feed], Any]:
    import onnxruntime  # noqa: PLC0415 - an optional package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))[0]


def _openvino(model: bytes, threads: int, precision: str = "f32") -> Callable[[Feed], Any]:
    import openvino  # noqa: PLC0415 - an optional package

    how = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", how)
    return lambda feed: compiled(dict(feed))[0]


LOADERS: dict[str, Callable[[bytes, int], Callable[[Feed], Any]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino-bf16": lambda model, threads: _openvino(model, threads, "bf16"),
}
