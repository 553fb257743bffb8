"""The cases of the latency benchmark: methods by all paths, precisions and runtimes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pcsr import flops, metrics
from pcsr.benchmarks import reference_pcsr
from pcsr.benchmarks.peers import PRECISIONS, RuntimeName, Runtimes
from pcsr.engine.runners import runner
from pcsr.errors import UserError, log
from pcsr.evaluation.measure import Pair
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Exploration, Method
from pcsr.methods.pcsr import PCSR
from pcsr.routing import OperatingPoint

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        knobs: operating points, as values of the knob.
        budgets: operating points, as shares of the original's FLOPs.
        rounds: how many times each case is run at least.
        precisions: of the networks, by name; reference PCSR always runs in float32.
        peers: runtimes in which originals and PCSR are also run.
        profiled: whether to profile which operations take the time.
        names: the experiments of the weights, if recorded in them.
    """

    knobs: Sequence[float] = (0.0,)
    budgets: Sequence[float] = ()
    rounds: int = 3
    precisions: Mapping[str, torch.dtype] = field(
        default_factory=lambda: {"float32": torch.float32}
    )
    peers: Sequence[RuntimeName] = ()
    profiled: bool = False
    names: Mapping[Method, str | None] = field(default_factory=dict)

    def points(self, original_flops: float) -> dict[str, OperatingPoint]:
        """Return the operating points by name; ``original_flops`` is per LR pixel."""
        knobs = {f"{k:g}": OperatingPoint(knob=k, refine=True) for k in self.knobs}
        return knobs | {
            f"budget {s:g}": OperatingPoint(budget=s * original_flops, refine=True)
            for s in self.budgets
        }


@dataclass(frozen=True)
class Case:
    """One way to super-resolve an image.

    Attributes:
        backbone, method: of the model.
        weights: their experiment, if recorded in them.
        path: "original" or "engine"; "definition" for reference PCSR; "tiles" for tile methods, as
            defined; or the name of a runtime.
        precision: of the networks.
        knob: operating point, as text.
        ready: lays out the weights and returns a function LR (1, 3, h, w) -> SR (1, 3, H, W).
        flops: cost of one image at this operating point.
        share: share of units that the most expensive branch computes.
        exact: uint8 (H, W, 3) by the method's definition, with every branch computed everywhere.
        formats: memory formats of the weights to try; the faster one counts.
    """

    backbone: str
    method: str
    weights: str | None
    path: str
    precision: str
    knob: str
    ready: Callable[[], Run]
    flops: flops.Flops
    share: float
    exact: metrics.Image
    formats: Sequence[str] = tuple(FORMATS)

    @property
    def in_torch(self) -> bool:
        """Whether torch runs it, so that its memory and operations can be measured."""
        return self.path not in PRECISIONS


def cases(
    methods: Sequence[Method], pair: Pair, scale: float, original_flops: float, plan: Plan
) -> Iterator[Case]:
    """Yield the cases to measure on an image.

    Tile methods have knobs with other meanings, so they run at their default.
    """
    points, runtimes = plan.points(original_flops), Runtimes()
    for method in methods:
        explored = method.explore(pair.lr, scale)
        own = {"default" if method.knobs else "": method.points[0]}
        for text, point in (points if method.unit == "pixel" else own).items():
            try:
                yield from _cases(method, pair, explored, scale, text, point, plan, runtimes)
            except UserError as error:  # an unsupported budget
                log.info("%s at %s: left out, because %s", method.config.method, text, error)


def _cases(
    method: Method,
    pair: Pair,
    explored: Exploration,
    scale: float,
    text: str,
    point: OperatingPoint,
    plan: Plan,
    runtimes: Runtimes,
) -> Iterator[Case]:
    restored = runner(method).run(pair.lr, scale, point)
    units = torch.bincount(restored.labels.flatten(), minlength=method.branches).tolist()
    cost = method.costs((pair.lr.shape[-2], pair.lr.shape[-1]), scale).total(units)
    names = method.config.backbone, method.config.method, plan.names.get(method)
    model = f"{method.config.backbone}-{method.config.method}"
    share = units[-1] / sum(units)
    labels = method.route(explored.scores, point, scale)
    exact = to_uint8(method.compose(explored, labels, point))

    def fast(precision: torch.dtype) -> Run:
        fastest = runner(method, precision)
        return lambda lr: fastest.run(lr, scale, point).sr

    def slow() -> Run:
        return lambda lr: reference_pcsr.restore(method, lr, scale, point)  # type: ignore[arg-type]

    path = {"tile": "tiles", "pixel": "engine", "image": "original"}[method.unit]
    what = cost, share, exact
    for name, dtype in plan.precisions.items():
        if method.unit == "tile" and dtype != torch.float32:
            continue
        if _possible(f"{model} in {name}", partial(runner, method, dtype)):
            yield Case(*names, path, name, text, partial(fast, dtype), *what)
    once = ("contiguous",)
    if isinstance(method, PCSR) and point.budget is None:
        yield Case(*names, "definition", "float32", text, slow, *what, once)
    if method.unit != "tile" and point.budget is None:
        for program in plan.peers:
            load = partial(runtimes.load, program, method, scale, point)
            if _possible(f"{model} in {program}", partial(runtimes.exported, method, scale, point)):
                yield Case(*names, program, PRECISIONS[program], text, load, *what, once)


def _possible(name: str, attempt: Callable[[], object]) -> bool:
    """Tell whether a case can be run; once cases take turns, one that cannot would end them all."""
    try:
        attempt()
    except UserError as error:
        log.info("%s: left out, because %s", name, error)
        return False
    return True
