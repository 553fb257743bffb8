"""What every method promises, as checks that run on any method.

They need no trained weights, no images and none of the suite's tests: ``pcsr check`` runs them on
methods of other packages, ``tests/contract`` on the suite's own. A check returns if the promise is
kept, and raises ``BrokenPromiseError`` otherwise.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pcsr import registry
from pcsr.backbones.base import Backbone
from pcsr.engine.runners import Runner, runner
from pcsr.engine.tiles import SRTile
from pcsr.errors import MemoryLimitError, UserError
from pcsr.geometry import hr_size
from pcsr.methods.base import Method
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PCSR
from pcsr.methods.tiled import Tiled
from pcsr.routing import OperatingPoint
from pcsr.training.loop import Step, trained_modules

SEVERAL_TILES = (64, 92)  # 3 x 4 tiles, not filled by whole ones
EQUAL_TILES = (64, 96)  # filled by tiles of 16x16, the smallest that a memory limit leads to
SMALL = (19, 23)  # less than one tile
LIVELY = 0.1  # standard deviation for parameters that are zero
TIES = 1e-3  # share of units that rounding may route differently
NEAR = 1e-5  # of [0, 1]: rounding of float32, which batches of other sizes change


class BrokenPromiseError(UserError):
    """What a method does is not what the contract says."""


def require(kept: bool, problem: str) -> None:
    """Raise a ``BrokenPromiseError`` unless a condition holds."""
    if not kept:
        raise BrokenPromiseError(problem)


def photograph_like(height: int, width: int) -> Tensor:
    """Return noise of several sizes, (1, 3, height, width): calm at the top left, busy opposite."""
    torch.manual_seed(2)
    coarse = torch.rand(1, 3, max(2, height // 6), max(2, width // 6))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    busy = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 1, width)
    return (0.6 * smooth + 0.2 * busy * torch.rand(1, 3, height, width)).clamp(0, 1)


@torch.no_grad()
def enliven(method: Method) -> Method:
    """Rescale fresh weights: networks start small, or at zero, which would hide faults.

    Parameters that are zero get small values, and each layer is scaled so that its output has unit
    variance.
    """
    torch.manual_seed(1)
    for parameter in method.parameters():
        if not parameter.any():
            parameter.normal_(std=LIVELY)

    def scale(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        spread = output.std()
        if not spread > 0:
            return output
        layer.get_parameter("weight").div_(spread)
        return output / spread

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = [module for module in method.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    with suppress(UserError):  # such as an empty table, which the checks report
        method.explore(_image(method, SEVERAL_TILES), method.config.scale)
    for hook in hooks:
        hook.remove()
    return method


def require_same_image(method: Method, ours: Tensor, expected: Tensor) -> None:
    """Require that two images (N, 3, H, W) are equal up to float rounding."""
    require(ours.shape == expected.shape, f"{tuple(ours.shape)}, not {tuple(expected.shape)}")
    apart = (ours - expected).abs()
    if isinstance(method, Tiled):
        # Tiles are rounded to 8 bit, so now and then a value on a rounding boundary differs by one
        # level. All other values are the same sums of integers.
        near = bool(apart.max() <= 1 / 255 + 1e-6 and (apart > 1e-6).double().mean() < 1e-3)
    else:
        near = bool(apart.max() <= NEAR * expected.abs().max().clamp_min(1))
    require(near, f"images differ by up to {apart.max():.2g}")


def require_paths_agree(
    method: Method, lr: Tensor, point: OperatingPoint, scale: float, ties: float = 0.0
) -> Tensor:
    """Compare the runner with ``explore``, ``route`` and ``compose``; return the composed image.

    ``ties`` is the share of the units that may be routed differently, because of rounding.
    """
    explored = method.explore(lr, scale)
    labels = method.route(explored.scores, point, scale)
    found = runner(method).run(lr, scale, point)
    others = (found.labels != labels).double().mean()
    require(bool(others <= ties), f"the runner decides otherwise for {others:.2%} of the units")
    dense = method.compose(explored, found.labels.long(), point)
    require_same_image(method, found.sr, dense)
    return dense


def shapes(method: Method) -> None:
    """Candidates and scores have an axis of the branches, labels are branches, the image is HR."""
    scale, lr = method.config.scale, _image(method, SEVERAL_TILES)
    size = (lr.shape[-2], lr.shape[-1])
    explored = method.explore(lr, scale)
    branches = method.branches
    require(len(method.branch_names) in (0, branches), f"branch_names: {branches}, or none")
    require(len(explored.candidates) == branches, f"candidates: first axis of {branches} branches")
    require(explored.scores.shape[:2] == (1, branches), f"scores: (N, {branches}, units...)")
    for point in method.points:
        labels = method.route(explored.scores, point, scale)
        require(labels.dtype == torch.int64, f"route: int64 branch numbers, not {labels.dtype}")
        taken = set(labels.unique().tolist())
        require(taken <= set(range(branches)), f"route: 0 to {branches - 1}, not {taken}")
        sr = method.compose(explored, labels, point)
        require(sr.shape == (1, 3, *hr_size(size, scale)), f"compose: {tuple(sr.shape)}")
        if method.unit != "image":
            pixels = method.pixel_labels(labels, size, scale).shape
            require(pixels == (1, *hr_size(size, scale)), "pixel_labels: a branch per HR pixel")


def paths(method: Method) -> None:
    """The runner gives the composed image, at every point and for sizes that are no whole tiles."""
    refinements = (False, True) if method.refines else (False,)
    for size in (SEVERAL_TILES, (33, 32), (20, 24)):
        lr = _image(method, size)
        for point, refine in itertools.product(method.points, refinements):
            refined = replace(point, refine=refine)
            require_paths_agree(method, lr, refined, method.config.scale, TIES)


def batch(method: Method) -> None:
    """A batch gives the same as its images one by one."""
    point, scale = method.points[0], method.config.scale
    lr = _image(method, SEVERAL_TILES)
    images = [lr, 0.5 * lr.flip(-1)]
    fast = runner(method)
    require_paths_agree(method, torch.cat(images), point, scale, TIES)
    together = fast.run(torch.cat(images), scale, point)
    apart = [fast.run(image, scale, point) for image in images]
    require(
        torch.equal(together.labels, torch.cat([one.labels for one in apart])),
        "decisions depend on the other images of a batch",
    )
    require_same_image(method, together.sr, torch.cat([one.sr for one in apart]))


def limited(method: Method) -> None:
    """An image computed in tiles, to save memory, equals the image computed whole."""
    fast = runner(method)
    if not fast.heeds_limit or any(network.whole_image for network in _networks(method)):
        return
    point, scale = method.points[0], method.config.scale
    lr = _image(method, EQUAL_TILES)
    whole = fast.run(lr, scale, point).sr
    cut = torch.full_like(whole, torch.nan)
    for tile in _smallest_tiles(fast, lr, point, scale):
        height, width = tile.sr.shape[-2:]
        cut[:, :, tile.top : tile.top + height, tile.left : tile.left + width] = tile.sr
    require_same_image(method, cut, whole)


def _smallest_tiles(fast: Runner, lr: Tensor, point: OperatingPoint, scale: float) -> list[SRTile]:
    """Run an image with about as little memory as possible."""
    limit = 1.0
    for slack in (1.0, 1.1, 1.5, 3.0):
        try:
            return list(fast.tiles(lr, scale, point, slack * limit))
        except MemoryLimitError as error:
            limit = error.needed
    return list(fast.tiles(lr, scale, point))


class Executed(FlopCounterMode):
    """Counts what really runs: matrix products, convolutions, PReLU and BatchNorm."""

    def __init__(self) -> None:
        aten = torch.ops.aten

        def elements(times: int) -> Any:
            return lambda x, *_, **__: times * torch.Size(x).numel()

        def product(_: Any, left: Any, right: Any, **others: Any) -> int:
            return 2 * torch.Size(left).numel() * int(right[1])

        def convolution(_: Any, weight: Any, *rest: Any, out_shape: Any = None, **__: Any) -> int:
            prelu = "leaky_relu" in rest
            return torch.Size(out_shape).numel() * (2 * torch.Size(weight[1:]).numel() + prelu)

        def onto(x: Any, _: Any, *rest: Any, **others: Any) -> int:
            return convolution(x, *rest, **others)

        def layer(rows: Any, *_: Any, out_shape: Any = None, **others: Any) -> int:
            return 2 * torch.Size(rows).numel() * int(out_shape[1])

        super().__init__(
            display=False,
            custom_mapping={
                torch.ops.mkldnn._linear_pointwise: layer,
                torch.ops.mkldnn._convolution_pointwise.default: convolution,
                torch.ops.mkldnn._convolution_pointwise.binary: onto,
                aten.addmm_: product,
                aten._prelu_kernel: elements(1),
                aten.native_batch_norm: elements(2),
                aten._native_batch_norm_legit_no_training: elements(2),
            },
        )


def not_counted(method: Method, units: list[int], lr_pixels: int) -> float:
    """Return the FLOPs that are executed, but are free by the convention.

    Where the engine runs a head on all pixels, biases after the first layer are part of the matrix
    products, as is a constant 1 that each product passes on for the next layer's biases. The
    convolution that replaces FSRCNN's transposed one, 9x9 at x4, has 3x3 taps for each of 4x4
    HR pixels. FLOPs of a method's own scores are its ``free_per_unit``.
    """
    if isinstance(method, Original) and method.config.backbone == "fsrcnn":
        return lr_pixels * 2 * 3 * method.network.width * (3**2 * 4**2 - 9**2)
    if not isinstance(method, PCSR):
        return sum(units) * method.free_per_unit
    free = 0
    for head in (method.classifier, method.heads[0]):
        layers = [layer for layer in list(head)[1:] if isinstance(layer, nn.Linear)]
        free += sum(layer.out_features for layer in layers)
        free += sum(layer.in_features + 1 for layer in layers[:-1])
    return 2 * sum(units) * free


def require_flops_executed(
    method: Method, lr: Tensor, points: list[OperatingPoint], scale: float
) -> list[int]:
    """Compare what ``costs`` claims with what the runner executes; return the last units."""
    size = (lr.shape[-2], lr.shape[-1])
    costs, fast = method.costs(size, scale), runner(method)
    units: list[int] = []
    for point in points:
        with Executed() as executed:
            found = fast.run(lr, scale, point)
        units = torch.bincount(found.labels.flatten(), minlength=method.branches).tolist()
        claimed = costs.total(units).engine
        free = not_counted(method, units, size[0] * size[1])
        counted = executed.get_total_flops() - free
        require(counted == claimed, f"executes {counted:,.0f} FLOPs and claims {claimed:,.0f}")
    return units


def flops(method: Method) -> None:
    """The FLOPs that a method claims are those that are executed, to the FLOP."""
    for size in (SMALL, SEVERAL_TILES):
        lr = _image(method, size)
        require_flops_executed(method, lr, list(method.points), method.config.scale)


def knobs(method: Method) -> None:
    """No value of ``fine_knobs`` costs more than the one before it."""
    scale, lr = method.config.scale, _image(method, SEVERAL_TILES)
    scores = method.explore(lr, scale).scores
    costs = method.costs((lr.shape[-2], lr.shape[-1]), scale)
    spent = []
    for knob in method.fine_knobs or method.knobs:
        labels = method.route(scores, OperatingPoint(knob=knob), scale)
        units = torch.bincount(labels.flatten(), minlength=method.branches).tolist()
        spent.append(costs.total(units).engine)
    require(
        not method.fine_knobs or spent == sorted(spent, reverse=True),
        "fine_knobs: a later value costs more than one before it",
    )


def stages(method: Method) -> None:
    """Each stage trains only its own modules, and together they train all."""
    trained: set[str] = set()
    for stage, parameters in trained_by_stage(method):
        twice = trained & parameters
        require(not twice, f"stages: {stage} trains {min(twice, default='')}, as one before it")
        trained |= parameters
    left = {name for name, _ in method.named_parameters()} - trained
    require(not left, f"stages: none trains {min(left, default='')}")


@torch.enable_grad()
def trained_by_stage(method: Method) -> Iterator[tuple[str, set[str]]]:
    """Take a step of each stage; yield its name and the parameters that it changed."""
    scale = method.config.scale
    side = max(8, *(network.least_side for network in _networks(method)))
    lr = torch.rand(2, 3, side, side)
    hr = torch.rand(2, 3, *hr_size((side, side), scale))
    for number, stage in enumerate(method.stages):
        step = Step(method, stage)
        before = _state(method)
        own = {name: p for name, p in method.named_parameters() if p.requires_grad}
        optimiser = torch.optim.Adam(own.values(), lr=1e-3)
        drawn = stage.draw(np.random.default_rng(number)) if stage.draw else None
        losses = step(lr, hr, drawn)
        require("loss" in losses, f"stages: {stage.name}: has no 'loss' among {list(losses)}")
        losses["loss"].backward()
        still = [n for n, p in own.items() if p.grad is None or not p.grad.abs().sum() > 0]
        require(not still, f"stages: {stage.name}: the loss does not depend on {still[:1]}")
        optimiser.step()
        changed = {key for key, value in _state(method).items() if not value.equal(before[key])}
        parts = tuple(f"{name}." for name in trained_modules(method, stage))
        others = [key for key in changed if not key.startswith(parts)]
        require(not others, f"stages: {stage.name}: changes {others[:1]}, which it does not train")
        require(own.keys() <= changed, f"stages: {stage.name}: leaves some of its parameters alone")
        yield stage.name, set(own)


def rebuilt(method: Method) -> None:
    """The configuration stored with the weights rebuilds the same method."""
    again = registry.build(method.config).eval()
    again.load_state_dict(method.state_dict())
    scale, lr, point = method.config.scale, _image(method, SMALL), method.points[0]
    require_same_image(
        method, runner(again).run(lr, scale, point).sr, runner(method).run(lr, scale, point).sr
    )


def branches_tried(method: Method) -> set[int]:
    """Return the branches that units of the checks' image take at the method's points."""
    scale = method.config.scale
    scores = method.explore(_image(method, SEVERAL_TILES), scale).scores
    labels = [method.route(scores, point, scale) for point in method.points]
    return {branch for each in labels for branch in each.unique().tolist()}


#: Promise -> its check.
PROMISES: Mapping[str, Callable[[Method], None]] = {
    "explore, route and compose have the contract's shapes": shapes,
    "the runner gives the composed image": paths,
    "a batch is its images": batch,
    "an image in tiles is the image": limited,
    "claimed FLOPs are executed FLOPs": flops,
    "fine knobs save more and more": knobs,
    "stages train their parts, together all": stages,
    "the stored configuration builds the method": rebuilt,
}


def _networks(method: Method) -> list[Backbone]:
    return [module for module in method.modules() if isinstance(module, Backbone)]


def _image(method: Method, size: tuple[int, int]) -> Tensor:
    least = max((network.least_side for network in _networks(method)), default=1)
    return photograph_like(max(size[0], least), max(size[1], least))


def _state(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}
