"""Checks that methods share: their options, the knob, the scale of a tail."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pcsr.config.load import parse
from pcsr.config.models import KNOB_LIMIT, Config, ModelConfig
from pcsr.errors import UserError
from pcsr.routing import OperatingPoint

OptionsT = TypeVar("OptionsT", bound=Config)


def complete(
    options: type[OptionsT], config: ModelConfig, paper: Mapping[str, Mapping[str, Any]]
) -> tuple[OptionsT, ModelConfig]:
    """Fill in the options that the user left out with the paper's values for the backbone.

    Args:
        options: the method's ``Options``.
        config: the user's configuration.
        paper: backbone -> the paper's options.

    Returns:
        The complete options, and the configuration with them filled in.

    Raises:
        UserError: an option is unknown, invalid, or missing because ``paper`` lacks the backbone.
    """
    values = {**paper.get(config.backbone, {}), **config.options}
    completed = parse(options, values, f"model.options of {config.backbone}-{config.method}")
    return completed, config.model_copy(update={"options": completed.model_dump(mode="json")})


def knob_of(point: OperatingPoint, method: str, meaning: str, least: float = -KNOB_LIMIT) -> float:
    """Return the knob value, for a method that decides only by its knob.

    Args:
        point: operating point.
        method, meaning: the method's name and what its knob is, for the message.
        least: smallest value that the method understands.

    Raises:
        UserError: the operating point has no knob value, or one below ``least``.
    """
    if point.knob is None:
        raise UserError(f"{method} decides by its knob alone: give {meaning}.")
    if point.knob < least:
        raise UserError(f"{method}: {point.knob:g} is below {least:g}; give {meaning}.")
    return point.knob


def require_scale(config: ModelConfig, scale: float) -> int:
    """Return the scale as an integer, for a model with tails, which supports one scale only.

    Raises:
        UserError: ``scale`` is not the one that the model was built for.
    """
    if scale != config.scale:
        raise UserError(
            f"--scale {scale:g}: this {config.backbone}-{config.method} was built for "
            f"x{config.scale:g}; use that scale, or a pcsr model."
        )
    return int(scale)
