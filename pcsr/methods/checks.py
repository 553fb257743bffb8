"""What methods check and complete alike: options, the knob, the scale of a tail."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pcsr.config.load import parse
from pcsr.config.models import Config, ModelConfig
from pcsr.errors import UserError
from pcsr.routing import OperatingPoint

OptionsT = TypeVar("OptionsT", bound=Config)


def complete(
    options: type[OptionsT], config: ModelConfig, paper: Mapping[str, Mapping[str, Any]]
) -> tuple[OptionsT, ModelConfig]:
    """Fill what the options leave open with the paper's values for the backbone.

    Args:
        options: the method's ``Options``.
        config: the user's configuration.
        paper: backbone -> options.

    Returns:
        The options, and the configuration with all of them.

    Raises:
        UserError: an option is unknown, wrong, or missing because the backbone is not in the paper.
    """
    values = {**paper.get(config.backbone, {}), **config.options}
    completed = parse(options, values, f"model.options of {config.backbone}-{config.method}")
    return completed, config.model_copy(update={"options": completed.model_dump(mode="json")})


def knob_of(point: OperatingPoint, method: str, meaning: str) -> float:
    """Return the knob of a method that decides by nothing else.

    Raises:
        UserError: the point has none; ``meaning`` says what the user should give.
    """
    if point.knob is None:
        raise UserError(f"{method} decides by its knob alone: give {meaning}.")
    return point.knob


def require_scale(config: ModelConfig, scale: float) -> int:
    """Return the scale of a model with tails, which has no other.

    Raises:
        UserError: another scale is asked for.
    """
    if scale != config.scale:
        raise UserError(
            f"--scale {scale:g}: this {config.backbone}-{config.method} was built for "
            f"x{config.scale:g}; use that scale, or a pcsr model."
        )
    return int(scale)
