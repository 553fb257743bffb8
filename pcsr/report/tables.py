"""Operating points as a table, and writers for Markdown, LaTeX and CSV."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from cyclopts import Parameter

from pcsr import escape
from pcsr.config.options import Results
from pcsr.errors import unknown_name
from pcsr.report import tidy
from pcsr.report.columns import CALLED, COUNTS
from pcsr.report.figures import style
from pcsr.report.pages import html
from pcsr.report.tidy import PLACE, REFERENCE
from pcsr.storage import files

TOLERANCES_DB = (0.02, 0.05)
LOSS_DB = TOLERANCES_DB[-1]  # that a point may have for its costs to be compared
DECIMALS = {
    "Images": 0,
    "PSNR-RGB (dB)": 3,
    "vs original (dB)": 3,
    "PSNR-Y (dB)": 3,
    "SSIM": 4,
    **{f"GFLOPs ({count})": 2 for count in CALLED.values()},
    **{f"% of original ({count})": 1 for count in CALLED.values()},
    "Parameters (K)": 1,
    "Heavy share (%)": 1,
    "Units": 0,
    "LR pixels": 0,
}
QUALITY = dict.fromkeys(("PSNR-RGB (dB)", "PSNR-Y (dB)", "SSIM"), 1)  # more is better
COSTS = dict.fromkeys((name for name in DECIMALS if "GFLOPs" in name or "%" in name[:1]), -1)
LEADING = r"^([+-]?\d[\d.]*)"  # the number that a cell begins with
HEAD = f"""\
# Operating points

Means over the images of each test set. GFLOPs are per image, by the paper and the
algorithmic convention and as the engine executes them; parameters are those of the whole
model. The heavy share is the share of the units that the most expensive branch computed.
Units are what was routed (images, tiles or HR pixels). LR pixels are those processed:
more than the image has where tiles overlap. The knob is k for PCSR and ClassSR (larger
saves more), eta in dB for ENAF (larger saves more) and eta over the full cost for ARM
(smaller saves more). ADM is the adaptive decision, which has no knob. Bold is the best
of a column; costs compete among points that lose at most
{LOSS_DB:g} dB to the original.
"""


def table(
    results: Results,
    /,
    *,
    out: Annotated[Path, Parameter(help="Markdown to write; .html, .tex and .csv beside it")],
) -> None:
    """Write the operating points: PSNR and cost of each method and knob value.

    Example: `pcsr table reports/quick/results.csv --out points.html`.
    """
    outputs = [out.with_suffix(suffix) for suffix in (".csv", ".tex", ".md", ".html")]
    files.check_outputs([results], outputs)
    measured = tidy.load(results)
    points = operating_points(tidy.summarise(measured), tidy.other_metrics(measured))
    notes = [*tidy.training_note(measured), *tidy.exact_images(measured)]
    for path in outputs:
        write(points, path, notes)


def operating_points(summary: pd.DataFrame, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """List every measured point beside the original of its test set, backbone and scale.

    Each place starts with the original; each method with its adaptive decision, then its knob
    values upwards. ``Heavy share`` is that of the most expensive branch. The last column marks, for
    each method, the cheapest point (paper convention) that loses at most 0.02 dB and 0.05 dB. If a
    place has several originals, the first by experiment name is the reference; if it has none, the
    comparisons are blank.

    Args:
        summary: ``tidy.summarise`` of results.
        metrics: columns of metrics of other packages, each a column of the table.
    """
    points = summary.assign(curve=tidy.labels(summary), heavy=tidy.heavy_share(summary))
    points["first"] = points["method"] == REFERENCE
    order = [*PLACE, "first", "curve", "adaptive", "knob"]
    upwards = [name not in ("first", "adaptive") for name in order]
    points = points.sort_values(order, ascending=upwards, ignore_index=True)
    costs = [f"gflops_{count}" for count in COUNTS]
    originals = points[points["first"]].drop_duplicates(PLACE).set_index(PLACE)
    original = points[PLACE].join(originals[["psnr_rgb", *costs]], on=PLACE)
    points["delta"] = points["psnr_rgb"] - original["psnr_rgb"]
    percent = 100 * points[costs] / original[costs]
    counted = points["parameters"].notna().any()  # older sweeps lack them
    parameters = {"Parameters (K)": points["parameters"] / 1e3} if counted else {}
    return pd.DataFrame(
        {
            "Test set": points["test_set"],
            "Backbone": points["backbone"],
            "Scale": points["scale"].map("x{:g}".format),
            "Method": points["curve"],
            "Knob": points.apply(tidy.knob_text, axis="columns"),
            "Images": points["images"],
            "PSNR-RGB (dB)": points["psnr_rgb"],
            "vs original (dB)": points["delta"].mask(points["first"]),
            "PSNR-Y (dB)": points["psnr_y"],
            "SSIM": points["ssim"],
            **{name: points[name] for name in metrics},
            **{f"GFLOPs ({called})": points[f"gflops_{n}"] for n, called in CALLED.items()},
            **{f"% of original ({called})": percent[f"gflops_{n}"] for n, called in CALLED.items()},
            **parameters,
            "Heavy share (%)": 100 * points["heavy"],
            "Units": points["units"],
            "LR pixels": points["lr_pixels"],
            "Note": _notes(points),
        }
    )


def _notes(points: pd.DataFrame) -> pd.Series:
    found = pd.Series("", index=points.index)
    for tolerance in TOLERANCES_DB:
        # PSNR means differ in the last bits of a float; the tolerance itself still counts as met.
        near = points[~points["first"] & (points["delta"] >= -tolerance - 1e-9)]
        cheapest = near.groupby([*PLACE, "curve"])["gflops_paper"].idxmin()
        found[cheapest] += f" and {tolerance:g}"
    found = found.str.removeprefix(" and ")
    return found.mask(found != "", "cheapest within " + found + " dB")


def write(table: pd.DataFrame, path: Path, notes: Sequence[str] = ()) -> None:
    """Write operating points atomically as .csv (all digits), .md, .html or .tex, by the suffix.

    ``notes`` are sentences for the pages. The LaTeX is a bare ``tabular`` that needs the package
    booktabs. Another suffix is a UserError.
    """
    if path.suffix == ".csv":
        tidy.write_csv(table, path)
    elif path.suffix == ".md":
        files.write_text(path, _sections(table, notes))
    elif path.suffix == ".html":
        files.write_text(path, html(_sections(table, notes)))
    elif path.suffix == ".tex":
        decimals = _decimals(table)
        text = rounded(table, decimals)
        text["Method"] = text["Method"].map(style.curve)
        places = text[["Test set", "Backbone"]].map(style.name)
        files.write_text(path, _latex(text.assign(**places), {"Knob", *decimals}))
    else:
        raise unknown_name(
            "kind of table", path.suffix, (".csv", ".html", ".md", ".tex"), str(path)
        )


def rounded(table: pd.DataFrame, decimals: dict[str, int]) -> pd.DataFrame:
    """Return the table as text: numbers to their column's decimals, ``-`` for missing ones."""

    def text(value: Any, places: int | None) -> str:
        if pd.isna(value):
            return "-"
        return str(value) if places is None else f"{value:z.{places}f}"

    columns = {
        name: [text(value, decimals.get(name)) for value in table[name]] for name in table.columns
    }
    return pd.DataFrame(columns, columns=table.columns)


def best_cells(
    table: pd.DataFrame,
    better: Mapping[str, int],
    by: Sequence[str] = (),
    among: pd.Series | None = None,
) -> pd.DataFrame:
    """Tell which cells of a table of text are the best of their column.

    Only cells that begin with a number count. Equal cells are all the best, unless all cells of the
    column are equal.

    Args:
        table: as ``rounded`` returns it.
        better: column -> 1 if more is better, -1 if less is; other columns have no best.
        by: columns; rows compete with rows that have the same values there.
        among: which rows compete; all by default.
    """
    marked = pd.DataFrame(False, index=table.index, columns=table.columns)
    groups = table.groupby(list(by)).ngroup() if by else pd.Series(0, table.index)
    for name in table.columns.intersection(list(better)):
        numbers = table[name].str.extract(LEADING)[0].astype(float) * better[name]
        if among is not None:
            numbers = numbers.where(among)  # NaN is never the best
        values = numbers.groupby(groups)
        marked[name] = (numbers == values.transform("max")) & (values.transform("nunique") > 1)
    return marked


def markdown(
    table: pd.DataFrame, numeric: Iterable[str] = (), marked: pd.DataFrame | None = None
) -> str:
    """Return a table of text as Markdown, the columns ``numeric`` aligned to the right.

    ``marked`` are the cells to set in bold, as returned by ``best_cells``.
    """
    right = set(numeric)
    rules = ["--:" if name in right else ":--" for name in table.columns]
    text = table.map(escape.markdown)
    if marked is not None:
        text = text.mask(marked, "**" + text + "**")
    # Not to_markdown (tabulate): it pads cells to the widest of their column, so that one longer
    # number changes every line of a report that is in git.
    head = [escape.markdown(name) for name in table.columns]
    rows = [head, rules, *text.to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _decimals(table: pd.DataFrame) -> dict[str, int]:
    """Return the decimals of the columns; metrics of other packages have four."""
    numbers = table.select_dtypes("number").columns
    return {name: DECIMALS.get(name, 4) for name in numbers}


def _sections(table: pd.DataFrame, notes: Sequence[str]) -> str:
    text = HEAD + "".join(f"\n{note}\n" for note in notes)
    for (test_set, backbone, scale), rows in table.groupby(["Test set", "Backbone", "Scale"]):
        place = f"{style.name(backbone)} on {style.name(test_set)}, {scale}"
        text += f"\n## {escape.markdown(place)}\n\n{_section(rows)}"
    return text


def _section(rows: pd.DataFrame) -> str:
    decimals = _decimals(rows)
    text = rounded(rows.drop(columns=["Test set", "Backbone", "Scale"]), decimals)
    text["Method"] = text["Method"].map(style.curve)
    counts = sorted(set(text["Images"]), key=int)
    if len(counts) == 1:
        text = text.drop(columns="Images")
    near = ~(rows["vs original (dB)"] < -LOSS_DB - 1e-9)  # the original has no difference
    marked = best_cells(text, QUALITY) | best_cells(text, COSTS, among=near)
    return f"Images: {' to '.join(counts)}.\n\n{markdown(text, ['Knob', *decimals], marked)}"


def _latex(text: pd.DataFrame, right: set[str]) -> str:
    style = text.style.hide(axis="index").format(escape.latex)
    style = style.format_index(escape.latex, axis="columns")
    columns = "".join("r" if name in right else "l" for name in text.columns)
    return str(style.to_latex(hrules=True, column_format=columns))
