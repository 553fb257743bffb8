"""Released weights at published knobs: the authors' test logs image by image, and their curves.

A cell of the published table is compared with a curve. Here the knob is published as well, so our
point is exactly the one that the authors measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from pcsr import escape
from pcsr.config.published import AtKnobs, Claims
from pcsr.errors import UserError, one_line
from pcsr.report.tables import markdown, rounded
from pcsr.storage import files

# The logs have four decimals of a dB and two of an M per tile. One level that a sum of floats
# rounds the other way moves less than 0.001 dB; a tile on another branch moves 0.05 M in 8K.
LINE_DB, LINE_MFLOPS = 0.001, 0.01
CURVE_DB, CURVE_MFLOPS = 0.01, 1.0  # curves are rounded to these units
NEAR = 1e-5  # knobs that differ by less are the same: they are published with six digits
WORST = 5  # lines that are named

Values = tuple[float, float, float, float]  # of the columns of ``DECIMALS``
DECIMALS = {"Published PSNR": 4, "Our PSNR": 4, "Published M per tile": 2, "Our M per tile": 2}


@dataclass(frozen=True)
class Point:
    """A published operating point: with numbers if from a curve, with tiles if from a log."""

    known: AtKnobs
    backbone: str
    test_set: str
    knob: float
    mflops: float = np.nan
    psnr: float = np.nan
    tiles: tuple[int, ...] = field(default=(), kw_only=True)


def sections(results: pd.DataFrame, claims: Claims) -> Iterator[str]:
    """Yield the part of the claims page on published knobs; one line if none was measured.

    Args:
        results: of a suite, every protocol.
        claims: the published numbers.
    """
    rows, images, absent = [], [], []
    for known in claims.at_knobs:
        as_published = _as_published(results, known, claims)
        for point in _points(known):
            measured = list(_measured(as_published, point))
            for place, ours in measured:
                if point.tiles:
                    lines = beside(point, ours)
                    values, verdict = _of_log(point, lines, ours, claims)
                    images.append(lines.reset_index().assign(**place))
                else:
                    lines = ours
                    values, verdict = _of_curve(point, ours, claims)
                count = {"Images": f"{len(lines)} of {claims.images[point.test_set]}"}
                numbers = dict(zip(DECIMALS, values, strict=True))
                rows.append(place | count | numbers | {"Verdict": verdict})
            absent += [] if measured else [point]
    if rows or absent:
        yield "## At published knobs\n"
    if rows:
        table = rounded(pd.DataFrame(rows), DECIMALS)
        yield f"{_rules(claims)}\n{markdown(table, ['Knob', 'Images', *DECIMALS])}"
    if images:
        yield _worst(pd.concat(images, ignore_index=True))
    if absent:
        yield _not_measured(absent)


def read_lines(path: Path, backbone: str, knob: float) -> pd.DataFrame:
    """Read the lines of one run of a test log.

    The CSV has a row per image, below three rows that give each column's backbone, knob, and kind:
    ``psnr_rgb`` or ``mflops_per_tile``.

    Returns:
        By ``image``: ``psnr_rgb`` in dB and ``mflops_per_tile``, as logged.

    Raises:
        UserError: the file is missing or damaged, or does not hold the run.
    """
    try:
        table = pd.read_csv(path, comment="#", header=[0, 1, 2], index_col=0, dtype={0: "str"})
        run = {
            name: table[backbone, f"{knob:g}", name].astype(float)
            for name in ("psnr_rgb", "mflops_per_tile")
        }
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{path}: no lines of {backbone} at knob {knob:g} ({one_line(error)}); get the file "
            "again, or fix at_knobs of the published numbers."
        ) from None
    return pd.DataFrame(run).rename_axis("image")


def beside(point: Point, ours: pd.DataFrame) -> pd.DataFrame:
    """Put each line of a run beside what was measured on the image of that name.

    Returns:
        By ``image``: the columns of ``read_lines``, ``our_psnr`` in dB, ``our_mflops`` per tile,
        ``units`` (tiles), and ``off``, the larger difference in units of its tolerance.
    """
    path = files.find(point.known.lines[point.test_set])
    renamed = {"psnr_rgb": "our_psnr", "mflops": "our_mflops", "units": "units"}
    measured = ours.set_index("image")[list(renamed)].rename(columns=renamed)
    both = read_lines(path, point.backbone, point.knob).join(measured, how="inner")
    psnr = (both["our_psnr"] - both["psnr_rgb"]).abs() / LINE_DB
    mflops = (both["our_mflops"] - both["mflops_per_tile"]).abs() / LINE_MFLOPS
    return both.assign(off=np.fmax(psnr, mflops))


def _points(known: AtKnobs) -> Iterator[Point]:
    for log in known.logs:
        for knob, tiles in log.runs:
            yield Point(known, log.backbone, log.test_set, knob, tiles=tiles)
    for curve in known.curves:
        for knob, *values in curve.points:
            yield Point(known, curve.backbone, curve.test_set, knob, *values)


def _as_published(results: pd.DataFrame, known: AtKnobs, claims: Claims) -> pd.DataFrame:
    """Keep the rows of released weights that were measured as the method's authors did."""
    protocol = claims.protocols[known.method]
    here = results["released"] & ~results["adaptive"] & (results["scale"] == claims.scale)
    measured = {**protocol.columns(), "method": known.method}
    for column in ("method", "lr", "crop"):
        here &= results[column] == measured[column]
    return results[here]


def _measured(
    results: pd.DataFrame, point: Point
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Yield the rows per image of each experiment that has the point.

    ``mflops`` are per tile, by the published costs if there are any: equal decisions then give the
    published number, whatever the suite itself counts.
    """
    near = (results["knob"] - point.knob).abs() < NEAR
    here = (results["backbone"] == point.backbone) & (results["test_set"] == point.test_set)
    costs = point.known.costs.get(point.backbone)
    for experiment, ours in results[near & here].groupby("experiment"):
        mflops = (
            ours["flops_paper"] / ours["units"] / 1e6
            if costs is None
            else _shares(ours, len(costs)) @ np.array(costs)
        )
        place = {"Experiment": experiment, "Test set": point.test_set, "Knob": f"{point.knob:g}"}
        yield place, ours.assign(mflops=mflops)


def _shares(rows: pd.DataFrame, branches: int) -> np.ndarray:
    """Return the share of each branch, (images, branches)."""
    names = [f"share_{branch}" for branch in range(branches)]
    return rows.reindex(columns=names).fillna(0).to_numpy()


def _of_log(
    point: Point, lines: pd.DataFrame, ours: pd.DataFrame, claims: Claims
) -> tuple[Values, str]:
    """Return the means over the images that were measured and are in the log, and the verdict."""
    agree = int((lines["off"] <= 1 + 1e-6).sum())  # differences of decimals are not exact
    verdict = f"{agree} of {len(lines)} images agree" if len(lines) else "no image is in the log"
    if len(lines) == len(ours) == claims.images[point.test_set]:
        shares = _shares(ours, len(point.tiles)) * ours[["units"]].to_numpy()
        tiles = tuple(shares.sum(axis=0).round().astype(int).tolist())
        found, logged = ("/".join(map(str, counts)) for counts in (tiles, point.tiles))
        same = tiles == point.tiles
        verdict += "; tiles of each branch as logged" if same else f"; tiles {found}, not {logged}"
    per_tile = lines[["mflops_per_tile", "our_mflops"]].mul(lines["units"], axis="index").sum()
    published, measured = per_tile / lines["units"].sum()
    return (lines["psnr_rgb"].mean(), lines["our_psnr"].mean(), published, measured), verdict


def _of_curve(point: Point, ours: pd.DataFrame, claims: Claims) -> tuple[Values, str]:
    """Return the means, and the verdict; those over a subset are not judged."""
    psnr, mflops = ours["psnr_rgb"].mean(), np.average(ours["mflops"], weights=ours["units"])
    near = abs(mflops - point.mflops) <= CURVE_MFLOPS
    near &= np.isnan(point.psnr) or abs(psnr - point.psnr) <= CURVE_DB
    verdict = "agrees" if near else "differs"
    if len(ours) != claims.images[point.test_set] or not ours["complete"].all():
        verdict = "partial"
    return (point.psnr, psnr, point.mflops, mflops), verdict


def _worst(images: pd.DataFrame) -> str:
    """Return a table of the lines that differ most, whether they agree or not."""
    worst = images.sort_values("off", ascending=False, kind="stable").head(WORST)
    numbers = ["psnr_rgb", "our_psnr", "mflops_per_tile", "our_mflops"]
    table = worst[["Experiment", "Test set", "Knob", "image", *numbers]]
    table = rounded(table.set_axis([*table.columns[:3], "Image", *DECIMALS], axis=1), DECIMALS)
    return f"Largest differences to a line of a log:\n\n{markdown(table, ['Knob', *DECIMALS])}"


def _rules(claims: Claims) -> str:
    sources = "; ".join(
        f"{escape.markdown(known.method)}: {escape.markdown(known.source)}"
        for known in claims.at_knobs
    )
    return f"""Operating points of released weights whose knob was published; nothing is
interpolated ({sources}).
M per tile are counted with the published costs of the branches where there are any, so that equal
choices give equal numbers. A line of a log agrees within {LINE_DB:g} dB and {LINE_MFLOPS:g} M per
tile; the tiles of each branch are logged for the whole set. A point of a curve agrees within
{CURVE_DB:g} dB and {CURVE_MFLOPS:g} M per tile.
"""


def _not_measured(points: list[Point]) -> str:
    """Say in one line what was published and not measured."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for point in points:
        kind = "run of its test logs" if point.tiles else "point of its curves"
        kinds.setdefault((point.known.method, kind), []).append(point.test_set)
    listed = "; ".join(
        f"{method}, {len(sets)} {kind.replace(' ', 's ', 1) if len(sets) > 1 else kind} "
        f"({', '.join(dict.fromkeys(sets))})"
        for (method, kind), sets in kinds.items()
    )
    return f"Not measured with released weights: {escape.markdown(listed)}.\n"
