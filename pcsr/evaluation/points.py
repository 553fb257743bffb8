"""Turn a user's request into the scale and operating point that a method runs at.

Both the command line and the Python interface use this; a setting that would be ignored is refused.
"""

from dataclasses import replace

from pcsr import registry
from pcsr.config.models import KNOB_LIMIT, SCALE_LIMIT, ModelConfig
from pcsr.config.options import BUDGET_LIMIT
from pcsr.errors import UserError
from pcsr.geometry import TILE
from pcsr.methods.base import Method
from pcsr.methods.pcsr import PCSR
from pcsr.routing import OperatingPoint


def usable_scale(method: Method, scale: float | None) -> float:
    """Return HR size / LR size: the user's, or else the one that the method was trained at.

    Raises:
        UserError: the scale is not above 1, or absurdly large.
    """
    if scale is None:
        return method.config.scale
    if not 1 < scale <= SCALE_LIMIT:
        raise UserError(f"--scale {scale:g}: give a scale above 1, up to {SCALE_LIMIT:g}.")
    return scale


def requested_point(
    method: Method,
    scale: float,
    k: float | None = None,
    adaptive: bool = False,
    budget: float | None = None,
    refine: bool | None = None,
) -> OperatingPoint:
    """Return the operating point that a user requests.

    ``budget`` is a share of the original's FLOPs. ``refine=None`` refines if the method can.

    Raises:
        UserError: several of ``k``, ``adaptive`` and ``budget`` are given, a number cannot be used,
            or the method would ignore one of them.
    """
    if refine and not method.refines:
        raise UserError(
            f"--refine: {method.config.method} decides for larger units than pixels, so that there "
            "is nothing to refine; drop it."
        )
    if k is not None and not abs(k) <= KNOB_LIMIT:
        raise UserError(f"--k {k:g}: give a knob from {-KNOB_LIMIT:g} to {KNOB_LIMIT:g}.")
    if budget is not None and not 0 < budget <= BUDGET_LIMIT:
        raise UserError(
            f"--budget {budget:g}: give a share of the original's FLOPs above 0, such as 0.5, up "
            f"to {BUDGET_LIMIT:g}."
        )
    point = OperatingPoint(k, adaptive, budget, refine is None or refine)
    if budget is not None:
        point = replace(point, budget=budget * original_flops(method, scale))
    return usable_point(method, point)


def usable_point(method: Method, point: OperatingPoint) -> OperatingPoint:
    """Return the operating point to run a method at: the user's, or else the method's default.

    Raises:
        UserError: the method would ignore the knob, the adaptive decision or the budget.
    """
    name = method.config.method
    requested = point.adaptive or point.budget is not None or point.knob is not None
    if not method.knobs:
        if requested:
            raise UserError(f"{name} has nothing to decide: drop --k, --adaptive and --budget.")
        return replace(method.points[0], refine=point.refine)
    if point.budget is not None and not isinstance(method, PCSR):
        raise UserError(f"--budget: {name} does not support a budget; give --k.")
    return point if requested else replace(point, knob=method.points[0].knob)


def points_for_all(methods: list[Method], point: OperatingPoint) -> list[OperatingPoint]:
    """Return the point of each of several methods that are shown side by side.

    Methods without a knob ignore it, as long as at least one has a knob.

    Raises:
        UserError: all methods would ignore the knob or the adaptive decision.
    """
    plain = OperatingPoint(refine=point.refine)
    some = any(method.knobs for method in methods)
    return [usable_point(m, point if m.knobs or not some else plain) for m in methods]


def original_flops(method: Method, scale: float) -> float:
    """Return the FLOPs that the original of a method's backbone executes per LR pixel of a tile."""
    model = ModelConfig(
        backbone=method.config.backbone,
        method="original",
        scale=scale,
        backbone_options=method.config.backbone_options,
    )
    original = registry.build(model, "--budget: the original that it is a share of")
    return original.costs((TILE, TILE), scale).total([1]).engine / TILE**2
