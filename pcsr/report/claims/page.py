"""Every published number, what was measured, and a verdict."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import pandas as pd
from cyclopts import Parameter

from pcsr import escape
from pcsr.config.options import MarkdownOut, Results
from pcsr.config.published import CLAIMS, Claims, PublishedModel, load_claims
from pcsr.errors import UserError
from pcsr.report import pages
from pcsr.report.claims import audit, logs
from pcsr.report.claims.published import as_published, at, knobs_text
from pcsr.report.figures import style
from pcsr.report.tables import markdown, rounded
from pcsr.report.tidy import (
    REFERENCE,
    common_images,
    comparable,
    exact_images,
    load,
    lr_text,
    protocol_text,
    summarise,
)
from pcsr.storage import files

# Columns, what the page calls them, and their decimals; there, neighbours that differ in brackets
# alone share a heading.
CELLS = {
    "Published PSNR": ("PSNR-RGB, dB (published)", 2),
    "Our PSNR": ("PSNR-RGB, dB (ours)", 3),
    "Difference (dB)": ("PSNR-RGB, dB (difference)", 3),
    "Published GFLOPs": ("GFLOPs (published)", 1),
    "Our GFLOPs": ("GFLOPs (ours)", 2),
    "Difference (%)": ("GFLOPs (difference, %)", 1),
}
BESIDE = {
    "Published (dB)": ("dB relative to the original (published)", 2),
    "Ours (dB)": ("dB relative to the original (ours)", 3),
    "Published (% of FLOPs)": ("FLOPs, % of the original's (published)", 1),
    "Ours (% of FLOPs)": ("FLOPs, % of the original's (ours)", 1),
}
TEXT = ("Test set", "Model", "Experiment", "Knob", "LR")


def claims(
    results: Results,
    /,
    *,
    out: MarkdownOut,
    published: Annotated[Path, Parameter(help="published cells")] = CLAIMS,
) -> None:
    """Compare every published cell with ours, and give the difference and a verdict.

    Example: `pcsr claims reports/released/results.csv --out claims.md`.
    """
    files.check_outputs((results, published), pages.written(out))
    measured, claimed = load(results), load_claims(published)
    models = measured[["backbone", "method", "test_set"]].drop_duplicates()
    if not any(claimed.covers(*model) for model in models.itertuples(index=False)):
        sets = ", ".join(sorted(set(measured["test_set"])))
        raise UserError(
            f"{results}: nothing is published of these models on {sets}, so there is nothing to "
            "compare; measure a test set that the published numbers have."
        )
    pages.write(claims_markdown(measured, claimed), out)


def compare(results: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Put each published cell beside our curve at its FLOPs.

    If the original was measured, the curve is read at the published share of its FLOPs, so that a
    subset of a test set has the same point as the whole set, and interpolated between knob values
    (``at``). Our point follows the cell's protocol, or the suite's own if that was not measured.
    A set under another name (``test2k-from-div8k``) is another set. Several experiments of one
    method give a row each.

    Returns:
        Rows by test set, then as published: ``TEXT``, the columns of ``CELLS`` and ``BESIDE``
        (numbers, blank when not run), ``Training`` and ``Verdict``.
    """
    summary = summarise(results, every_protocol=True)
    summary = summary[summary["scale"] == claims.scale]
    rows = []
    for test_set in claims.images:
        of_set = summary[summary["test_set"] == test_set]
        for row in claims.models:
            cell = claims.cell(row, test_set)
            if cell is None:
                continue
            of_backbone = of_set[of_set["backbone"] == row.backbone]
            points = of_backbone[of_backbone["method"] == row.method]
            original = as_published(of_backbone[of_backbone["method"] == REFERENCE], claims)
            measured = points.groupby("experiment")
            ours = [_ours(of, original, row, cell, claims) for _, of in measured]
            psnr, gflops = cell
            published: dict[str, object] = {
                "Test set": test_set,
                "Model": row.label,
                "Published PSNR": psnr,
                "Published GFLOPs": gflops,
            }
            whole = claims.original(row.backbone, test_set)
            if whole and row.method != REFERENCE:
                published["Published (dB)"] = psnr - whole[0]
                published["Published (% of FLOPs)"] = 100 * gflops / whole[1]
            rows += [published | found for found in ours or [{"Verdict": "not run"}]]
    columns = [*TEXT, *CELLS, *BESIDE, "Training", "Verdict"]
    return pd.DataFrame(rows, columns=columns)


def _ours(
    points: pd.DataFrame,
    original: pd.DataFrame,
    row: PublishedModel,
    cell: tuple[float, float],
    claims: Claims,
) -> dict[str, object]:
    """Return our half of a line, from the points of one experiment on one test set."""
    test_set = points["test_set"].iloc[0]
    psnr, gflops = cell
    points = as_published(points, claims)
    whole = claims.original(row.backbone, test_set)
    reference = original.iloc[0] if len(original) and whole else None
    factor = 1.0 if reference is None or whole is None else reference["gflops_paper"] / whole[1]
    parts = at(points, factor * gflops, claims)
    point = parts[0][0]  # the facts are the same for both
    our_psnr, our_gflops = (
        float(sum(weight * one[column] for one, weight in parts))
        for column in ("psnr_rgb", "gflops_paper")
    )
    delta = our_psnr - psnr
    percent = 100 * (our_gflops / gflops - 1)
    ours: dict[str, object] = {
        "Experiment": point["experiment"],
        "Knob": knobs_text(parts),
        "LR": lr_text(point["lr"]),
        "Our PSNR": our_psnr,
        "Difference (dB)": delta,
        "Our GFLOPs": our_gflops,
        "Difference (%)": percent,
        "Training": _training(point),
        "Verdict": _verdict(point, delta, percent, claims.images[test_set], row, claims),
    }
    if reference is not None and row.method != REFERENCE:
        ours["Ours (dB)"] = our_psnr - reference["psnr_rgb"]
        ours["Ours (% of FLOPs)"] = 100 * our_gflops / reference["gflops_paper"]
    return ours


def _training(point: pd.Series) -> str:
    steps = "" if pd.isna(point["training"]) else f"{point['training']:,} iterations"
    if point["released"]:
        return f"released weights, {steps}" if steps else "released weights"
    return steps or "unknown"


def _verdict(
    point: pd.Series,
    delta: float,
    percent: float,
    images: int,
    row: PublishedModel,
    claims: Claims,
) -> str:
    """Judge a point; means over a subset of the images are not judged."""
    near = abs(delta) <= claims.tolerance.psnr_db + 1e-9  # a difference of decimals is not exact
    same = near and abs(percent) <= claims.tolerance.gflops_percent + 1e-9
    verdict = ["reproduced" if same else "differs"]
    if not point["complete"] or point["images"] != images:
        verdict = [f"partial: {point['images']} of {images} images"]
    if not pd.isna(point["training"]) and point["training"] < claims.iterations[row.method]:
        verdict.append(f"(short training: {point['training']:,} iterations)")
    return " ".join(verdict)


def claims_markdown(results: pd.DataFrame, claims: Claims) -> str:
    """Return the page of claims: what was compared, the rules, the count, tables per test set."""
    finite = comparable(results)
    shared = common_images(finite)
    rows = compare(shared, claims)
    exact = (f"{note}\n" for note in exact_images(results))
    pages = [_head(results, claims, rows), *exact, *_left_out(finite, shared)]
    run = rows["Our PSNR"].notna().groupby(rows["Test set"]).transform("any")
    if not run.all():
        pages.append(_elsewhere(rows[~run]))
    for test_set, cells in rows[run].groupby("Test set", sort=False):
        title = escape.markdown(style.name(str(test_set)))
        table = _table(cells.drop(columns=["Test set", *BESIDE]), CELLS)
        pages.append(f"## {title}\n\n{table}")
        beside = cells.dropna(subset=list(BESIDE))
        if len(beside):
            table = _table(beside[["Model", "Experiment", "Knob", "LR", *BESIDE]], BESIDE)
            pages.append(f"Relative to the original, valid for a subset too:\n\n{table}")
        of_set = shared[shared["test_set"] == test_set]
        pages += audit.sections(of_set, str(test_set), claims)
    pages += logs.sections(results, claims)
    return "\n".join(pages)


def _table(cells: pd.DataFrame, numbers: Mapping[str, tuple[str, int]]) -> str:
    text = rounded(cells, {name: decimals for name, (_, decimals) in numbers.items()})
    shown = {name: title for name, (title, _) in numbers.items()}
    return markdown(text.rename(columns=shown), ["Knob", *shown.values()])


def _elsewhere(cells: pd.DataFrame) -> str:
    """Say in one line what was published on test sets that were not measured."""
    counts = cells.groupby("Test set", sort=False).size()
    sets = ", ".join(f"{style.name(str(name))} ({count} cells)" for name, count in counts.items())
    return f"Published on test sets that this suite did not measure: {escape.markdown(sets)}.\n"


def _own_knobs(claims: Claims) -> str:
    return "".join(
        f"\n{escape.markdown(style.name(method))} has no knob of its own; its cells are compared "
        f"at knob {knob:g}."
        for method, knob in claims.knobs.items()
    )


def _left_out(results: pd.DataFrame, shared: pd.DataFrame) -> Iterator[str]:
    """Say which images have no pair."""
    for (test_set, backbone), rows in results.groupby(["test_set", "backbone"]):
        here = (shared["test_set"] == test_set) & (shared["backbone"] == backbone)
        without = sorted(set(rows["image"]) - set(shared.loc[here, "image"]))
        if without:
            place, images = map(escape.markdown, (f"{backbone} on {test_set}", ", ".join(without)))
            yield (
                f"Images excluded for {place}, because not every method was measured on them: "
                f"{images}.\n"
            )


def _head(results: pd.DataFrame, claims: Claims, rows: pd.DataFrame) -> str:
    def listed(column: str) -> str:
        return escape.markdown(", ".join(sorted(set(results[column]))))

    verdicts = rows["Verdict"]
    names = ["reproduced", "differs", "not run"]
    counts = [f"{(verdicts == name).sum()} {name}" for name in names]
    counts.append(f"{(~verdicts.isin(names)).sum()} partial or with short training")
    limits = claims.tolerance
    return f"""# Published numbers and ours

- Published: {escape.markdown(claims.source)}.
- Ours: suite {listed("suite")}; results.json beside this page says by which commits.
- Protocol of the suite: {escape.markdown(protocol_text(results[results["main"]]))}.
- {escape.markdown(claims.note)}
- Test sets measured: {listed("test_set")}.
- Result: {", ".join(counts)}.

PSNR is measured on RGB, in dB. FLOPs are GFLOPs per image in the paper convention. For a method
with a knob, our point lies on its curve at the published share of the original's FLOPs: between the
two measured knob values on either side, both named, PSNR is interpolated linearly in GFLOPs. One
knob value is named where it has exactly that share, or where the curve ends before it. LR images
are of the kind that the published cell was measured on, if the suite has them.{_own_knobs(claims)}
The knob is k for PCSR and ClassSR, eta over the full cost for ARM, and eta for ENAF. ADM is the
adaptive decision. Below the cells, every method is listed under every measured protocol: the point
at the published share of FLOPs, the adaptive decision, and the share of the original's FLOPs at
which the curve loses exactly the published amount to the original on the same LR.
`value [low, high]` is a mean over images with its 95 % bootstrap interval.

| verdict | meaning |
| :-- | :-- |
| reproduced | within {limits.psnr_db:g} dB and {limits.gflops_percent:g} % of the GFLOPs |
| differs | measured, but outside at least one of these tolerances |
| not run | not measured on this test set; a set with another name is a different set |
| partial: n of N images | a subset: only values relative to the original are comparable |
| (short training: n iterations) | trained for less than published; numbers are not comparable |
"""
