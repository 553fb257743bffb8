"""Times and peak memory measured by ``pcsr bench``, for pages that show them beside PSNR."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, field_validator

from pcsr import registry
from pcsr.config.base import Facts
from pcsr.config.models import KNOB_LIMIT
from pcsr.report.columns import LONGEST, LONGEST_SIDE, MOST
from pcsr.report.tidy import REFERENCE, read_facts

PATHS = ("original", "engine", "tiles")  # as this suite runs methods
COLUMNS = (
    *("device", "experiment", "backbone", "method", "knob"),
    *("image", "seconds", "lr_pixels", "peak_bytes"),
)


class Case(Facts):
    """One way to super-resolve one image; ``knob`` is ``""``, ``default``, a number or a budget."""

    image: str
    lr_height: int = Field(ge=1, le=LONGEST_SIDE)
    lr_width: int = Field(ge=1, le=LONGEST_SIDE)
    backbone: str = Field(max_length=LONGEST)
    method: str = Field(max_length=LONGEST)
    weights: str | None = None  # their experiment, as far as they tell
    path: str
    precision: str = "float32"
    knob: str
    seconds: float = Field(gt=0)
    peak_bytes: int | None = Field(ge=0, le=MOST, description="unknown of other programs")

    @field_validator("knob")
    @classmethod
    def _is_a_knob(cls, text: str) -> str:
        words = not text or text == "default" or text.startswith("budget")
        if not words and not abs(float(text)) <= KNOB_LIMIT:
            raise ValueError(f"must be from {-KNOB_LIMIT:g} to {KNOB_LIMIT:g}")
        return text


class Machine(Facts):
    """What the cases of a file ran on."""

    device: str
    processor: str | None = None  # of a CPU; unknown to version 0.1
    threads: int
    machine: str
    precision: str
    versions: dict[str, str | None]
    fresh: tuple[str, ...] = ()

    def text(self) -> str:
        """Name the device so that equal names mean comparable times."""
        how = f"{self.threads} threads" if self.device == "cpu" else self.precision
        name = self.processor or self.device
        return f"{name}, {how}, {self.machine}, torch {self.versions.get('torch')}"


class Timings(Facts):
    """A file that ``pcsr bench`` wrote."""

    cases: tuple[Case, ...]
    provenance: Machine


def load(paths: Sequence[Path]) -> pd.DataFrame:
    """Read what ``pcsr bench`` measured at values of a knob, one row per case: ``COLUMNS``.

    Left out are the reference implementation, runtimes, precisions beyond the first, budgets (no
    sweep has them) and fresh weights (their decisions are random). ``experiment`` is None if the
    file does not name the weights; ``knob`` is NaN for a method without one.

    Raises:
        UserError: a file is missing, or was not made by ``pcsr bench``; names it and the key.
    """
    rows = [row for path in paths for row in _rows(read_facts(Timings, path))]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"knob": "float64"})


def _rows(measured: Timings) -> Iterator[Mapping[str, Any]]:
    fresh = measured.provenance.fresh
    for case in measured.cases:
        decided = case.backbone not in fresh or case.method == REFERENCE
        ours = case.path in PATHS and case.precision == measured.provenance.precision
        if ours and decided and not case.knob.startswith("budget"):
            yield case.model_dump() | {
                "device": measured.provenance.text(),
                "experiment": case.weights,
                "knob": _knob(case),
                "lr_pixels": case.lr_height * case.lr_width,
            }


def _knob(case: Case) -> float | None:
    if case.knob == "default":  # tile methods are timed there
        knob: float | None = registry.resolve("method", case.method).points[0].knob
        return knob
    return float(case.knob) if case.knob else None
