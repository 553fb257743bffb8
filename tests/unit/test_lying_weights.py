"""Weights files that are not what they say: refused in one line, in a moment, in little memory."""

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from models import build
from safetensors.torch import save_file
from torch import Tensor, nn
from workspace import ROOT, Runs

from pcsr.errors import UserError
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

SHIPPED = ROOT / "weights/fsrcnn-original.safetensors"
SECONDS, GROWTH = 1.0, 64 * 2**20  # of a refusal; bytes
Content = bytes | Callable[[Path], None]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """An FSRCNN under the names of the releases."""
    names = {"extract": "head_conv", "shrink": "body_conv.0", "expand": "body_conv.6"}
    renamed = {}
    for name, tensor in build("fsrcnn", "original", options={"width": 8}).state_dict().items():
        first, *rest = name.removeprefix("network.").split(".")
        if first == "map":
            first, rest = "body_conv", [str(int(rest[0]) + 1), *rest[1:]]
        first = {**names, "tail": "tail_conv"}.get(first, first)
        renamed[".".join([first, *rest])] = tensor
    return renamed


def refusal(path: Path) -> str:
    """Load a file that must be refused; returns the message."""
    process = psutil.Process()
    memory, began = process.memory_info().rss, time.process_time()
    with pytest.raises(UserError) as error:
        load_method(path)
    message = str(error.value)
    assert time.process_time() - began < SECONDS, (path.name, message)
    assert process.memory_info().rss - memory < GROWTH, (path.name, message)
    assert message.isprintable() and str(path) in message, message
    assert len(message) < len(str(path)) + 400, message
    return message


# -- what is accepted ----------------------------------------------------------------------------


def test_what_training_frameworks_save_is_recognised(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    parallel = {f"module.{name}": tensor for name, tensor in weights.items()}
    scalars = {"epoch": np.int64(3), "best": np.float32(30.5), "seed": 1, "name": "x", "no": None}
    contents: dict[str, Any] = {
        "plain": weights,
        "parallel": parallel,
        "scalars": {**weights, **scalars},
        "params": {"params": weights},
        "params_ema": {"params": zeros, "params_ema": weights},
        "state_dict": {"state_dict": parallel, **scalars, "losses": np.zeros(5)},
        "optimizer": {"params": weights, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
        "sd": {"model": {"name": "fsrcnn", "args": {"scale": 4}, "sd": parallel}, "iter": 7},
        "parameters": {name: nn.Parameter(tensor) for name, tensor in weights.items()},
        "double": {name: tensor.double() for name, tensor in weights.items()},
    }
    for name, saved in contents.items():
        for is_zip in (True, False):
            file = tmp_path / f"{name}.pth"
            torch.save(saved, file, _use_new_zipfile_serialization=is_zip)
            method, facts = load_method(file)
            ours = method.state_dict()["network.extract.0.weight"]
            assert torch.equal(ours, weights["head_conv.0.weight"]), name
            where = name if name in ("params", "params_ema", "state_dict") else ""
            assert facts["released"].endswith(f", of its {where}" if where else ""), name


# -- files of PyTorch that lie -------------------------------------------------------------------


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def repacked(source: Path, target: Path, **changes: Any) -> None:
    """Write a file of ``torch.save`` again, with storages of zeros."""
    compression = changes.get("compression", zipfile.ZIP_STORED)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            size = changes.get("size", 0) if "/data/" in entry.filename else 0
            new.writestr(entry.filename, bytes(size) if size else old.read(entry))


def test_files_of_pytorch_that_lie(weights: dict[str, Tensor], tmp_path: Path) -> None:
    plain, proof = tmp_path / "plain.pth", tmp_path / "ran"
    torch.save(weights, plain)
    first = "head_conv.0.weight"
    zero, shared = torch.zeros(1, 1, 1, 1), torch.zeros(500, 500)
    lies: dict[str, Any] = {
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
    for name, lie in lies.items():
        for is_zip in (True, False):
            file = tmp_path / f"{name}.pth"
            torch.save(lie, file, _use_new_zipfile_serialization=is_zip)
            refusal(file)
            file.write_bytes(pickle.dumps(lie))
            refusal(file)
    assert not proof.exists()
    assert "would run" in refusal(tmp_path / "runs.pth")
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        bomb = tmp_path / "bomb.pth"
        repacked(plain, bomb, compression=compression, size=1_000_000)
        assert "compressed, which PyTorch never does" in refusal(bomb)
    whole, legacy = plain.read_bytes(), tmp_path / "legacy.pth"
    torch.save(weights, legacy, _use_new_zipfile_serialization=False)
    for number in range(20):
        for source in (whole, legacy.read_bytes()):
            cut = tmp_path / "cut.pth"
            cut.write_bytes(source[: len(source) * number // 20])
            refusal(cut)
    steps = tmp_path / "steps.pth"
    steps.write_bytes(b"\x80\x02" + b"N0" * 10**6 + b"N.")
    refusal(steps)


# -- safetensors files that lie ------------------------------------------------------------------


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
    "list": {"options": [1]}, "number": {"options": 7}, "unknown": {"options": {"evil": 1}},
}  # fmt: skip


def test_descriptions_that_ask_for_the_absurd(tmp_path: Path) -> None:
    tensors, facts = checkpoint.load(SHIPPED)
    texts = {name: json.dumps(described(**changes)) for name, changes in MODELS.items()}
    for depth in (70, 900, 10**5):
        nested = "[" * depth + "]" * depth
        texts[f"nested {depth}"] = f'{{"format": "pcsr-1", "model": {{"options": {nested}}}}}'
    for model in (None, 5, "x", [], {}):
        texts[f"model {model}"] = json.dumps({**facts, "model": model})
    for text in ("", "null", "[]", '"x"', "{", "\x00", '{"format": "pcsr-3"}', "NaN"):
        texts[f"text {len(text)}"] = text
    texts["unchecked"] = json.dumps({**facts, "format": "pcsr-2"})
    for name, text in texts.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file, metadata={"pcsr": text})
        refusal(file)
    more = {"pcsr": json.dumps(facts), "pcsq": "x"}
    save_file(tensors, tmp_path / "more.safetensors", metadata=more)
    refusal(tmp_path / "more.safetensors")


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    tensors, facts = checkpoint.load(SHIPPED)
    first = next(iter(tensors))
    for name, changed in {
        "nan": {**tensors, first: tensors[first] * float("nan")},
        "inf": {**tensors, first: tensors[first] / 0},
        "int": {name: tensor.int() for name, tensor in tensors.items()},
        "float8": {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()},
        "complex": {name: tensor.to(torch.complex64) for name, tensor in tensors.items()},
        "extra": {**tensors, "\x1b[31m": torch.zeros(1)},
        "flat": {name: tensor.flatten() for name, tensor in tensors.items()},
        "none": {},
    }.items():
        file = tmp_path / f"{name}.safetensors"
        checkpoint.save(file, changed, facts)
        refusal(file)


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


def test_headers_that_lie(tmp_path: Path) -> None:
    for number, data in enumerate(headers()):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(data)
        refusal(file)


# -- other files under the name of weights -------------------------------------------------------

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


def test_other_files_are_called_what_they_are(tmp_path: Path) -> None:
    for kind, data in OTHERS.items():
        for suffix in (".pth", ".pt", ".ckpt", ".safetensors"):
            file = tmp_path / f"file{suffix}"
            file.write_bytes(data)
            assert f"it is {kind}" in refusal(file)
            assert "would run" not in refusal(file)
    renamed = tmp_path / "renamed.pth"
    renamed.write_bytes(SHIPPED.read_bytes())
    assert "a safetensors file; give it the ending .safetensors" in refusal(renamed)
    folder = tmp_path / "folder.pth"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    for path, problem in {
        folder: "is a folder",
        tmp_path / "none.pth": "no such weights file",
        tmp_path / "pipe.pth": "is no regular file",
        renamed / "below.safetensors": "Not a directory",
    }.items():
        assert problem in refusal(path)
    huge = tmp_path / "huge.safetensors"
    for suffix in (".pth", ".safetensors"):
        huge = huge.with_suffix(suffix)
        huge.touch()
        os.truncate(huge, 2**40)
        refusal(huge)
        huge.unlink()
