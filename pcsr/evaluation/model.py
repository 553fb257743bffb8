"""The Python interface: load a weights file, super-resolve images, as fast as the command line.

Example:
    >>> model = pcsr.load("weights/fsrcnn-pcsr.safetensors")
    >>> result = model.upscale(image, k=0.5)
    >>> result.image, result.shares, result.flops.engine
"""

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike
from PIL import Image, ImageOps
from torch import Tensor

from pcsr import runtime
from pcsr.engine.runners import runner
from pcsr.evaluation.points import requested_point, usable_scale
from pcsr.evaluation.super_resolve import SuperResolved, SuperResolver
from pcsr.flops import Flops
from pcsr.images import decoding, header
from pcsr.images.decoding import Pixels
from pcsr.images.header import Colour
from pcsr.methods.base import Method
from pcsr.precision import dtype_of
from pcsr.storage import files
from pcsr.weights.load import load_method

ImageT = TypeVar("ImageT", Image.Image, np.ndarray, Tensor)


@dataclass(frozen=True)
class Result(Generic[ImageT]):
    """What ``Model.upscale`` returns.

    Attributes:
        image: super-resolved, of the kind, axis order and dtype of the input.
        routing: uint8 (H, W), the branch of each HR pixel, cheapest 0; (N, H, W) for a batch.
        shares: share of the units that each branch computed, cheapest first.
        flops: of the whole call; ``flops.engine`` is what was executed.
    """

    image: ImageT
    routing: np.ndarray
    shares: tuple[float, ...]
    flops: Flops


class Model:
    """A method deployed for inference, on its device; made by ``load``."""

    def __init__(self, method: Method, precision: torch.dtype) -> None:
        self.method = method
        self._runner = runner(method, precision)

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
            image: a PIL image (RGB, grey or palette, with or without transparency), which is
                rotated upright; a numpy array (h, w, 3), uint8, uint16 or floating point in [0, 1];
                or a tensor (3, h, w) or (N, 3, h, w), uint8 or floating point in [0, 1].
            k: value of the method's knob: k for PCSR and ClassSR, eta over the full cost for ARM,
                eta in dB for ENAF.
            adaptive: let the method decide without a knob (PCSR's ADM).
            budget: share of the original's FLOPs to spend on each image, e.g. 0.5 (PCSR).
            refine: smooth light pixels beside heavy ones (PCSR section 3.5); None: if it can.
            scale: HR size / LR size, if not the one the weights were trained at.
            max_memory: memory that the process may use, e.g. "2GiB" (on a GPU: GPU memory).

        Raises:
            UserError: several of ``k``, ``adaptive`` and ``budget`` are given, a number is out of
                its range, or the method has no such operating point, scale or memory.
            TypeError: the image is of another kind.
            ValueError: the image has another shape.
        """
        scale = usable_scale(self.method, scale)
        point = requested_point(self.method, scale, k, adaptive, budget, refine)
        resolver = SuperResolver(self._runner, scale, point, runtime.read_bytes(max_memory))
        if isinstance(image, Tensor):
            lr, dtype = _batch(image)
            size = lr.shape[-2], lr.shape[-1]
            done = [resolver.tensor(one[None], dtype, keep_routing=True) for one in lr]
        else:
            pixels = _pixels(image)
            size = pixels.values.shape[:2]
            done = [resolver.pixels(pixels, keep_routing=True)]
        units = [sum(each) for each in zip(*(one.units for one in done), strict=True)]
        costs = self.method.costs(size, scale)
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
    precision: Literal["auto", "float32", "bf16", "float16"] = "auto",
) -> Model:
    """Load a weights file of the suite, or a released .pth; nothing in it is executed.

    Args:
        path: the file, or the name of shipped weights, such as ``"carn-pcsr"``.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: of the networks; auto is float32. Half precision is bf16 on a CPU and float16 on
            a GPU; originals and PCSR have it.

    Raises:
        UserError: the file, the device or the precision cannot be used; says what to use instead.
    """
    picked = runtime.pick_device(device)
    runtime.keep_memory()
    method = runtime.move(load_method(files.weights_file(str(path)))[0], picked)
    return Model(method, dtype_of(precision, picked))


def _batch(image: Tensor) -> tuple[Tensor, DTypeLike]:
    """Return an image or a batch as (N, 3, h, w) in [0, 1], and the dtype to compute."""
    if image.ndim not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"image: (3, h, w) or (N, 3, h, w) is needed, not {tuple(image.shape)}")
    batch = image if image.ndim == 4 else image[None]
    if batch.dtype == torch.uint8:
        return batch.float() / 255, np.uint8
    if not batch.is_floating_point():
        raise ValueError(f"image: uint8 or floating point in [0, 1] is needed, not {batch.dtype}")
    return batch.float(), np.float32


def _pixels(image: Any) -> Pixels:
    """Return an array or a PIL image as the pixels of a file of it; arrays may be float."""
    if isinstance(image, Image.Image):
        why = header.refusal(image)
        if not why and image.mode not in ("I;16", "I;16B") and header.bits_of(image) == 16:
            why = "has 16 bits per channel, of which Pillow keeps 8; give an array"
        if why:
            raise ValueError(f"image: {why}.")
        widening = header.widening(image)
        upright = ImageOps.exif_transpose(image)
        level = upright.info.get("transparency")
        if isinstance(level, int) and widening > 1:  # of the level, a PNG counts the lowest bits
            upright.info["transparency"] = (level & 255 // widening) * widening
        return Pixels(decoding.split(upright), Colour())
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image: a PIL image, an array or a tensor, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"image: an array (h, w, 3) is needed, not {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        image = image.astype(np.float32, copy=False)
    elif image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"image: uint8, uint16 or floating point in [0, 1] is needed, not {image.dtype}"
        )
    return Pixels(image, Colour())


def _like(image: Any, done: list[SuperResolved]) -> Any:
    """Return the results as the kind of image that was given."""
    if isinstance(image, Image.Image):
        sr = done[0].sr
        enlarged = Image.fromarray(sr[:, :, 0] if sr.shape[2] == 1 else sr)
        enlarged.info = {k: v for k, v in image.info.items() if k == "icc_profile"}
        return enlarged
    if isinstance(image, np.ndarray):
        return done[0].sr.astype(image.dtype, copy=False)
    batch = torch.stack([torch.from_numpy(one.sr).permute(2, 0, 1) for one in done])
    batch = batch.to(image.device, image.dtype)
    return batch if image.ndim == 4 else batch[0]
