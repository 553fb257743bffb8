"""Load a method from a weights file of the suite or of a recognised release."""

from pathlib import Path
from typing import Any

from pcsr import registry
from pcsr.config.load import parse
from pcsr.config.models import ModelConfig
from pcsr.methods.base import Method
from pcsr.weights import checkpoint, released


def load_method(path: Path) -> tuple[Method, dict[str, Any]]:
    """Build a method and load the weights in ``path``, the suite's own or a recognised release's.

    Returns:
        The method in eval mode on the CPU, and the facts stored with its weights.

    Raises:
        UserError: the file is missing, damaged, of an unknown release, or its weights do not fit
            the model that it describes.
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
