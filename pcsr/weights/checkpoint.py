"""Weights and resumable states as self-describing safetensors files.

A file holds tensors and, in its header, a JSON text with the model configuration and the weights'
provenance. Reading it never executes code. The same JSON is written beside the file for readers.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pcsr import files
from pcsr.errors import UserError

FORMAT = "pcsr-1"
HEADER = "pcsr"


def save(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and their description to ``path`` atomically."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {HEADER: json.dumps({"format": FORMAT, **facts})}
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


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and their description.

    Raises:
        UserError: the file is missing, truncated, not a safetensors file, or not from this suite.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; train it, or give another path.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}); it may be truncated: make or "
            "copy it again. Published .pth files are converted by `pcsr import-released`."
        ) from None
    try:
        facts = json.loads(header[HEADER])
    except (KeyError, ValueError):
        facts = {}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(
            f"{path}: not a weights file of this suite (its header has no '{HEADER}' entry of "
            f"format '{FORMAT}'); convert published weights with `pcsr import-released`."
        )
    return tensors, facts


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a model; names and shapes must match exactly.

    Raises:
        UserError: names the first tensor that is missing, unexpected, or of another shape.
    """
    own = model.state_dict()
    problem = None
    if missing := sorted(own.keys() - tensors.keys()):
        problem = f"has no tensor '{missing[0]}'"
    elif extra := sorted(tensors.keys() - own.keys()):
        problem = f"has a tensor '{extra[0]}' that the model lacks"
    else:
        for name, tensor in tensors.items():
            if tensor.shape != own[name].shape:
                shapes = f"{tuple(tensor.shape)}, the model needs {tuple(own[name].shape)}"
                problem = f"has '{name}' of shape {shapes}"
                break
    if problem:
        raise UserError(
            f"{where}: {problem}; these weights are of another architecture. Use weights trained "
            "for this configuration."
        )
    model.load_state_dict(dict(tensors))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def read_pickled(path: Path, allowed: list[Any] | None = None) -> Any:
    """Read another project's ``torch.save`` file without executing anything in it.

    Args:
        path: the file.
        allowed: functions and classes the file may refer to, besides tensors and plain containers.

    Raises:
        UserError: the file is missing, truncated, not a PyTorch file, or would run code.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a published checkpoint.")
    try:
        with torch.serialization.safe_globals(allowed or []):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error)
        if "Unsupported global" in reason or "weights_only" in reason.lower():
            named = _between(reason, "GLOBAL ", " was not") or "code"
            raise UserError(
                f"{path}: refused, because it is more than weights: it would run {named} when "
                "read. Get the file from its authors, or re-save it as plain tensors."
            ) from None
        raise UserError(
            f"{path}: not a readable PyTorch file; it may be truncated, or another format: copy or "
            "download it again."
        ) from None


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0] if start in text else ""
