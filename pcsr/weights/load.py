"""Load a method from a weights file of the suite or of a recognised release."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pcsr import registry, runtime
from pcsr.backbones.base import Backbone
from pcsr.config.base import Facts
from pcsr.config.load import parse
from pcsr.config.models import COUNT_LIMIT, ModelConfig
from pcsr.errors import UserError
from pcsr.methods.base import Method
from pcsr.weights import checkpoint, released

LONGEST = 255  # characters of an experiment's name


class Description(Facts):
    """The facts stored with weights that every reader uses, besides the model."""

    experiment: str | None = Field(default=None, max_length=LONGEST)
    iterations: int | None = Field(default=None, ge=0, le=COUNT_LIMIT)


def load_method(path: Path) -> tuple[Method, dict[str, Any]]:
    """Build a method and load the weights in ``path``, the suite's own or a recognised release's.

    Returns:
        The method in eval mode on the CPU, and the facts stored with its weights.

    Raises:
        UserError: the file is missing, damaged or of an unknown release, or its description is
            invalid or does not fit its weights.
    """
    if path.suffix in (".pth", ".pt", ".ckpt", ".t7"):
        release = released.read(path)
        method = assemble(release.model, release.tensors, str(path))
        return method, {"released": release.recognised, "iterations": release.iterations}
    tensors, facts = checkpoint.load(path)
    parse(Description, facts, str(path))
    model = parse(ModelConfig, facts.get("model", {}), f"{path}: model")
    return assemble(model, tensors, str(path)), facts


def load_all(
    paths: Sequence[Path], device: str, threads: int
) -> tuple[torch.device, list[tuple[Method, dict[str, Any]]]]:
    """Set the process up for a command, and load methods onto the device called ``device``.

    Returns:
        The device, and what ``load_method`` returns for each file.
    """
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    loaded = [load_method(path) for path in paths]
    return picked, [(runtime.move(method, picked), facts) for method, facts in loaded]


def fill_network(method: Method, path: Path) -> None:
    """Give a method's network the weights of another method's, for training to start from.

    A tail that the method does not use is left out; the method's other weights stay as they are.

    Raises:
        UserError: see ``load_method``; or the networks differ, or a method has several.
    """
    source, _ = load_method(path)
    network, tensors = _network(method), _network(source).state_dict()
    used = {name: tensors[name] for name in network.state_dict() if name in tensors}
    checkpoint.fill(network, used, str(path))


def _network(method: Method) -> Backbone:
    """Return the one backbone of a method."""
    networks = [module for module in method.modules() if isinstance(module, Backbone)]
    if len(networks) != 1:
        raise UserError(
            f"{method.config.backbone}-{method.config.method} has {len(networks)} networks, not "
            "one: it neither starts from another experiment nor is started from; drop init."
        )
    return networks[0]


def assemble(model: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> Method:
    """Build a method and load its weights; return it in eval mode on the CPU.

    The method is first built without allocating its tensors and compared with those of the file, so
    that a false description takes no memory.

    Raises:
        UserError: the description is invalid, or the weights do not fit it; begins with ``where``.
    """
    try:
        # Constructors in other packages may need values, which tensors on "meta" do not have.
        with suppress(NotImplementedError, RuntimeError), torch.device("meta"):
            checkpoint.require_fit(registry.build(model, where), tensors, where)
        method = registry.build(model, where)
    except UserError as error:
        message = str(error)
        raise UserError(message if where in message else f"{where}: {message}") from None
    checkpoint.fill(method, tensors, where)
    return method.eval()
