"""The Python interface: a weights file in, super-resolved images out, as fast as the command line.

Example:
    >>> model = pcsr.load("weights/fsrcnn-pcsr.safetensors")
    >>> result = model.upscale(image, k=0.5)
    >>> result.image, result.shares, result.flops.engine
"""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcsr import runtime
from pcsr.data.images import to_tensor
from pcsr.engine.runners import runner
from pcsr.evaluation.points import requested_point, usable_scale
from pcsr.evaluation.super_resolve import SuperResolved, super_resolve
from pcsr.flops import Flops
from pcsr.methods.base import Method
from pcsr.weights.load import load_method

ImageT = TypeVar("ImageT", Image.Image, np.ndarray, Tensor)


@dataclass(frozen=True)
class Result(Generic[ImageT]):
    """What ``Model.upscale`` returns.

    Attributes:
        image: super-resolved, of the kind, shape order and type that was given.
        routing: uint8 (H, W), the branch of each HR pixel, cheapest 0; (N, H, W) for a batch.
        shares: share of the units that each branch computed, cheapest first.
        flops: of the whole call; ``flops.engine`` is what was executed.
    """

    image: ImageT
    routing: np.ndarray
    shares: tuple[float, ...]
    flops: Flops


class Model:
    """A method with its weights laid out for inference; made by ``load``.

    Args:
        method: on its device, in eval mode.
        precision: of the networks.
    """

    def __init__(self, method: Method, precision: torch.dtype) -> None:
        self.method = method
        self._runner = runner(method, precision)
        self._device = next(method.parameters()).device

    def upscale(
        self,
        image: ImageT,
        *,
        k: float | None = None,
        adaptive: bool = False,
        budget: float | None = None,
        refine: bool | None = None,
        scale: float | None = None,
        max_memory: str | None = None,
    ) -> Result[ImageT]:
        """Super-resolve an image.

        Args:
            image: a PIL image in RGB; a numpy array (h, w, 3), uint8 or floating point in [0, 1];
                or a tensor (3, h, w) or (N, 3, h, w), uint8 or floating point in [0, 1].
            k: value of the method's knob (for ARM eta over the full cost).
            adaptive: let the method decide without a knob (PCSR's ADM).
            budget: share of the original's FLOPs to spend on each image, e.g. 0.5 (PCSR).
            refine: smooth light pixels beside heavy ones (PCSR section 3.5); None where it can.
            scale: HR size / LR size, if not the one the weights were trained at.
            max_memory: what the process may take, e.g. "2GiB" (on a GPU: of its memory).

        Raises:
            UserError: several of ``k``, ``adaptive`` and ``budget`` are given, a number is out of
                its range, or the method has no such operating point, scale or memory.
            TypeError: the image is of another kind.
            ValueError: the image has another shape.
        """
        scale = usable_scale(self.method, scale)
        point = requested_point(self.method, scale, k, adaptive, budget, refine)
        limit = runtime.read_bytes(max_memory)
        lr, eight_bit = _batch(image)
        dtype = np.uint8 if eight_bit else np.float32
        done = [
            super_resolve(
                self._runner, one[None].to(self._device), scale, point, limit, dtype, True
            )
            for one in lr
        ]
        units = [sum(each) for each in zip(*(one.units for one in done), strict=True)]
        costs = self.method.costs((lr.shape[-2], lr.shape[-1]), scale)
        shared = replace(costs, shared=costs.shared * len(done))
        routing = np.stack([one.routing for one in done if one.routing is not None])
        return Result(
            _like(image, done),
            routing if isinstance(image, Tensor) and image.ndim == 4 else routing[0],
            tuple(count / sum(units) for count in units),
            shared.total(units),
        )


def load(
    path: str | PathLike[str],
    *,
    device: str = "auto",
    precision: Literal["auto", "float32", "float16"] = "auto",
) -> Model:
    """Load a weights file of the suite, or a released .pth; nothing in it is executed.

    Args:
        path: the file.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: of the networks; auto is float32, float16 is for GPUs.

    Raises:
        UserError: the file, the device or the precision cannot be used; says what would do.
    """
    picked = runtime.pick_device(device)
    runtime.keep_memory()
    method = runtime.move(load_method(Path(path))[0], picked)
    name = "float32" if precision == "auto" else precision
    return Model(method, runtime.dtype_of(name, picked))


def _batch(image: Any) -> tuple[Tensor, bool]:
    """Return an image or a batch as (N, 3, h, w) in [0, 1], and whether it was of 8 bit."""
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise ValueError(f"image: mode {image.mode}; convert it: image.convert('RGB')")
        return to_tensor(np.asarray(image)), True
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"image: an array (h, w, 3) is needed, not {image.shape}")
        x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    elif isinstance(image, Tensor):
        if image.ndim not in (3, 4) or image.shape[-3] != 3:
            raise ValueError(
                f"image: (3, h, w) or (N, 3, h, w) is needed, not {tuple(image.shape)}"
            )
        x = image if image.ndim == 4 else image[None]
    else:
        raise TypeError(f"image: a PIL image, an array or a tensor, not {type(image).__name__}")
    if x.dtype == torch.uint8:
        return x.float() / 255, True
    if not x.is_floating_point():
        raise ValueError(f"image: uint8 or floating point in [0, 1] is needed, not {x.dtype}")
    return x.float(), False


def _like(image: Any, done: list[SuperResolved]) -> Any:
    """Return the results as the kind of image that was given."""
    if isinstance(image, Image.Image):
        return Image.fromarray(done[0].sr)
    if isinstance(image, np.ndarray):
        return done[0].sr.astype(image.dtype, copy=False)
    batch = torch.stack([torch.from_numpy(one.sr).permute(2, 0, 1) for one in done])
    batch = batch.to(image.device, image.dtype)
    return batch if image.ndim == 4 else batch[0]
