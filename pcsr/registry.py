"""Registry of backbones, methods and metrics. The only file that knows all concrete classes.

A backbone, method or metric of the suite is one line here. One from another package registers an
entry point in the group ``pcsr.backbones``, ``pcsr.methods`` or ``pcsr.metrics``. Importing this
module imports neither torch nor any of the classes; names are resolved on use.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pcsr.config.load import Study, parse
from pcsr.config.models import ModelConfig
from pcsr.errors import UserError, require_name

if TYPE_CHECKING:
    from pcsr.methods.base import Method

NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"  # of what another package registers

BACKBONES = {
    "fsrcnn": "pcsr.backbones.fsrcnn:FSRCNN",
    "carn": "pcsr.backbones.carn:CARN",
    "srresnet": "pcsr.backbones.srresnet:SRResNet",
    "carn-m": "pcsr.backbones.carn:CARNM",
    "efdn": "pcsr.backbones.efdn:EFDN",
    "safmnv3": "pcsr.backbones.safmnv3:SAFMNv3",
    "span": "pcsr.backbones.span:SPAN",
}
METHODS = {
    "original": "pcsr.methods.original:Original",
    "pcsr": "pcsr.methods.pcsr:PCSR",
    "classsr": "pcsr.baselines.classsr:ClassSR",
    "arm": "pcsr.baselines.arm:ARM",
    "enaf": "pcsr.baselines.enaf:ENAF",
}
METRICS = {
    "psnr_rgb": "pcsr.metrics:psnr_rgb",
    "psnr_y": "pcsr.metrics:psnr_y",
    "ssim": "pcsr.metrics:ssim",
}
OWN = {"backbone": BACKBONES, "method": METHODS, "metric": METRICS}


def table(kind: str) -> dict[str, str]:
    """Return name -> ``module:attribute`` for ``"backbone"``, ``"method"`` or ``"metric"``.

    Raises:
        UserError: another package registers a name that cannot be part of a file's name.
    """
    outside = {e.name: e.value for e in metadata.entry_points(group=f"pcsr.{kind}s")}
    for name in outside:
        if not re.fullmatch(NAME, name):
            raise UserError(
                f"{kind} '{name}' of another package: give it a name of at most 64 letters, "
                "digits, _, - and ., of which the first is a letter or digit."
            )
    return {**outside, **OWN[kind]}


def resolve(kind: str, name: str, where: str = "") -> Any:
    """Import and return the class or function registered under ``name``.

    Raises:
        UserError: the name is not registered; lists the available names and a close one.
    """
    names = OWN[kind] if name in OWN[kind] else table(kind)  # looks through installed packages
    require_name(kind, name, names, where)
    module, _, attribute = names[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_names(study: Study) -> None:
    """Check that all backbones and methods of a study exist, without importing them.

    Raises:
        UserError: a name is not registered.
    """
    for experiment, config in study.experiments.items():
        for kind, name in (("backbone", config.model.backbone), ("method", config.model.method)):
            where = f"configs/experiments/{experiment}.yaml: model.{kind}"
            require_name(kind, name, table(kind), where)
    for name in study.suite.knobs:
        require_name("method", name, table("method"), "the suite's knobs")


def metrics() -> Mapping[str, Any]:
    """Return every registered metric: name -> function of (sr, hr, shave)."""
    return {name: resolve("metric", name) for name in table("metric")}


def build(config: ModelConfig, where: str = "model") -> Method:
    """Build the method that ``config`` describes, with fresh weights.

    Raises:
        UserError: a name is not registered, or an option is invalid; begins with ``where``.
    """
    backbone = resolve("backbone", config.backbone, f"{where}: backbone")
    method = resolve("method", config.method, f"{where}: method")
    options = parse(backbone.Options, config.backbone_options, f"{where}: backbone_options")
    built: Method = method(config, partial(backbone, **dict(options)))
    return built
