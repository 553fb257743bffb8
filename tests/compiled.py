"""Compile the engine's kernels for an H100 or H200, which need not be present.

Run it without TRITON_INTERPRET; it prints one JSON object per kernel. Tests run it in a process of
its own, because theirs interprets.
"""

import json
from collections.abc import Mapping

import torch
import triton
from models import ROUTED, build
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pcsr.engine.gpu import heads as gpu
from pcsr.engine.gpu import kernels

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {
    "projected hidden last": "*fp16",
    "row_offsets column_offsets place hidden_bias last_bias base out sr": "*fp32",
    "nearest_rows nearest_columns pixels count": "*i32",
    "labels": "*u8",
    "total hr_width lr_width stride height width": "i32",
}


def report(name: str, kernel: triton.JITFunction, warps: int, constants: Mapping[str, int]) -> None:
    types = {name: kind for names, kind in TYPES.items() for name in names.split()}
    names = kernel.arg_names
    made = triton.compile(
        ASTSource(
            fn=kernel,
            signature={name: types.get(name, "constexpr") for name in names},
            constexprs={(names.index(key),): value for key, value in constants.items()},
        ),
        target=TARGET,
        options={"num_warps": warps},
    )
    code = made.asm["ptx"]
    facts = {"shared": made.metadata.shared, "tensor_cores": "mma" in code}
    print(json.dumps({"name": name, **facts}))


for backbone in ROUTED:
    model = build(backbone, "pcsr")
    networks = {"classifier": model.classifier, "light": model.heads[0], "heavy": model.heads[1]}
    for name, layers in networks.items():
        packed = gpu._Packed(layers, torch.float16)
        shape = packed.constants(routed=name == "heavy", added=name != "classifier")
        report(f"{backbone} {name}", kernels.head, packed.warps, shape)
report("compact", kernels.compact, 4, {"branch": 1, "BLOCK": gpu.COMPACTED})
report("smooth", kernels.smooth, 4, {"CHANNELS": 3, "BLOCK": gpu.SMOOTHED})
