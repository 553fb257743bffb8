"""Every published number beside what was measured, with a verdict."""

from pathlib import Path

import pandas as pd
from pydantic import Field, model_validator

from pcsr.config import Config, parse, read_yaml
from pcsr.report.tables import markdown, rounded
from pcsr.report.tidy import knob_text, protocol_text

CLAIMS = Path("configs/claims.yaml")

DECIMALS = {
    "Published PSNR": 2,
    "Ours PSNR": 3,
    "Difference (dB)": 3,
    "Published GFLOPs": 1,
    "Ours GFLOPs": 2,
    "Difference (%)": 1,
}


class Tolerance(Config):
    """What still counts as the same number."""

    psnr_db: float = Field(gt=0)
    gflops_percent: float = Field(gt=0)


class PublishedModel(Config):
    """One line of the published table."""

    model: str = Field(description="name in the paper")
    backbone: str
    method: str
    params: str = Field(description="published number of parameters")
    cells: dict[str, tuple[float, float]] = Field(
        description="test set -> PSNR-RGB in dB, GFLOPs per picture (paper convention)"
    )


class Claims(Config):
    """The published table and the rules of comparison."""

    source: str
    note: str
    scale: float = Field(gt=1)
    tolerance: Tolerance
    images: dict[str, int] = Field(description="pictures in each published test set")
    iterations: dict[str, int] = Field(description="method -> published training steps in all")
    models: tuple[PublishedModel, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> "Claims":
        for row in self.models:
            if row.method not in self.iterations:
                raise ValueError(f"{row.model}: its method has no entry under iterations")
            if not set(row.cells) <= set(self.images):
                raise ValueError(f"{row.model}: a test set has no entry under images")
        return self


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read the published numbers; a UserError names a missing file or a wrong key."""
    return parse(Claims, read_yaml(path), str(path))


def compare(summary: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Put each published cell beside our operating point of the nearest GFLOPs.

    A set under another name (``test2k-from-div8k``) is another set. Several experiments of one
    method give a row each.

    Returns:
        Rows by test set, then as published: ``Test set``, ``Model``, ``Experiment``, ``Knob``, the
        columns of ``DECIMALS`` (numbers, blank when not run), ``Training`` and ``Verdict``.
    """
    rows = []
    for test_set in claims.images:
        for row in claims.models:
            if test_set not in row.cells:
                continue
            points = summary[
                (summary["test_set"] == test_set)
                & (summary["backbone"] == row.backbone)
                & (summary["method"] == row.method)
                & (summary["scale"] == claims.scale)
            ]
            ours = [_ours(of_one, row, claims) for _, of_one in points.groupby("experiment")]
            psnr, gflops = row.cells[test_set]
            published = {
                "Test set": test_set,
                "Model": f"{row.model} ({row.params})",
                "Published PSNR": psnr,
                "Published GFLOPs": gflops,
            }
            rows += [published | found for found in ours or [{"Verdict": "not run"}]]
    text = ["Test set", "Model", "Experiment", "Knob"]
    return pd.DataFrame(rows, columns=[*text, *DECIMALS, "Training", "Verdict"])


def _ours(points: pd.DataFrame, row: PublishedModel, claims: Claims) -> dict[str, object]:
    """Return our half of a line, from the points of one experiment on one test set."""
    test_set = points["test_set"].iloc[0]
    psnr, gflops = row.cells[test_set]
    point = points.iloc[(points["gflops_paper"] - gflops).abs().argmin()]
    delta = float(point["psnr_rgb"]) - psnr
    percent = 100 * (float(point["gflops_paper"]) / gflops - 1)
    near = abs(delta) <= claims.tolerance.psnr_db + 1e-9  # a difference of decimals is not exact
    same = near and abs(percent) <= claims.tolerance.gflops_percent + 1e-9
    verdict = ["reproduced" if same else "differs"]
    if not point["complete"]:
        verdict.append(f"(partial: {point['images']} of {claims.images[test_set]} pictures)")
    released = pd.isna(point["training"])
    if not released and point["training"] < claims.iterations[row.method]:
        verdict.append(f"(short training: {point['training']:,} iterations)")
    return {
        "Experiment": point["experiment"],
        "Knob": knob_text(point),
        "Ours PSNR": point["psnr_rgb"],
        "Difference (dB)": delta,
        "Ours GFLOPs": point["gflops_paper"],
        "Difference (%)": percent,
        "Training": "released weights" if released else f"{point['training']:,} iterations",
        "Verdict": " ".join(verdict),
    }


def claims_markdown(summary: pd.DataFrame, claims: Claims) -> str:
    """Return the page of claims: what was compared, the rules, the count, a table per test set."""
    rows = compare(summary, claims)
    pages = [_head(summary, claims, rows)]
    for test_set, cells in rows.groupby("Test set", sort=False):
        text = rounded(cells.drop(columns="Test set"), DECIMALS)
        pages.append(f"## {test_set}\n\n{markdown(text, ['Knob', *DECIMALS])}")
    return "\n".join(pages)


def _head(summary: pd.DataFrame, claims: Claims, rows: pd.DataFrame) -> str:
    def listed(column: str) -> str:
        return ", ".join(sorted(set(summary[column])))

    verdicts = rows["Verdict"]
    names = ["reproduced", "differs", "not run"]
    counts = [f"{(verdicts == name).sum()} {name}" for name in names]
    counts.append(f"{(~verdicts.isin(names)).sum()} only partial or after short training")
    limits = claims.tolerance
    return f"""# Published numbers and ours

- Published: {claims.source}.
- Ours: suite {listed("suite")}, commit {listed("commit")}.
- Protocol: {protocol_text(summary)}. {claims.note}
- Test sets measured: {listed("test_set")}.
- Result: {", ".join(counts)}.

PSNR is RGB in dB, FLOPs are in GFLOPs per picture by the paper convention. Beside a method with a
knob stands our measured point whose GFLOPs are nearest the published ones. The knob is k of PCSR
and ClassSR and eta over the full cost of ARM; ADM is the adaptive decision.

| verdict | meaning |
| :-- | :-- |
| reproduced | within {limits.psnr_db:g} dB and {limits.gflops_percent:g} % of the GFLOPs |
| differs | measured, and outside one of them |
| not run | not measured on this test set; a set under another name is another set |
| (partial: n of N pictures) | fewer pictures than the published set, so other means are expected |
| (short training: n iterations) | trained for less than was published; the numbers do not compare |
"""
