"""Which knobs and which protocol give a published operating point, image by image."""

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from pcsr import escape, registry
from pcsr.config.published import Claims
from pcsr.report.claims.published import at, knobs_text
from pcsr.report.columns import CONVENTIONS, PROTOCOL
from pcsr.report.curves import Curve, estimate, mean, percent_needed
from pcsr.report.figures import style
from pcsr.report.tables import markdown
from pcsr.report.tidy import REFERENCE, knob_text, labels, lr_text

TEXT = ("Method", "LR", "Cropped", "Refined")
NEEDED = "% of its FLOPs (for the published loss)"


def sections(results: pd.DataFrame, test_set: str, claims: Claims) -> Iterator[str]:
    """Yield a table for every published method that was measured beside its original.

    Args:
        results: of one test set, every protocol.
        test_set: its name.
        claims: the published table.
    """
    measured = results[results["scale"] == claims.scale]
    measured = measured.assign(curve=labels(measured))
    for row in claims.models:
        cell, whole = claims.cell(row, test_set), claims.original(row.backbone, test_set)
        of_backbone = measured[measured["backbone"] == row.backbone]
        rows = of_backbone[of_backbone["method"] == row.method]
        originals = of_backbone[of_backbone["method"] == REFERENCE]
        if row.method == REFERENCE or cell is None or whole is None or originals.empty:
            continue
        first = originals[originals["experiment"] == originals["experiment"].min()]
        loss, share = whole[0] - cell[0], cell[1] / whole[1]
        table = by_protocol(rows, first, loss, share, claims)
        if table.empty:
            continue
        yield (
            f"### {escape.markdown(row.model)}: published {cell[0]:.2f} dB, {cell[1]:.1f} GFLOPs\n"
            f"\nThat is {-loss:+.2f} dB relative to the published original, at {100 * share:.1f} % "
            "of its FLOPs. Our points, by protocol:\n\n"
            f"{markdown(table, table.columns.difference(TEXT))}"
        )


def by_protocol(
    rows: pd.DataFrame, original: pd.DataFrame, loss: float, share: float, claims: Claims
) -> pd.DataFrame:
    """Find the operating point of a share of the original's FLOPs under every measured protocol.

    Args:
        rows: of one method, backbone and test set, every protocol.
        original: of the original there.
        loss: published PSNR of the original minus that of the method, in dB.
        share: published FLOPs of the method over those of the original.
        claims: the published table, which knows the methods with only one knob value.

    Returns:
        As text, a row for the curve at ``share`` (``at``) and one for the adaptive decision:
        PSNR, its difference to the original on the same LR and on 8-bit LR (means over images with
        their intervals), shares of the original's FLOPs in both conventions, and the share at
        which the curve loses just ``loss`` to the original on the same LR.
    """
    table = []
    main_first = rows.sort_values("main", ascending=False, kind="stable")
    for (curve, *protocol), of in main_first.groupby(["curve", *PROTOCOL], sort=False):
        lr, crop, refine = map(str, protocol)
        same_crop = original[original["crop"] == crop]
        same, eight_bit = (same_crop[same_crop["lr"] == bits] for bits in (lr, "8bit"))
        if same.empty:
            continue
        cropped, refined = ("yes" if yes else "no" for yes in (crop == "tiles", refine == "True"))
        if not any(
            point.refine for point in registry.resolve("method", of["method"].iloc[0]).points
        ):
            refined = "-"  # the method has no refinement
        text = dict(
            zip(TEXT, (style.curve(str(curve)), lr_text(lr), cropped, refined), strict=True)
        )
        for knob, point, needed in _points(of, same, loss, share, claims):
            table.append(text | _values(knob, point, same, eight_bit) | {NEEDED: needed})
    return pd.DataFrame(table)


def _points(
    of: pd.DataFrame, original: pd.DataFrame, loss: float, share: float, claims: Claims
) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Yield knob, rows per image and the curve's text for a loss: at a share, then by ADM."""
    swept, adaptive = of[~of["adaptive"]], of[of["adaptive"]]
    curve, whole = (Curve.of(rows, "paper") for rows in (swept, original))
    means = swept.groupby(["method", "knob", "adaptive"])["flops_paper"].mean().div(1e9)
    points = means.rename("gflops_paper").reset_index()
    parts = at(points, share * float(whole.gflops.mean()), claims)
    percent = partial(percent_needed, curve, whole, loss)
    needed = estimate(percent, len(whole.psnr)).text(1)
    yield knobs_text(parts), _mixed(swept, parts), needed
    if len(adaptive):
        yield knob_text(adaptive.iloc[0]), adaptive, "-"


def _mixed(swept: pd.DataFrame, parts: Sequence[tuple[pd.Series, float]]) -> pd.DataFrame:
    """Return PSNR and FLOPs of each image between knob values, weighted as by ``at``."""
    columns = ["psnr_rgb", *(f"flops_{convention}" for convention in CONVENTIONS)]
    weighted = [
        weight * swept[swept["knob"] == point["knob"]].set_index("image")[columns]
        for point, weight in parts
    ]
    return sum(weighted[1:], start=weighted[0]).reset_index()


def _values(
    knob: str, point: pd.DataFrame, same: pd.DataFrame, eight_bit: pd.DataFrame
) -> dict[str, str]:
    def percent(convention: str) -> str:
        flops = f"flops_{convention}"
        return f"{100 * point[flops].mean() / same[flops].mean():.1f}"

    return {
        "Knob": knob,
        "PSNR-RGB (dB)": f"{point['psnr_rgb'].mean():.3f}",
        "vs original, dB (same LR)": _difference(point, same),
        "vs original, dB (8-bit LR)": _difference(point, eight_bit),
        "% of its FLOPs (paper)": percent("paper"),
        "% of its FLOPs (algorithmic)": percent("algorithmic"),
    }


def _difference(point: pd.DataFrame, original: pd.DataFrame) -> str:
    if original.empty:
        return "-"
    psnr, whole = (rows.set_index("image")["psnr_rgb"] for rows in (point, original))
    return mean((psnr - whole).to_numpy()).text(3)
