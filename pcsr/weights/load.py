"""From a weights file, ours or a known release, to the method that it holds."""

from pathlib import Path
from typing import Any

from pcsr import registry
from pcsr.config.load import parse
from pcsr.config.models import ModelConfig
from pcsr.methods.base import Method
from pcsr.weights import checkpoint, released


def load_method(path: Path) -> tuple[Method, dict[str, Any]]:
    """Build a method and fill it with the weights in ``path``, ours or a known release.

    Returns:
        The method in eval mode on the CPU, and what is known about its training.

    Raises:
        UserError: the file is missing, damaged, of an unknown release, or its weights do not fit
            the model that it names.
    """
    if path.suffix in (".pth", ".pt", ".ckpt"):
        release = released.read(path)
        method = registry.build(release.model, str(path))
        checkpoint.fill(method, release.tensors, str(path))
        return method.eval(), {"released": release.recognised, "iterations": release.iterations}
    tensors, facts = checkpoint.load(path)
    model = parse(ModelConfig, facts.get("model", {}), f"{path}: model")
    method = registry.build(model, str(path))
    checkpoint.fill(method, tensors, str(path))
    return method.eval(), facts
