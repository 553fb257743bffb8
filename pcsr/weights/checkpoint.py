"""Weights and resumable states as self-describing safetensors files.

A file holds tensors and, in its header, a JSON text with the model configuration, the weights'
provenance and a checksum over all of it. Reading it never executes code. The same JSON is written
beside the file for readers.
"""

import errno
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pcsr.errors import UserError, did_you_mean, one_line
from pcsr.storage import content, files
from pcsr.storage.content import sha256

FORMAT = "pcsr-2"
OLDER = "pcsr-1"  # without a checksum
HEADER, CHECKSUM = "pcsr", "checksum"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 2**31  # bytes of a file; a training state of these networks has less than 100 MB
LARGEST_HEADER = 2**22  # bytes; a header has 100 per tensor, plus the facts
MOST_TENSORS = 10_000  # the largest training state has 1,000


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and their description to ``path`` atomically."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    described = {**facts, "format": FORMAT}
    header = {HEADER: json.dumps({**described, CHECKSUM: _checksum(plain, described)})}
    with files.atomic(path) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:  # how safetensors reports a full disk, among others
            raise OSError(errno.EIO, str(error)) from error


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write a model's weights, and its description as JSON beside them."""
    # The weights come last: their existence marks the step as done.
    files.write_json(files.sidecar(path), facts)
    save(path, model.state_dict(), facts)


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Return the checksum of tensors on the CPU (names, types, shapes, values) and their facts."""
    shapes = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    total = hashlib.sha256(json.dumps([facts, shapes], sort_keys=True).encode())
    for _, tensor in sorted(tensors.items()):
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and their description, and verify the checksum in the file.

    A file listed in a ``SHA256SUMS`` beside it is also verified against that.

    Raises:
        UserError: the file is missing, damaged, not a safetensors file, or not from this suite.
    """
    named = did_you_mean(path.name, files.shipped_names()) if not path.suffix else ""
    hint = f"train it, or give another path. {named}".rstrip()
    size = content.require_file(path, "weights file", hint)
    content.require_recorded(path)
    try:
        _require_bounded(path, size)
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            facts = content.parse_json(header.pop(HEADER, "null"))
            if header or not isinstance(facts, dict) or facts.get("format") not in (FORMAT, OLDER):
                raise UserError(
                    f"{path}: not a weights file of this suite (its header has no '{HEADER}' entry "
                    f"of format '{FORMAT}'); convert published weights with `pcsr import-released`."
                )
            names = file.keys()
            if len(names) > MOST_TENSORS:
                raise ValueError(f"{len(names)} tensors")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        expected = facts.pop(CHECKSUM, None)
        unchecked = facts["format"] == OLDER and expected is None
        whole = unchecked or expected == _checksum(tensors, facts)
    except UserError:
        raise
    except Exception as error:  # the file is untrusted and may contain anything
        what = content.describe(path)
        if "safetensors" in what:
            what += f", but it cannot be read ({one_line(error, 80)}); it may be truncated"
        raise UserError(
            f"{path}: not a readable safetensors file: it is {what}; make or copy it again. "
            "Published .pth files are converted by `pcsr import-released`."
        ) from None
    if not whole:
        raise UserError(f"{path}: damaged: its checksum does not match; make or copy it again.")
    return tensors, facts


def _require_bounded(path: Path, size: int) -> None:
    """Refuse a file that is larger, or has a larger header, than any of the suite's."""
    with path.open("rb") as file:
        start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(size - 8, LARGEST_HEADER) or size > LARGEST:
        raise ValueError(f"of {size} bytes with a header of {length}")


def require_fit(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that tensors have the names, shapes and types of a model's, and are finite.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape or type, or not finite; names
            the first.
    """
    if problem := next(_misfits(model.state_dict(), tensors), ""):
        raise UserError(
            f"{where}: {problem}; these weights are of another architecture. Use weights trained "
            "for this configuration."
        )
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{where}: '{name}' has numbers that are not finite: the training diverged, or the "
                "file is damaged. Use other weights."
            )


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name in sorted(own.keys() - tensors.keys()):
        yield f"has no tensor '{name}'"
    for name in sorted(tensors.keys() - own.keys()):
        yield f"has a tensor '{one_line(name, 80)}' that the model lacks"
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, the model needs {tuple(own[name].shape)}"
            yield f"has '{name}' of shape {shapes}"
        elif tensor.dtype not in (FLOATS if own[name].is_floating_point() else (own[name].dtype,)):
            yield f"has '{name}' of type {tensor.dtype}, the model needs {own[name].dtype}"


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a model, if they fit it (see :func:`require_fit`)."""
    require_fit(model, tensors, where)
    model.load_state_dict(dict(tensors))


def digest(path: Path) -> str:
    """Return 12 hex digits that identify a file's content."""
    return sha256(path)[:12]


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return 12 hex digits that identify tensors by their names and values."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:12]
