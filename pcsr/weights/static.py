"""Released static networks: how their files are recognised, and the suite's names.

Layouts: EFDN, SAFMNv3 and SPAN as in github.com/Amazingren/NTIRE2025_ESR, CARN-M as in
github.com/nmhkahn/CARN-pytorch.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

NTIRE = "NTIRE 2025 efficient SR challenge"
SOURCES = {
    "carn-m": "CARN's own release",
    "efdn": f"{NTIRE}, team 00",
    "safmnv3": f"{NTIRE}, team 19",
    "span": f"{NTIRE}, team 46",
}
# A parameter that no other release has; its first axis is the network's width.
MARKS = {
    "carn-m": "b1.c1.body.0.weight",
    "efdn": "cells.0.conv1.conv1x1.weight",
    "safmnv3": "to_feat.weight",
    "span": "conv_1.eval_conv.weight",
}
UNUSED = {"carn-m": ("upsample.up2.", "upsample.up3.")}  # tails for other scales than x4
# What a block of SAFMNv3, and the attention of EFDN, call their layers.
SAFMNV3 = {
    "conv1.conv1": "modulated",
    "conv1.conv2": "others",
    "conv1.conv3": "mix",
    "conv1.dwconv": "depthwise",
    "conv1.out": "join",
    "conv2.conv1": "mlp.0",
    "conv2.conv2": "mlp.2",
}
ATTENTION = {
    "conv1": "shrink",
    "conv_f": "skip",
    "conv2": "down",
    "conv_max": "far.0",
    "conv3": "far.2",
    "conv3_": "far.4",
    "conv4": "expand",
}


def _before(number: str) -> int:
    return int(number) - 1


# (pattern, replacement) pairs from a release's parameter names to the suite's.
RENAMES: dict[str, list[tuple[str, str | Callable[[re.Match[str]], str]]]] = {
    "carn-m": [
        (r"^(sub|add)_mean\.shifter\.", r"\1_mean."),
        (r"^b([123])\.b1\.", lambda m: f"body.units.{_before(m[1])}.units.0."),
        (
            r"^b([123])\.c([123])\.body\.",
            lambda m: f"body.units.{_before(m[1])}.fuse.{_before(m[2])}.",
        ),
        (r"^c([123])\.body\.", lambda m: f"body.fuse.{_before(m[1])}."),
        (r"^upsample\.up4\.body\.", "tail."),
    ],
    "efdn": [
        (r"^head\.", "entry."),
        (r"^local_fuse\.", "links."),
        (r"\.conv([123])\.(?:conv1x1|rep_conv)\.", lambda m: f".layers.{_before(m[1])}.0."),
        (r"\.conv([123])\.act\.", lambda m: f".layers.{_before(m[1])}.1."),
        (r"\.branch\.", ".distill."),
        (r"\.att\.(\w+)\.", lambda m: f".attention.{ATTENTION[m[1]]}."),
    ],
    "safmnv3": [
        (r"^to_feat\.", "entry."),
        (r"^to_img\.", "tail."),
        (r"^feats\.(\d+)\.(conv[12]\.\w+)\.", lambda m: f"body.{m[1]}.{SAFMNV3[m[2]]}."),
    ],
    "span": [
        (r"^conv_1\.eval_conv\.", "entry."),
        (r"^conv_2\.eval_conv\.", "last."),
        (r"^conv_cat\.", "fuse."),
        (r"^upsampler\.", "tail."),
        (
            r"^block_(\d+)\.c([123])_r\.eval_conv\.",
            lambda m: f"blocks.{_before(m[1])}.convolutions.{_before(m[2])}.",
        ),
    ],
}


def used(backbone: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a release that its network uses at x4."""
    unused = UNUSED.get(backbone, ())
    return {name: tensor for name, tensor in names.items() if not name.startswith(unused)}


def options(backbone: str, names: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the backbone's own options, read from the shapes of a release's parameters."""
    return {"fused": len(names["conv_cat.weight"])} if backbone == "span" else {}
