"""Names of methods, backbones and test sets in figures, and the look of methods in all of them.

Markers and lightness differ as well as hues, so that a figure can be read in grey.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from typing import Any

NAMES = {
    "arm": "ARM",
    "b100": "B100",
    "carn": "CARN",
    "carn-m": "CARN-M",
    "classsr": "ClassSR",
    "efdn": "EFDN",
    "embedded-photos": "embedded photographs",
    "enaf": "ENAF",
    "f2k": "F2K",
    "fsrcnn": "FSRCNN",
    "kodak24": "Kodak24",
    "pcsr": "PCSR",
    "safmnv3": "SAFMNv3",
    "set14": "Set14",
    "set5": "Set5",
    "span": "SPAN",
    "srresnet": "SRResNet",
    "test2k": "Test2K",
    "test4k": "Test4K",
    "test8k": "Test8K",
    "urban100": "Urban100",
}


@dataclass(frozen=True)
class Style:
    """How the curves of a method are drawn, and what its knob is called."""

    colour: str
    marker: str
    knob: str = "knob"
    unit: str = ""  # of the knob, where methods mean different things by one letter

    @property
    def knob_and_unit(self) -> str:
        """What legends call the knob."""
        return f"{self.knob}, {self.unit}" if self.unit else self.knob

    def face(self, hollow: bool) -> dict[str, Any]:
        """Return the colours of a marker, filled or hollow."""
        inside, edge = ("white", self.colour) if hollow else (self.colour, "white")
        return {"color": self.colour, "markerfacecolor": inside, "markeredgecolor": edge}


KNOWN = {
    "pcsr": Style("#029e73", "o", "k"),
    "classsr": Style("#de8f05", "^", "k"),
    "arm": Style("#0173b2", "v", "η", "cost per dB"),
    "enaf": Style("#cc78bc", "P", "η", "dB per cost"),
}
OTHERS = (Style("#d55e00", "X"), Style("#56b4e9", "d"), Style("#ca9161", "h"))


def name(identifier: str) -> str:
    """Return the display name of a method, backbone or test set; by default the suite's own."""
    return NAMES.get(identifier, identifier)


def curve(label: str) -> str:
    """Return what a curve (``tidy.labels``) is called: its method's name and, maybe, experiment."""
    method, separator, experiment = label.partition(" (")
    return name(method) + separator + experiment


def model(backbone: str, method: str, experiment: str | None = None) -> str:
    """Return what a model is called, with its experiment where that tells more."""
    called, plain = f"{name(backbone)}-{name(method)}", f"{backbone}-{method}"
    if experiment is None or experiment == plain:
        return called
    variant = experiment.removeprefix(plain + "-")
    return f"{called} ({experiment})" if variant == experiment else f"{called}-{variant}"


def knob(method: str) -> str:
    """Return what the knob of a method is called."""
    return KNOWN[method].knob if method in KNOWN else Style.knob


def columns(cells: int, most: int) -> int:
    """Return in how many columns cells fill equally long rows, at most ``most``."""
    return ceil(cells / ceil(cells / most))


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """Return the style of each method; methods of other packages take unused ones in order."""
    methods = sorted(set(methods))
    others = (method for method in methods if method not in KNOWN)
    looks = KNOWN | dict(zip(others, cycle(OTHERS), strict=False))
    return {method: looks[method] for method in methods}
