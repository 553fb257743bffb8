"""Export a model as ONNX, for programs that run such files without this suite."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch.export import Dim

from pcsr import __version__
from pcsr.config.options import Scale, WeightsFile
from pcsr.engine.graph import Routed, Whole, graph
from pcsr.errors import UserError, one_line
from pcsr.evaluation.points import requested_point, usable_scale
from pcsr.storage import content, files
from pcsr.weights.load import load_method

NEEDED = ("onnx", "onnxscript")  # packages
OPSET = 20
EXAMPLE = (24, 33)  # LR size that the graph is recorded at; it is not in the file


def export(
    weights: WeightsFile,
    target: Annotated[Path, Parameter(help="ONNX file to write (.onnx)")],
    /,
    *,
    refine: Annotated[
        bool | None, Parameter(help="smooth light pixels next to heavy ones; on by default")
    ] = None,
    scale: Scale = None,
) -> str:
    """Write a model as ONNX for images of any size, to run in ONNX Runtime, OpenVINO and others.

    The graph maps `lr`, float32 RGB (N, 3, h, w) in [0, 1], to `sr`, (N, 3, H, W) in [0, 1], equal
    to the output of `pcsr upscale` to one grey level. A PCSR model has a second input, the scalar
    `k` (float32): 0 takes the most likely head, higher values save more time. Its scale, which may
    be fractional, is fixed at export. Originals and PCSR can be exported, tile methods cannot.
    Scale, version and the SHA-256 of the weights are in the file's metadata.

    It needs the extra [export], which `make setup` installs.

    Example: `pcsr export weights/fsrcnn-pcsr.safetensors fsrcnn-pcsr.onnx`.
    """
    files.require_suffix(target, ".onnx", "output")
    files.check_outputs((weights,), (target,))
    for package in NEEDED:  # before the graph is made, which takes seconds
        import_module(package)
    method, _ = load_method(weights)
    scale = usable_scale(method, scale)
    point = requested_point(method, scale, refine=refine)
    try:
        made = graph(method, scale, point.refine)
        facts = {
            "version": __version__,
            "weights_sha256": content.sha256(weights),
            "model": json.dumps(method.config.model_dump(mode="json")),
            "scale": f"{scale:g}",
            "least_side": str(made.backbone.least_side),
            "input": "lr: RGB in [0, 1], (N, 3, h, w)",
        }
        if isinstance(made, Routed):
            facts |= {"k": f"{point.knob:g}", "refine": str(point.refine).lower()}
        written = onnx_bytes(made, facts)
    except UserError as error:
        raise UserError(f"{weights}: {error}") from None
    files.remove_leftovers(target.parent)
    with files.atomic(target) as temporary:
        temporary.write_bytes(written)
    return f"{method.config.backbone}-{method.config.method}, x{scale:g} -> {target}"


def onnx_bytes(network: Whole | Routed, facts: dict[str, str]) -> bytes:
    """Return a graph as the content of an ONNX file, with facts in its metadata.

    Raises:
        UserError: the backbone has an operation that ONNX lacks, or one of fixed size.
    """
    least = max(2, network.backbone.least_side)
    axes = {0: Dim("n"), 2: Dim("h", min=least), 3: Dim("w", min=least)}
    inputs = (torch.rand(2, 3, *EXAMPLE), torch.tensor(0.0))[: len(network.inputs)]
    problem: object = "the size of the image becomes a part of its layers"
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                network,
                inputs,
                input_names=network.inputs,
                output_names=["sr"],
                dynamic_shapes=(axes, {})[: len(inputs)],
                opset_version=OPSET,
                custom_translation_table={round: _rounded(network.scale)},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        program, problem = None, _root(error)
    # A size that the exporter cannot keep symbolic becomes a constant.
    if (
        program is None
        or [type(side) for side in program.model.graph.inputs[0].shape or ()].count(int) > 1
    ):
        raise UserError(
            f"{type(network.backbone).__name__} cannot be exported for images of any size: "
            f"{one_line(problem)}; export another backbone."
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # what it was recorded from: lines of code, and their paths
    program.model.metadata_props.update({f"pcsr.{name}": text for name, text in facts.items()})
    return program.model_proto.SerializeToString()


def _rounded(scale: float) -> Any:
    """Return the ONNX translation of ``round`` that agrees with ``geometry.hr_size``.

    The exporter multiplies LR lengths in float32, where 2.7 * 175 rounds to another integer. So the
    LR length is recovered from the product, and multiplied again in float64.
    """
    # Optional packages.
    from onnx import TensorProto, helper  # noqa: PLC0415
    from onnxscript import opset20 as op  # noqa: PLC0415

    def rounded(product: Any, _: None = None) -> Any:
        length = op.Round(op.Div(product, op.Constant(value_float=scale)))
        exact = op.Constant(value=helper.make_tensor("scale", TensorProto.DOUBLE, [], [scale]))
        product = op.Mul(op.Cast(length, to=TensorProto.DOUBLE), exact)
        return op.Cast(op.Round(product), to=TensorProto.INT64)

    return rounded


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's messages to developers, on optional packages and on its own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
