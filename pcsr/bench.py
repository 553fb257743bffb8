"""How long methods take, side by side in one run: the original, a definition, the engine.

Absolute times say little on a shared CPU, so that all cases of a picture take turns and what counts
is their ratio to the original's. Each method is held to its definition: the same picture comes out.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr import flops, images, metrics, resize
from pcsr.engine.parts import Held
from pcsr.errors import UserError
from pcsr.evaluate import Pair
from pcsr.methods.base import Exploration, Knob, Method
from pcsr.methods.pcsr import PCSR, picture
from pcsr.routing import Budget

log = logging.getLogger("pcsr")

QUERIES = 300_000  # HR pixels that the published code runs together
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def published(method: PCSR, lr: Tensor, scale: float, knob: Knob, refine: bool) -> Tensor:
    """PCSR by the steps of the published code: every HR pixel samples what it asks for.

    Queries are sampled for the classifier, and again class by class for the heads; the bilinear
    picture is sampled pixel by pixel, and neighbourhoods are unfolded to refine.

    Args:
        method: the model.
        lr: (1, 3, h, w).
        scale: HR size / LR size.
        knob: k, or "adaptive".
        refine: whether cheap pixels beside dear ones are smoothed.

    Returns:
        SR (1, 3, H, W), not clipped.
    """
    height, width = resize.hr_size((lr.shape[-2], lr.shape[-1]), scale)
    features = method.encoder(lr)
    asked = _centres(height, width, lr.device).split(QUERIES)
    cell = lr.new_tensor([2 / height, 2 / width])
    scores = [method.classifier(_queries(features, at, cell)).softmax(dim=1) for at in asked]
    labels = method.route(picture(scores, (1, height, width)), knob, scale)
    colours = []
    for at, mine in zip(asked, labels.flatten().split(QUERIES), strict=True):
        colours.append(lr.new_zeros(len(at), 3))
        for branch, head in enumerate(method.heads):
            pixels = (mine == branch).nonzero()[:, 0]
            if len(pixels):
                colours[-1][pixels] = head(_queries(features, at[pixels], cell))
        colours[-1] += _sample(lr, at, "bilinear")
    sr = picture(colours, (1, height, width))
    return _unfolded(sr, labels[:, None]) if refine else sr


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    """Return rows and columns of all pixels' centres, (height * width, 2) in [-1, 1]."""
    sides = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)


def _sample(values: Tensor, at: Tensor, mode: str) -> Tensor:
    """Read (1, C, h, w) at rows and columns (n, 2): (n, C)."""
    grid = at.flip(-1)[None, None]
    return F.grid_sample(values, grid, mode, "border", align_corners=False)[0, :, 0].T


def _queries(features: Tensor, at: Tensor, cell: Tensor) -> Tensor:
    """Return feature, offset and cell for places (n, 2): (n, C + 4)."""
    height, width = features.shape[-2:]
    centres = _centres(height, width, at.device).T.reshape(1, 2, height, width)
    side = at.new_tensor([height, width])
    offset = (at - _sample(centres, at, "nearest")) * side
    return torch.cat([_sample(features, at, "nearest"), offset, (cell * side).expand_as(at)], 1)


def _unfolded(sr: Tensor, labels: Tensor) -> Tensor:
    """Refine (1, 3, H, W) with every pixel's neighbourhood laid out; ``labels`` (1, 1, H, W)."""

    def neighbours(values: Tensor) -> Tensor:
        padded = F.pad(values.float(), (1, 1, 1, 1), mode="replicate")
        return F.unfold(padded, 3).view(1, values.shape[1], 9, *values.shape[-2:])

    seam = neighbours(labels).amax(dim=2) > labels
    for ring in (0, -1):
        seam[..., ring, :] = seam[..., ring] = False
    return torch.where(seam, neighbours(sr).mean(dim=2), sr)


@dataclass(frozen=True)
class Case:
    """One way to super-resolve: its names, and what runs it.

    Attributes:
        backbone, method: of the model.
        path: "original", "definition" or "engine"; a tiled method has its own path alone.
        knob: operating point, for people.
        run: LR (1, 3, h, w) -> SR (1, 3, H, W).
        flops: that one picture costs at this operating point.
        share: of the units that the dearest branch computes.
        exact: 8-bit levels of what the method is defined to give, all branches computed everywhere.
    """

    backbone: str
    method: str
    path: str
    knob: str
    run: Callable[[Tensor], Tensor]
    flops: flops.Flops
    share: float
    exact: metrics.Picture


def cases(
    methods: Sequence[Method], pair: Pair, scale: float, knobs: Mapping[str, Knob], refine: bool
) -> Iterator[Case]:
    """Yield what is measured on a picture: every method at every operating point it has."""
    for method in methods:
        explored = method.explore(pair.lr, scale)
        for text, knob in knobs.items() if method.knobs else [("", None)]:
            try:
                yield from _cases(method, pair, explored, scale, text, knob, refine)
            except UserError as error:  # a budget that it does not take, or cannot keep to
                log.info("%s at %s: left out, because %s", method.config.method, text, error)


def _cases(
    method: Method,
    pair: Pair,
    explored: Exploration,
    scale: float,
    text: str,
    knob: Knob,
    refine: bool,
) -> Iterator[Case]:
    restored = method.restore(pair.lr, scale, knob, refine)
    units = torch.bincount(restored.labels.flatten(), minlength=method.branches).tolist()
    cost = method.costs((pair.lr.shape[-2], pair.lr.shape[-1]), scale).total(units)
    names = method.config.backbone, method.config.method
    share = units[-1] / sum(units)
    labels = method.route(explored.scores, knob, scale)
    exact = images.to_uint8(method.compose(explored, labels, refine))

    def run(lr: Tensor) -> Tensor:
        return method.restore(lr, scale, knob, refine).sr

    yield Case(*names, "engine" if method.knobs else "original", text, run, cost, share, exact)
    if isinstance(method, PCSR) and not isinstance(knob, Budget):

        def slow(lr: Tensor) -> Tensor:
            return published(method, lr, scale, knob, refine)

        yield Case(*names, "definition", text, slow, cost, share, exact)


@dataclass(frozen=True)
class Timed:
    """What was measured of a case, in its faster memory format.

    Attributes:
        seconds: the fastest round; ``median`` of the rounds beside it.
        peak_bytes: of the tensors that are alive at once (on a GPU: what its allocator held).
        sr: 8-bit levels.
    """

    seconds: float
    median: float
    memory_format: str
    peak_bytes: int
    sr: metrics.Picture


def time_all(
    subjects: Sequence[Case], networks: Sequence[torch.nn.Module], lr: Tensor, rounds: int
) -> list[Timed]:
    """Run all cases in turns, ``rounds`` times in each memory format, and keep the faster format.

    The definition is run as it was published, contiguous.
    """
    found: list[dict[str, list[float]]] = [{} for _ in subjects]
    for name, memory_format in FORMATS.items():
        for network in networks:
            network.to(memory_format=memory_format)  # type: ignore[call-overload]
        wanted = [
            number
            for number, case in enumerate(subjects)
            if case.path != "definition" or name == "contiguous"
        ]
        for turn in range(rounds + 1):
            for number in wanted:
                seconds = _seconds(partial(subjects[number].run, lr), lr.device)
                if turn:  # the first one warms up
                    found[number].setdefault(name, []).append(seconds)
    results = []
    for case, times in zip(subjects, found, strict=True):
        best = min(times, key=lambda name: min(times[name]))
        for network in networks:
            network.to(memory_format=FORMATS[best])  # type: ignore[call-overload]
        with Held() as held:
            sr = images.to_uint8(case.run(lr))
        peak = held.peak
        results.append(Timed(min(times[best]), statistics.median(times[best]), best, peak, sr))
    return results


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@torch.no_grad()
def compare(
    methods: Sequence[Method],
    pair: Pair,
    scale: float,
    knobs: Mapping[str, Knob],
    refine: bool,
    rounds: int,
) -> list[dict[str, Any]]:
    """Measure every method on a picture; returns one row per case.

    Operating points are named for people. Ratios are to the original of the same backbone.
    ``max_levels`` and ``identical`` compare the 8-bit picture with ``Case.exact``, ``psnr_rgb``
    with HR.

    Raises:
        UserError: a backbone's original is not among the methods.
    """
    known = {m.config.backbone for m in methods if m.config.method == "original"}
    for method in methods:
        if method.config.backbone not in known:
            wanted = method.config.backbone
            raise UserError(f"--weights: no original of {wanted}; ratios need one.")
    subjects = list(cases(methods, pair, scale, knobs, refine))
    timed = time_all(subjects, methods, pair.lr, rounds)
    originals = {
        case.backbone: (case, mine)
        for case, mine in zip(subjects, timed, strict=True)
        if case.path == "original"
    }
    rows = []
    for case, mine in zip(subjects, timed, strict=True):
        original, its = originals[case.backbone]
        apart = abs(mine.sr.astype(int) - case.exact)
        row = {
            "image": pair.name,
            "lr_height": pair.lr.shape[-2],
            "lr_width": pair.lr.shape[-1],
            "backbone": case.backbone,
            "method": case.method,
            "path": case.path,
            "knob": case.knob,
            "dear_share": case.share,
            "seconds": mine.seconds,
            "seconds_median": mine.median,
            "memory_format": mine.memory_format,
            "peak_bytes": mine.peak_bytes,
            **{f"flops_{count}": value for count, value in asdict(case.flops).items()},
            "time_ratio": mine.seconds / its.seconds,
            "flops_ratio": case.flops.algorithmic / original.flops.algorithmic,
            "flops_ratio_engine": case.flops.engine / original.flops.engine,
            "psnr_rgb": metrics.psnr_rgb(mine.sr, pair.hr, metrics.shave_for(scale)),
            "max_levels": int(apart.max()),
            "identical": float((apart == 0).mean()),
        }
        log.info(
            "%s %s-%s %s %s: %.3f s, %.2f of the original's time, %.2f of its FLOPs",
            *(pair.name, case.backbone, case.method, case.path, case.knob),
            *(row["seconds"], row["time_ratio"], row["flops_ratio"]),
        )
        rows.append(row)
    return rows


@torch.no_grad()
def grow(
    method: Method, lr: Tensor, scale: float, knob: Knob, steps: int, limit: float | None
) -> list[dict[str, Any]]:
    """Time a method on a picture mirrored to 1, 4, 16, ... times its pixels.

    Mirroring keeps what is in the picture, so that every size has the same shares of branches.
    """
    rows = []
    for _ in range(steps):
        device = lr.device

        def run(lr: Tensor = lr) -> Tensor:
            pieces = method.pieces(lr, scale, knob, True, limit)
            return torch.tensor([images.to_uint8(piece.sr).size for piece in pieces])

        seconds = min(_seconds(run, device) for _ in range(3))
        height, width = resize.hr_size((lr.shape[-2], lr.shape[-1]), scale)
        rows.append(
            {
                "backbone": method.config.backbone,
                "method": method.config.method,
                "hr_height": height,
                "hr_width": width,
                "seconds": seconds,
                "seconds_per_megapixel": seconds / (height * width / 1e6),
            }
        )
        log.info("%dx%d: %.2f s", width, height, seconds)
        lr = torch.cat([lr, lr.flip(-1)], dim=-1)
        lr = torch.cat([lr, lr.flip(-2)], dim=-2)
    return rows
