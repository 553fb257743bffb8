"""The published numbers that a report is compared with, and how each was measured: a YAML file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pcsr.config.base import Local
from pcsr.config.load import parse, read_yaml
from pcsr.config.models import COUNT_LIMIT, SCALE_LIMIT, Config, Count, Knob, ProtocolConfig
from pcsr.storage import files

CLAIMS = Path("configs/claims.yaml")

Positive = Annotated[float, Field(gt=0)]
MFlops = Annotated[float, Field(ge=0, le=1e9)]
Tiles = Annotated[int, Field(ge=0, le=COUNT_LIMIT)]


class Tolerance(Config):
    """Largest difference that still counts as agreement."""

    psnr_db: float = Field(gt=0, le=1)
    gflops_percent: float = Field(gt=0, le=100)


class PublishedModel(Config):
    """One line of the published table."""

    model: str = Field(description="name in the paper")
    backbone: str
    method: str
    params: str | None = Field(default=None, description="published number of parameters")
    per: Literal["image", "tile"] = Field(
        default="image", description="unit of the cells' FLOPs: G per image, or M per tile"
    )
    cells: dict[str, tuple[Positive, Positive]] = Field(
        description="test set -> PSNR-RGB in dB, FLOPs (paper convention)"
    )

    @property
    def label(self) -> str:
        """The name with the number of parameters."""
        return f"{self.model} ({self.params})" if self.params else self.model


class PublishedLog(Config):
    """Runs of the authors' test log, of one backbone on one test set."""

    backbone: str
    test_set: str
    runs: tuple[tuple[Knob, tuple[Tiles, ...]], ...] = Field(
        min_length=1, description="knob, and the tiles that each branch computed"
    )


class PublishedCurve(Config):
    """Points of a figure, of one backbone on one test set."""

    backbone: str
    test_set: str
    points: tuple[tuple[Knob, MFlops] | tuple[Knob, MFlops, MFlops], ...] = Field(
        min_length=1, description="knob, M per tile, and PSNR-RGB in dB where it is published"
    )


class AtKnobs(Config):
    """Operating points of released weights at known values of the knob."""

    method: str
    source: str
    costs: dict[str, tuple[MFlops, ...]] = Field(
        default={},
        description="backbone -> M per tile of each branch, as the authors count; unset: ours",
    )
    lines: dict[str, Local] = Field(
        default={}, description="test set of a log -> CSV of its images (`logs.read_lines`)"
    )
    logs: tuple[PublishedLog, ...] = ()
    curves: tuple[PublishedCurve, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> "AtKnobs":
        for log in self.logs:
            branches = len(self.costs.get(log.backbone, ()))
            if log.test_set not in self.lines or not branches:
                raise ValueError(f"a log of {log.backbone} on {log.test_set} needs lines and costs")
            if any(len(tiles) != branches for _, tiles in log.runs):
                raise ValueError(f"a log of {log.backbone} counts tiles of {branches} branches")
        return self


class Claims(Config):
    """The published table and the rules of comparison."""

    source: str
    note: str
    scale: float = Field(gt=1, le=SCALE_LIMIT)
    tolerance: Tolerance
    images: dict[str, Count] = Field(description="images in each published test set")
    tiles: dict[str, Count] = Field(default={}, description="tiles in all images of a test set")
    protocols: dict[str, ProtocolConfig] = Field(
        description="method -> how its published cells were measured"
    )
    knobs: dict[str, Knob] = Field(
        default={}, description="method without a published knob -> the equivalent suite knob"
    )
    iterations: dict[str, Count] = Field(description="method -> published training steps in all")
    models: tuple[PublishedModel, ...] = Field(min_length=1)
    at_knobs: tuple[AtKnobs, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> "Claims":
        for row in self.models:
            for key in ("iterations", "protocols"):
                if row.method not in getattr(self, key):
                    raise ValueError(f"{row.model}: its method has no entry under {key}")
            for key in ("images", "tiles")[: 1 + (row.per == "tile")]:
                if not set(row.cells) <= set(getattr(self, key)):
                    raise ValueError(f"{row.model}: a test set has no entry under {key}")
        for known in self.at_knobs:
            if known.method not in self.protocols:
                raise ValueError(f"at_knobs: {known.method} has no entry under protocols")
            for log in known.logs:
                if any(sum(tiles) != self.tiles.get(log.test_set) for _, tiles in log.runs):
                    raise ValueError(f"a log of {log.backbone} has not all tiles of {log.test_set}")
        return self

    def cell(self, row: PublishedModel, test_set: str) -> tuple[float, float] | None:
        """Return PSNR-RGB in dB and GFLOPs per image of a line on a test set, or None."""
        if row.per == "image" or test_set not in row.cells:
            return row.cells.get(test_set)
        psnr, mflops = row.cells[test_set]
        return psnr, mflops / 1000 * self.tiles[test_set] / self.images[test_set]

    def covers(self, backbone: str, method: str, test_set: str) -> bool:
        """Tell whether anything was published of a model on a test set."""
        found = {(row.backbone, row.method, name) for row in self.models for name in row.cells}
        for known in self.at_knobs:
            found |= {(log.backbone, known.method, log.test_set) for log in known.logs}
            found |= {(curve.backbone, known.method, curve.test_set) for curve in known.curves}
        return (backbone, method, test_set) in found

    def original(self, backbone: str, test_set: str) -> tuple[float, float] | None:
        """Return the published cell of a backbone's original, or None."""
        for row in self.models:
            if (row.backbone, row.method) == (backbone, "original"):
                return self.cell(row, test_set)
        return None


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read the published numbers; a UserError names a missing file or a wrong key."""
    path = files.find(path)
    return parse(Claims, read_yaml(path), str(path))
