"""Weights files that lie about their content: refused in one line, fast, in little memory."""

import json
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hostile.weights import MODELS, OTHERS, SHIPPED, described, headers, lies, released_names
from models import build
from safetensors.torch import save_file
from torch import Tensor, nn

from pcsr.errors import UserError
from pcsr.weights import checkpoint
from pcsr.weights.load import load_method

SECONDS, GROWTH = 1.0, 64 * 2**20  # of a refusal; bytes
Content = bytes | Callable[[Path], None]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """An FSRCNN under the names of the releases."""
    return released_names(build("fsrcnn", "original", options={"width": 8}))


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
    for name, lie in lies(weights, proof).items():
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
    middle = len(whole) // 2  # in the numbers of a tensor
    for place in range(middle, middle + 100):
        flipped = tmp_path / "flipped.pth"
        flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "the checksum of" in refusal(flipped)
    steps = tmp_path / "steps.pth"
    steps.write_bytes(b"\x80\x02" + b"N0" * 10**6 + b"N.")
    refusal(steps)


# -- safetensors files that lie ------------------------------------------------------------------


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
    texts["older"] = json.dumps({**facts, "checksum": "0" * 64})
    for name, text in texts.items():
        file = tmp_path / f"{name}.safetensors"
        save_file(tensors, file, metadata={"pcsr": text})
        refusal(file)
    more = {"pcsr": json.dumps(facts), "pcsq": "x"}
    save_file(tensors, tmp_path / "more.safetensors", metadata=more)
    refusal(tmp_path / "more.safetensors")


def test_facts_that_cannot_be_are_named(tmp_path: Path) -> None:
    tensors, facts = checkpoint.load(SHIPPED)
    older = {**facts, "format": "pcsr-1"}
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file, metadata={"pcsr": json.dumps(older)})
    load_method(file)
    lies = [("iterations", value) for value in ("x", -1, 10**30, [1], True, 1.5, 1e999)]
    lies += [("experiment", value) for value in ([1], 5, "x" * 300)]
    for key, value in lies:
        save_file(tensors, file, metadata={"pcsr": json.dumps({**older, key: value})})
        assert key in refusal(file)
    twice = json.dumps(older).replace('"iterations"', '"iterations": 5, "iterations"', 1)
    save_file(tensors, file, metadata={"pcsr": twice})
    assert "gives 'iterations' twice" in refusal(file)


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


def test_headers_that_lie(tmp_path: Path) -> None:
    for number, data in enumerate(headers()):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(data)
        refusal(file)


# -- other files under the name of weights -------------------------------------------------------


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
        tmp_path / "pipe.pth": "is a special file",
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
