"""Page of the latency benchmark: how much of the saving in FLOPs is a saving in time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from cyclopts import Parameter
from matplotlib.figure import Figure
from pydantic import Field

from pcsr import escape
from pcsr.benchmarks import latency_figure
from pcsr.config.base import Facts
from pcsr.errors import UserError
from pcsr.report import pages
from pcsr.report.columns import LONGEST, LONGEST_SIDE, MOST
from pcsr.report.figures import saving
from pcsr.report.leaderboard import timings
from pcsr.report.leaderboard.timings import Case, Machine
from pcsr.report.tables import best_cells, rounded
from pcsr.report.tables import markdown as table_markdown
from pcsr.report.tidy import read_facts
from pcsr.storage import files

Measured = dict[str, Any]

DRAWN = ("engine", "tiles", "definition")
RUN = {"definition": "reference PCSR", "tiles": "as defined"}  # what the page calls a path
SHOWN = 0.03  # share of the time below which an operation is left out
CASES = {
    "model": "Model",
    "run": "Path",
    "precision": "Precision",
    "knob": "Knob",
    "image": "Image",
    "expensive": "Most expensive branch (%)",
    "gflops_algorithmic": "GFLOPs (algorithmic)",
    "gflops_engine": "GFLOPs (executed)",
    "flops_ratio": "FLOP ratio",
    "time_ratio": "Time ratio",
    "quartiles": "Its quartiles",
    "over": "Time / FLOP ratio",
    "speedup": "Speedup over reference PCSR",
    "seconds": "Seconds",
    "peak": "Peak (MiB)",
    "psnr_rgb": "PSNR-RGB (dB)",
    "max_levels": "Largest difference (levels)",
    "identical": "Identical values (%)",
}
GATE = 0.05  # dB below the original that still count as its PSNR
PROGRAMS = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO",
    **dict.fromkeys(timings.PATHS, "this suite"),
}
CHOICES = {
    "model": "Model",
    "knob": "Knob",
    "program": "Program",
    "precision": "Precision",
    "loss": "PSNR-RGB against the original (dB)",
    "time_ratio": "Time ratio",
    "quartiles": "Its quartiles",
    "seconds": "Seconds",
}
DECIMALS = {
    "PSNR-RGB against the original (dB)": 3,
    "Most expensive branch (%)": 1,
    "GFLOPs (algorithmic)": 2,
    "GFLOPs (executed)": 2,
    "FLOP ratio": 3,
    "Time ratio": 3,
    "Time / FLOP ratio": 2,
    "Speedup over reference PCSR": 2,
    "Seconds": 3,
    "Peak (MiB)": 0,
    "PSNR-RGB (dB)": 3,
    "Largest difference (levels)": 0,
    "Identical values (%)": 4,
    "Megapixels": 2,
    "Seconds per megapixel": 4,
    "Relative to the first": 3,
}
BETTER = {
    **dict.fromkeys(("FLOP ratio", "Time ratio", "Peak (MiB)"), -1),
    **dict.fromkeys(("PSNR-RGB (dB)",), 1),
}


class Timed(Case):
    """A case with everything that the page shows of it."""

    heavy_share: float = Field(ge=0, le=1)
    flops_algorithmic: float = Field(ge=0, le=MOST)
    flops_engine: float = Field(ge=0, le=MOST)
    flops_ratio: float = Field(ge=0, le=MOST)
    time_ratio: float = Field(gt=0, le=MOST)
    time_ratio_quartiles: tuple[float, float] | None = None  # of a file of version 0.1
    psnr_rgb: float = Field(ge=0, allow_inf_nan=True, description="infinite where nothing differs")
    max_levels: int = Field(ge=0, le=255)
    identical: float = Field(ge=0, le=1)
    profile: tuple[tuple[str, float, int], ...] = ()  # operation, share of the time, calls


class Growth(Facts):
    """The time of one size of a series."""

    backbone: str = Field(max_length=LONGEST)
    method: str = Field(max_length=LONGEST)
    precision: str = "float32"
    hr_height: int = Field(ge=1, le=LONGEST_SIDE)
    hr_width: int = Field(ge=1, le=LONGEST_SIDE)
    seconds: float = Field(gt=0)
    seconds_per_megapixel: float = Field(gt=0)


class Load(Facts):
    """What others did to the machine meanwhile."""

    others: float = Field(ge=0)
    cores: int = Field(ge=1)


class Run(Machine):
    """How the cases of a file were measured."""

    commit: str | None
    modified: bool
    rounds: int
    load: Load | None = None  # of a file of version 0.1


class Bench(Facts):
    """A file that ``pcsr bench`` wrote."""

    cases: tuple[Timed, ...]
    sizes: tuple[Growth, ...]
    provenance: Run


def latency(
    measured: Annotated[list[Path], Parameter(help="files made by `pcsr bench`")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Markdown to write; .html, .png, .svg and .pdf beside it")],
) -> None:
    """Plot and tabulate time ratios against FLOP ratios, as measured by `bench`.

    Example: `pcsr latency bench.json --out latency.md`.
    """
    drawings = [out.with_suffix(suffix) for suffix in saving.SUFFIXES]
    files.check_outputs(measured, (*drawings, *pages.written(out)))
    results = [read(path) for path in measured]
    drawn = figure(results)
    for path in drawings:
        saving.save(drawn, path)
    pages.write(markdown(results), out)


def read(path: Path) -> Measured:
    """Read a file made by ``pcsr bench``.

    Raises:
        UserError: the file is missing, or was not made by this version of ``pcsr bench``; names the
            key.
    """
    return read_facts(Bench, path).model_dump()


def cases(measured: Measured) -> pd.DataFrame:
    """Return one row per case with ratios to the original and to reference PCSR."""
    rows = pd.DataFrame(measured["cases"])
    rows["model"] = rows["backbone"] + "-" + rows["method"]
    rows["expensive"] = 100 * rows["heavy_share"]
    rows["peak"] = rows["peak_bytes"] / 2**20
    rows["over"] = (rows["time_ratio"] / rows["flops_ratio"]).mask(rows["path"] == "original")
    for count in ("algorithmic", "engine"):
        rows[f"gflops_{count}"] = rows[f"flops_{count}"] / 1e9
    point = ["image", "model", "knob"]
    slow = rows[rows["path"] == "definition"].set_index(point)["seconds"].rename("slow")
    rows = rows.join(slow, on=point)
    rows["speedup"] = (rows["slow"] / rows["seconds"]).where(rows["path"] == "engine")
    rows["identical"] = 100 * rows["identical"]
    rows["quartiles"] = [
        "{:.3f} to {:.3f}".format(*both) if both else "-" for both in rows["time_ratio_quartiles"]
    ]
    rows["loss"] = rows["psnr_rgb"] - _psnr_of_original(rows)
    rows["program"] = rows["path"].map(PROGRAMS)
    rows["run"] = rows["path"].replace(RUN)
    rows["fresh"] = rows["backbone"].isin(measured["provenance"]["fresh"])
    return rows


def _psnr_of_original(rows: pd.DataFrame) -> pd.Series:
    """Return the PSNR of each case's original on the same image, in float32 where it ran so."""
    place = ["image", "backbone"]
    originals = rows[rows["path"] == "original"]
    exact_first = originals.sort_values("precision", key=lambda p: p != "float32", kind="stable")
    of_place = exact_first.drop_duplicates(place).set_index(place)["psnr_rgb"]
    return rows.join(of_place.rename("whole"), on=place)["whole"]


def figure(results: Sequence[Measured]) -> Figure:
    """Plot time ratio over FLOP ratio in float32: a panel per backbone and image.

    Of untrained weights only budgets are shown: their decisions at a knob value mean nothing.

    Raises:
        UserError: no file has cases of a method in float32.
    """
    machines: dict[str, None] = {}
    drawn: list[pd.DataFrame] = []
    for measured in results:
        if not measured["cases"]:
            continue
        rows = cases(measured)
        rows = rows[rows["path"].isin(DRAWN) & (rows["precision"] == "float32")]
        rows = rows[~rows["fresh"] | rows["knob"].str.startswith("budget")]
        if len(rows):
            machines[_machine(measured)] = None
            drawn += [of_image for _, of_image in rows.groupby("image", sort=False)]
    if not drawn:
        raise UserError(
            "no file has cases of a method beside its original; make one with `pcsr bench` and "
            "--rounds above 0, in float32."
        )
    return latency_figure.draw(drawn, "; ".join(machines))


def _machine(measured: Measured) -> str:
    return Machine.model_validate(measured["provenance"]).text()


def markdown(results: Sequence[Measured]) -> str:
    """Return the page: the cases measured on each machine, and how time grows with size."""
    return "\n".join(
        [
            "# Time over FLOPs\n",
            "Every method and the original of its backbone, measured in turn in one run. Each uses "
            "the faster of two memory formats. Reference PCSR follows the steps of the reference "
            "implementation, in its format; tile methods run as defined. Ratios are relative to "
            "the original. FLOPs are counted in the algorithmic convention; *engine* counts what "
            "is executed. Peak is the peak memory of live tensors.\n",
            *(_section(measured) for measured in results),
        ]
    )


def _section(measured: Measured) -> str:
    facts = measured["provenance"]
    commit = f"{facts['commit'] or 'unknown'}{' (modified)' if facts['modified'] else ''}"
    text = [f"## {escape.markdown(_machine(measured))}\n", f"Commit {escape.markdown(commit)}.\n"]
    if facts["load"]:
        text.append("Other work took {others:g} of {cores} cores.\n".format(**facts["load"]))
    if facts["fresh"]:
        fresh = escape.markdown(", ".join(facts["fresh"]))
        text.append(
            f"Untrained weights, because none are published: {fresh}. Their decisions at a value "
            "of the knob mean nothing, so the figure shows only their budgets.\n"
        )
    if measured["cases"]:
        rows = cases(measured)
        text += ["### What a user could run\n", _choices(rows, facts["fresh"])]
        text.append("### All cases\n")
        table = rounded(rows[list(CASES)].rename(columns=CASES), DECIMALS)
        marked = best_cells(table.assign(of=rows["backbone"]), BETTER, by=["of", "Image"])
        text.append(f"{_how(rows, facts['rounds'])}; bold is the best of a backbone:\n")
        text.append(table_markdown(table, DECIMALS, marked.drop(columns="of")))
        profiled = rows[rows["profile"].astype(bool)]
        if len(profiled):
            text += ["### What takes the time\n", _operations(profiled)]
    if measured["sizes"]:
        text += ["### How time grows\n", _sizes(pd.DataFrame(measured["sizes"]))]
    return "\n".join(text)


def _how(rows: pd.DataFrame, rounds: int) -> str:
    if rows["time_ratio_quartiles"].isna().all():
        return f"The fastest of {rounds} rounds"
    return f"Seconds of the fastest round, ratios as the median of {rounds} rounds or more"


def _choices(rows: pd.DataFrame, fresh: Sequence[str]) -> str:
    """Rank programs, precisions and operating points by time, those with the original's PSNR first.

    Untrained weights have no PSNR to compare.
    """
    rows = rows[rows["program"].notna() & ~rows["backbone"].isin(fresh)]
    order = ["image", "backbone", "less", "seconds"]
    rows = rows.assign(less=rows["loss"] < -GATE).sort_values(order)
    note = (
        f"Of each backbone by time, first what is at most {GATE:g} dB below its original in "
        "float32, then the rest.\n"
    )
    names = CHOICES if rows["image"].nunique() < 2 else {**CHOICES, "image": CASES["image"]}
    table = rows[list(names)].rename(columns=names)
    return f"{note}\n{table_markdown(rounded(table, DECIMALS), DECIMALS)}"


def _operations(rows: pd.DataFrame) -> str:
    names = {key: CASES[key] for key in ("model", "run", "precision", "knob", "image")}
    table = rows[list(names)].rename(columns=names)
    table["Share of time (calls)"] = [
        ", ".join(
            f"{name.removeprefix('aten::')} {100 * share:.0f} % ({calls})"
            for name, share, calls in profile
            if share >= SHOWN
        )
        for profile in rows["profile"]
    ]
    return table_markdown(table, {})


def _sizes(rows: pd.DataFrame) -> str:
    each = rows["seconds_per_megapixel"]
    model = rows["backbone"] + "-" + rows["method"] + ", " + rows["precision"]
    table = pd.DataFrame(
        {
            "Model": model,
            "SR": rows["hr_width"].astype(str) + "x" + rows["hr_height"].astype(str),
            "Seconds": rows["seconds"],
            "Seconds per megapixel": each,
            "Relative to the first": each / each.groupby(model).transform("first"),
        }
    )
    note = "The same image, extended by mirroring to 4, 16 and 64 times as many pixels.\n"
    return f"{note}\n{table_markdown(rounded(table, DECIMALS), DECIMALS)}"
