"""Weights files that lie about what they hold."""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from workspace import ROOT, Runs

from pcsr.weights import checkpoint

SHIPPED = ROOT / "weights/fsrcnn-original.safetensors"


def released_names(fsrcnn: nn.Module) -> dict[str, Tensor]:
    """Return an FSRCNN's weights under the names of the releases."""
    names = {"extract": "head_conv", "shrink": "body_conv.0", "expand": "body_conv.6"}
    renamed = {}
    for name, tensor in fsrcnn.state_dict().items():
        first, *rest = name.removeprefix("network.").split(".")
        if first == "map":
            first, rest = "body_conv", [str(int(rest[0]) + 1), *rest[1:]]
        first = {**names, "tail": "tail_conv"}.get(first, first)
        renamed[".".join([first, *rest])] = tensor
    return renamed


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def lies(weights: dict[str, Tensor], proof: Path) -> dict[str, Any]:
    """What ``torch.save`` may be given, and nothing should load."""
    first = "head_conv.0.weight"
    zero, shared = torch.zeros(1, 1, 1, 1), torch.zeros(500, 500)
    return {
        "zero strides": {first: zero.expand(2_900_000_000, 1, 1, 1)},
        "zero strides beside": {**weights, "other": zero.expand(2**33, 1, 1, 1)},
        "one storage many times": {str(i): shared for i in range(1500)},
        "nan": {**weights, first: weights[first] * float("nan")},
        "inf": {**weights, first: weights[first] / 0},
        "integers": {name: tensor.int() for name, tensor in weights.items()},
        "complex": {name: tensor.to(torch.complex64) for name, tensor in weights.items()},
        "meta": {name: tensor.to("meta") for name, tensor in weights.items()},
        "sparse": {**weights, first: weights[first].to_sparse()},
        "too wide": {first: torch.zeros(2000, 3, 5, 5)},
        "no dimensions": {first: torch.tensor(1.0)},
        "other names": {"\x1b[31m\nred": torch.ones(3)},
        "names that are numbers": {1: torch.ones(3)},
        "a list": [1, 2], "a number": 5, "nothing": None, "no names": {},
        "a tensor": torch.ones(3),
        "model in itself": {"model": {"sd": {"sd": weights}}},
        "runs": {**weights, "x": Runs(proof)},
        "memory": {"x": Calls(bytearray, 10**11)},
        "a storage": {"x": Calls(torch.UntypedStorage, 10**11)},
        "empty": {"x": Calls(torch.empty, 10**10)},
        "numpy memory": {"x": Calls(np.zeros, 10**10)},
        "arrays of pointers": {"x": Calls(np.ndarray, (4,), np.dtype("O"), b"A" * 32)},
        "a deep list": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]],
    }  # fmt: skip


def described(**changes: Any) -> dict[str, Any]:
    facts = checkpoint.load(SHIPPED)[1]
    return {**facts, "model": {**facts["model"], **changes}}


HEADS = [{"width": 1024, "depth": 32}] * 16
LINEAR = {"width": 0, "depth": 0}
MODELS: dict[str, dict[str, Any]] = {
    **{f"width {width}": {"width": width} for width in (0, -1, 10**9, 1e99, "9", [1], 1024)},
    **{f"scale {scale}": {"scale": scale} for scale in (0, -2, 1e9, 60, 3.5, "4x", None)},
    **{f"wide {name}": {"width": 1024, "backbone": name} for name in ("carn", "srresnet")},
    "deep": {"method": "pcsr", "heads": [{"width": 9, "depth": 10**7}] * 2, "classifier": LINEAR},
    "heads": {"method": "pcsr", "heads": HEADS, "classifier": HEADS[0]},
    "many heads": {"method": "pcsr", "heads": [LINEAR] * 10**4, "classifier": LINEAR},
    "widths": {"method": "classsr", "width": None, "widths": list(range(1, 10**5))},
    "backbone": {"backbone": "\x1b[2J\nrm"}, "long": {"backbone": "x" * 10**5},
    "import": {"backbone": "os:system"}, "method": {"method": "../x"},
    "twice": {"width": 56, "options": {"width": 8}}, "norm": {"batch_norm": "maybe"},
    "list": {"options": [1]}, "number": {"options": 7}, "unknown": {"options": {"evil": 1}},
}  # fmt: skip


def headers() -> Iterator[bytes]:
    """Beginnings of safetensors files."""
    about = {"__metadata__": {"pcsr": json.dumps(described())}}

    def file(header: Any, length: int | None = None, body: bytes = bytes(64)) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + body

    def tensor(*offsets: int, shape: Any = (16,), dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    yield from (file(about, length) for length in (0, 1, 2**22, 2**30, 2**63, 2**64 - 1))
    yield from (file(b'{"a":' * depth) for depth in (10, 10**5))
    yield file({**about, "a": tensor(0, 64), "b": tensor(0, 64)})
    yield file({**about, "a": tensor(0, 64), "b": tensor(32, 96)})
    yield file({**about, "a": tensor(64, 0)})
    yield file({**about, "a": tensor(0, 64, shape=[10**12])})
    yield file({**about, "a": tensor(0, 64, shape=[-16])})
    yield file({**about, "a": tensor(0, 2**62, shape=[2**60])})
    yield file({**about, "a": tensor(0, 0, shape=[0, 10**18])}, body=b"")
    yield file({**about, "a": tensor(0, 64, dtype="F31")})
    many = {f"t{i}": tensor(0, 0, shape=[0]) for i in range(20_000)}
    yield file({**about, **many}, body=b"")


OTHERS = {
    "a web page (HTML)": b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "empty": b"",
    "text": b"404: Not Found",
    "zeros": bytes(4096),
    "gzip-compressed": b"\x1f\x8b\x08\x00" + os.urandom(99),
    "a PNG image": b"\x89PNG\r\n\x1a\n" + os.urandom(99),
    "a PDF document": b"%PDF-1.4\n" + os.urandom(99),
    "of no format": b"\x01\x02\x03" + bytes(range(256)),
}
