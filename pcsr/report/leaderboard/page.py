"""The leaderboard: what every model costs at matched PSNR, and its rank under each count."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
from cyclopts import Parameter

from pcsr import escape
from pcsr.config import options
from pcsr.errors import UserError
from pcsr.report import pages
from pcsr.report.fairness import frontier
from pcsr.report.figures import style
from pcsr.report.leaderboard import contributed, timings
from pcsr.report.tables import best_cells, markdown, rounded
from pcsr.report.tidy import (
    REFERENCE,
    comparable,
    knob_text,
    load,
    protocol_text,
    summarise,
    training_note,
    write_csv,
)
from pcsr.storage import files

LOSS_DB = 0.05  # that a model may have against the original whose PSNR is matched
PLACE = ["test_set", "scale"]
COUNTS = {  # column of a summary -> what the page calls it
    "gflops_engine": "executed",
    "gflops_paper": "paper",
    "gflops_algorithmic": "algorithmic",
    "activations": "activations",
}
FIRST = "executed"  # count that sorts, and whose point is shown
RANKS = {f"Rank ({name})": f"rank_{name}" for name in COUNTS.values()}
PSNR = "PSNR-RGB (dB)"
COSTS = {  # what the page calls a column of the standings -> the column, its unit, decimals
    "GFLOPs (executed)": ("gflops_engine", 1, 2),
    "GFLOPs (paper)": ("gflops_paper", 1, 2),
    "GFLOPs (algorithmic)": ("gflops_algorithmic", 1, 2),
    "Activations (M)": ("activations", 1e6, 1),
    "Parameters (K)": ("parameters", 1e3, 1),
    "Time (s/MP)": ("seconds_per_megapixel", 1, 3),
    "Time (of original)": ("time_ratio", 1, 2),
    "Peak memory (MiB)": ("peak_bytes", 2**20, 0),
}
TIMED = ("Time (s/MP)", "Time (of original)", "Peak memory (MiB)", "Device")  # by `pcsr bench`
DECIMALS = {PSNR: 3} | {title: decimals for title, (_, _, decimals) in COSTS.items()}
BETTER = dict.fromkeys(COSTS, -1) | {PSNR: 1}


def leaderboard(
    results: options.Results,
    /,
    *,
    out: Annotated[Path, Parameter(help="Markdown to write; .html and .csv beside it")],
    gate: Annotated[
        Sequence[float], options.PSNR, Parameter(help="further PSNR-RGB in dB to match")
    ] = (),
    times: Annotated[
        Sequence[Path], Parameter(help="JSON files that `pcsr bench` made with these weights")
    ] = (),
    added: Annotated[Sequence[Path], Parameter(help="results.csv files from others")] = (),
) -> None:
    """Rank all models at matched PSNR: FLOPs by each count, activations, parameters, time, memory.

    Example: `pcsr leaderboard reports/released/results.csv --gate 24.05 --out mine.md`.
    """
    table = out.with_suffix(".csv")
    files.check_outputs([results, *times, *added], (table, *pages.written(out)))
    measured = load(results)
    models = Models.of(measured, added)
    found = standings(models.points, timings.load(times), gate)
    write_csv(found, table)
    notes = [*training_note(measured), *models.notes]
    pages.write(leaderboard_markdown(found, protocol_text(measured[measured["main"]]), notes), out)


class Models(NamedTuple):
    """Operating points that can be compared, and a sentence on each model left out.

    ``points`` are those of ``tidy.summarise`` with the columns ``model``, a name that no two
    models of a test set share, and ``own``, whether the suite measured it.
    """

    points: pd.DataFrame
    notes: list[str]

    @classmethod
    def of(cls, results: pd.DataFrame, added: Sequence[Path] = ()) -> "Models":
        """Average over the images of each test set that all models of the suite were measured on.

        Args:
            results: of the suite, all protocols.
            added: CSV files that others measured (``contributed.read``).

        Raises:
            UserError: an added file is invalid, or no image was measured with all models of the
                suite.
        """
        own = results[results["main"]]
        named = {"": own.assign(model=own["experiment"], own=True)}
        for path in added:
            if path.stem in named:
                raise UserError(f"{path}: another file has this name, too; rename one of them.")
            rows = contributed.read(path, results)
            named[path.stem] = rows.assign(model=rows["experiment"] + f" ({path.stem})", own=False)
        rows = _common(comparable(pd.concat(named.values(), ignore_index=True)))
        if rows.empty:
            raise UserError("results: no image was measured with all models; measure the others.")
        points = pd.concat(
            summarise(of_model).assign(model=model, own=own)
            for (model, own), of_model in rows.groupby(["model", "own"], sort=False)
        )
        images = points.groupby(PLACE)["images"].transform("max")
        few = points[points["images"] < images]
        notes = [
            f"{model} was not measured on all images of {test_set}, and is left out."
            for test_set, model in dict.fromkeys(zip(few["test_set"], few["model"], strict=True))
        ]
        notes += [
            f"{name}.csv has no model of its own on these test sets by this protocol."
            for name, rows in named.items()
            if not set(rows["model"]) & set(points["model"])
        ]
        return cls(points[points["images"] == images].reset_index(drop=True), notes)


def _common(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the images that every model of the suite was measured on; others may lack some."""
    own = rows[rows["own"]]
    models = own.groupby(PLACE)["model"].transform("nunique")
    measured = own.groupby([*PLACE, "image"])["model"].transform("nunique")
    return rows.merge(own.loc[measured == models, [*PLACE, "image"]].drop_duplicates())


class Gate(NamedTuple):
    """A PSNR to match: ``least`` in dB, and the original it is relative to, if any."""

    name: str
    least: float
    original: str | None


def gates(points: pd.DataFrame, levels: Sequence[float] = ()) -> Iterator[Gate]:
    """Yield the gates of a test set: ``LOSS_DB`` below the original of each backbone, and levels.

    A backbone without an adaptive method has no gate of its own if others have one
    (``frontier.without_lone``); its original is ranked at theirs.
    """
    own = frontier.without_lone(points[points["own"]]).sort_values(["backbone", "experiment"])
    originals = own[own["method"] == REFERENCE].drop_duplicates("backbone")
    for _, original in originals.iterrows():
        name = f"{original['backbone']} - {LOSS_DB:g} dB"
        yield Gate(name, original["psnr_rgb"] - LOSS_DB, original["model"])
    yield from (Gate(f"{level:g} dB", level, None) for level in levels)


def standings(
    points: pd.DataFrame, times: pd.DataFrame, levels: Sequence[float] = ()
) -> pd.DataFrame:
    """Rank all models of each test set and scale at each gate.

    Args:
        points: ``Models.points``.
        times: ``timings.load``.
        levels: PSNR-RGB in dB to match, besides those of the originals.

    Returns:
        A row per test set, scale, gate, model and device, best first: what ``stand`` returns.
    """
    found = []
    for (test_set, scale), here in points.groupby(PLACE):
        timed = _timed(here, times)
        for gate in gates(here, levels):
            place = {"test_set": test_set, "scale": scale, "images": here["images"].iloc[0]}
            matched = {"gate": gate.name, "gate_psnr_rgb": gate.least}
            table = stand(here, timed, gate)
            found.append(pd.DataFrame(place | matched, index=table.index).join(table))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def stand(points: pd.DataFrame, timed: pd.DataFrame, gate: Gate) -> pd.DataFrame:
    """Rank the models of one test set at one gate, each count by its own cheapest point.

    Args:
        points: the operating points.
        timed: those of them that were timed (``_timed``).
        gate: what they have to reach.

    Returns:
        A row per model and device: ``model``, ``backbone``, ``method``, ``psnr_best`` (dB, over all
        points) and ``parameters``; for each of ``COUNTS`` the cost per image of its cheapest point
        in the gate, with ``rank_*``, ``knob_*`` and ``psnr_rgb_*``; ``device`` and, of the fastest
        timed point in the gate, ``knob_time``, ``seconds_per_megapixel`` (of SR), ``peak_bytes``
        and ``time_ratio`` to the gate's original. What was not measured, or not reached, is blank.
    """
    table = points.groupby("model").agg(
        backbone=("backbone", "first"),
        method=("method", "first"),
        psnr_best=("psnr_rgb", "max"),
        parameters=("parameters", "first"),
    )
    for cost, name in COUNTS.items():
        best = _cheapest(_within(points, gate), cost, ["model"]).set_index("model")
        table[f"rank_{name}"] = best[cost].rank(method="min").astype("Int64")
        table[cost] = best[cost]
        table[f"knob_{name}"] = best["text"]
        table[f"psnr_rgb_{name}"] = best["psnr_rgb"]
    fastest = _cheapest(_within(timed, gate), "seconds_per_megapixel", ["model", "device"])
    of_original = fastest[fastest["model"] == gate.original].set_index("device")
    whole = fastest["device"].map(of_original["seconds_per_megapixel"]).astype("float64")
    fastest["time_ratio"] = fastest["seconds_per_megapixel"] / whole
    fastest = fastest.rename(columns={"text": "knob_time"})
    measured = ["model", "device", "knob_time", "seconds_per_megapixel", "time_ratio", "peak_bytes"]
    table = table.reset_index().merge(fastest[measured], on="model", how="left")
    order = [f"rank_{FIRST}", "psnr_best", "model", "device"]
    return table.sort_values(order, ascending=[True, False, True, True], ignore_index=True)


def _within(points: pd.DataFrame, gate: Gate) -> pd.DataFrame:
    # Means differ in the last bits of a float; the gate itself still counts as reached.
    return points[points["psnr_rgb"] >= gate.least - 1e-9]


def _cheapest(points: pd.DataFrame, cost: str, of: list[str]) -> pd.DataFrame:
    """Return the cheapest row of each group; ties go to the highest PSNR."""
    ordered = points.dropna(subset=[cost]).sort_values([cost, "psnr_rgb"], ascending=[True, False])
    best = ordered.drop_duplicates(of)
    texts = [knob_text(point) for _, point in best.iterrows()]
    return best.assign(text=pd.Series(texts, best.index, dtype="str"))


def _timed(points: pd.DataFrame, times: pd.DataFrame) -> pd.DataFrame:
    """Return the points that were timed, a row for each device, with what was measured there.

    A case belongs to a point if backbone, method, knob and weights are equal. If a file does not
    name the weights, the suite must have only one model of that backbone and method. Of the images
    of a device those count on which the most models were timed, so that models are compared on the
    same ones. Several are combined: total time over total pixels, and the highest peak.
    """
    own = points["model"].where(points["own"])
    alone = own.groupby([points["backbone"], points["method"]]).transform("nunique") == 1
    alone &= points["own"]
    # Methods without a knob have NaN on both sides, which a merge takes for equal.
    swept = points.assign(alone=alone)[~points["adaptive"]]
    pairs = swept.merge(times, on=["backbone", "method", "knob"], suffixes=("", "_timed"))
    told = pairs["experiment_timed"].notna()
    pairs = pairs[pairs["alone"].where(~told, pairs["experiment_timed"] == pairs["experiment"])]
    models = pairs.groupby(["device", "image"])["model"].transform("nunique")
    pairs = pairs[models == models.groupby(pairs["device"]).transform("max")]
    key = ["model", "scale", "knob", "adaptive", "psnr_rgb", "device"]
    sums = pairs.groupby(key, dropna=False, as_index=False).agg(
        seconds=("seconds", "sum"),
        lr_pixels=("lr_pixels_timed", "sum"),
        peak_bytes=("peak_bytes", "max"),
    )
    megapixels = sums["lr_pixels"] * sums["scale"] ** 2 / 1e6
    return sums.assign(seconds_per_megapixel=sums["seconds"] / megapixels)


def leaderboard_markdown(found: pd.DataFrame, protocol: str, notes: Sequence[str] = ()) -> str:
    """Return the page: a table for each test set, scale and gate, and how to read them.

    Args:
        found: ``standings``.
        protocol: how everything was measured.
        notes: sentences on the weights, and on what was left out.
    """
    sections = ["# Leaderboard\n", f"Protocol: {escape.markdown(protocol)}.\n"]
    sections += [f"{escape.markdown(note)}\n" for note in notes]
    if found.empty:
        sections.append("No original was measured, and no PSNR was given by --gate.\n")
        return "\n".join(sections)
    devices = sorted(found["device"].dropna().unique())
    numbers = {device: str(number) for number, device in enumerate(devices, start=1)}
    sections += [f"Device {number}: {escape.markdown(of)}.\n" for of, number in numbers.items()]
    found = found.assign(device=found["device"].map(numbers))
    for (test_set, scale, gate), rows in found.groupby([*PLACE, "gate"], sort=False):
        least, images = rows["gate_psnr_rgb"].iloc[0], rows["images"].iloc[0]
        matched = escape.markdown(f"{style.name(test_set)}, x{scale:g}: {_gate_name(gate)}")
        sections += [f"## {matched}\n", f"At least {least:.3f} dB PSNR-RGB over {images} images.\n"]
        sections += _section(rows)
    return "\n".join([*sections, HOW_TO_READ])


def _gate_name(gate: str) -> str:
    backbone, less, loss = gate.partition(" - ")
    return style.name(backbone) + less + loss


def _section(rows: pd.DataFrame) -> Iterator[str]:
    within = rows[f"rank_{FIRST}"].notna()
    reached, short = rows[within], rows[~within].drop_duplicates("model")
    if len(reached):
        table = _table(reached)
        yield markdown(table, [*DECIMALS, *RANKS], best_cells(table, BETTER))
    if len(short):
        best = ", ".join(f"{r['model']} ({r['psnr_best']:.3f} dB)" for _, r in short.iterrows())
        yield f"Not reached by, with their highest PSNR: {escape.markdown(best)}.\n"


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the standings as text; a knob is named if it is not that of the first count."""
    first = rows[f"knob_{FIRST}"]
    table = pd.DataFrame(
        {
            "Model": rows["model"],
            **{title: rows[rank] for title, rank in RANKS.items()},
            "Knob": first,
            PSNR: rows[f"psnr_rgb_{FIRST}"],
            **{title: rows[column] / unit for title, (column, unit, _) in COSTS.items()},
            "Device": rows["device"],
        }
    )
    text = rounded(table, DECIMALS)
    called = COUNTS | {"seconds_per_megapixel": "time"}
    for title, (cost, _, _) in COSTS.items():
        if cost in called:
            knob = rows[f"knob_{called[cost]}"]
            other = knob.notna() & (knob != first)
            text.loc[other.to_numpy(), title] += (" at " + knob[other]).to_numpy()
    return text.drop(columns=[name for name in TIMED if table[name].isna().all()])


HOW_TO_READ = f"""\
## How to read this page

**Gate.** A table ranks every model that reaches a PSNR: {LOSS_DB:g} dB below that of a backbone's
original on the same images or, with `--gate`, any number of dB. Each count takes its own cheapest
measured operating point in the gate; nothing is interpolated, so that a finer sweep can only
lower a cost. Where that point has another knob value than the executed FLOPs', the value follows
the number (`at 1`). Ties share a rank. What was not measured is a dash. Bold is the best of a
column.

| column | meaning |
| :-- | :-- |
| Model | experiment; contributed models also name their file |
| Rank | 1 is the cheapest in the gate by that count |
| Knob, PSNR-RGB | of the point that executes the fewest FLOPs; ADM is the adaptive decision |
| GFLOPs (executed) | what the engine executes per image, mean over the images; sorts the table |
| GFLOPs (paper) | of the definition, transposed convolutions on their output grid |
| GFLOPs (algorithmic) | of the definition, transposed convolutions on their input grid, as fvcore |
| Activations | elements of the outputs of convolutions and linear layers, mean per image |
| Parameters | of the whole model: all branches and the router |
| Time (s/MP) | seconds per megapixel of SR of the fastest timed point in the gate |
| Time (of original) | relative to the original whose PSNR is matched, on the same device |
| Peak memory | of live tensors at that point, on top of the weights; grows with the image |
| Device | what `pcsr bench` ran on, by number; a model has a row for each |

Times and peaks are of images that `pcsr bench` was given, not of the test set, at the same weights
and knob value: of those on which the most models were timed. On a shared CPU only their ratios
count. Where nothing was timed, these columns are left out.
"""
