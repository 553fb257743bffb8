"""Sweeps in, one tidy table out: every number of a report comes from it.

A *sweep* has one row per image, knob value and protocol. The *results* of a suite are all its
sweeps; their *main* rows are those of the suite's own protocol. A *summary* is the mean of the main
rows over the images. An image that some point restores exactly has an infinite PSNR there: it stays
in the results, and is left out of every mean of its test set (``comparable``). What differs between
runs of the same code (time, commit) is not in the table but in the JSON beside it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter
from pydantic import Field

from pcsr import escape, runtime
from pcsr.config.base import Facts
from pcsr.config.load import ConfigT, parse
from pcsr.config.models import COUNT_LIMIT, ProtocolConfig
from pcsr.errors import UserError, log
from pcsr.report.columns import (
    COUNTS,
    FACT_TYPES,
    PLACE_TYPES,
    PROTOCOL,
    RESULT_TYPES,
    SIZES,
    SWEEP_TYPES,
    read_rows,
)
from pcsr.storage import content, files, provenance

# By how much results may differ and still be the same, absolutely and as a share: another kind of
# processor changes 2e-5 dB, and sends a few pixels of a million another way.
AGREEMENT = {
    **dict.fromkeys(("psnr_rgb", "psnr_y"), (1e-4, 0)),
    "ssim": (1e-5, 0),
    "share": (1e-4, 0),
    **dict.fromkeys((f"flops_{count}" for count in COUNTS), (0, 1e-4)),
    "activations": (0, 1e-4),
}
# One row in a thousand may differ by 500 times as much: a tile at a threshold goes another way.
RARE, FARTHER = 1e-3, 500

RECIPES = 1_700_000, 2_747_240  # training steps of the papers: ClassSR's, ENAF's with its network
SHORT_TRAINING = (
    f" That is short training: the papers' recipes have {RECIPES[0]:,} to {RECIPES[1]:,} steps, "
    "and how methods compare depends on it."
)
REFERENCE = "original"  # the method that every other one is compared with

PLACE = ["test_set", "backbone", "scale"]  # where curves are compared
# Columns that are the same for every image of one operating point.
POINT = (
    *("suite", "test_set", "backbone", "scale", "method", "experiment", "knob", "adaptive"),
    *PROTOCOL,
    *FACT_TYPES,
)


class Sidecar(Facts):
    """What a report reads from the JSON file beside a sweep."""

    protocol: ProtocolConfig
    complete: bool = Field(description="false: fewer images than the published set has")
    iterations: int | None = Field(
        ge=0, le=COUNT_LIMIT, description="training steps in all; None where nobody tells"
    )
    released: bool = Field(default=False, description="the authors' own weights")
    commit: str | None = None
    modified: bool = False

    def made_by(self) -> str:
        """Return the commit that the sweep was measured by, as text."""
        commit = self.commit or "unknown"
        return f"{commit} with changes" if self.modified else commit


class Made(Facts):
    """What a report reads from the JSON file beside results."""

    sha256: str


def write_results(
    *,
    sweeps: Annotated[list[Path], Parameter(help="sweep.csv files")],
    out: Annotated[Path, Parameter(help="CSV to write")],
) -> None:
    """Join sweeps to one tidy table: a row per experiment, test set, image and operating point.

    The JSON beside it records commits, versions and machine. A table in place that has the same
    rows stays, with its JSON, if its numbers agree within 0.0001 dB and 0.01 % of the FLOPs, and
    one row in a thousand within 0.05 dB and 5 %. That much may differ between kinds of processors.

    Example: `pcsr collect --sweeps results/quick/*/*/sweep.csv --out results.csv`.
    """
    runtime.setup_logging()
    files.require_suffix(out, ".csv", "--out")
    beside = files.sidecar(out)
    files.check_outputs(sweeps, (out, beside))
    table = collect(sweeps)
    own = out.exists() and _recorded(beside) == content.sha256(out)
    apart = _apart(table, out) if own else None
    if apart is not None:
        log.info("%s: all %d rows agree, within %.1g dB; it stays", out, len(table), apart)
        out.touch()
        return
    write_csv(table, out)
    digest = content.sha256(out)
    if _recorded(beside) != digest:
        commits = {str(path): read_facts(Sidecar, files.sidecar(path)).made_by() for path in sweeps}
        files.write_json(beside, provenance.record(sha256=digest, sweeps=commits))


def _apart(table: pd.DataFrame, path: Path) -> float | None:
    """Return by how many dB results in a file differ at most from a table of the same rows.

    None if there are none, if they are other rows, or if a number differs by more than is allowed.
    """
    try:
        before = load(path)
    except (UserError, OSError):
        return None
    measured = [name for name in table if name in AGREEMENT or name in share_columns(table)]
    if not table.drop(columns=measured).equals(before.drop(columns=measured, errors="ignore")):
        return None
    beyond = np.zeros(len(table), dtype=bool)
    for name in measured:
        absolute, relative = AGREEMENT.get(name, AGREEMENT["share"])
        both = table[name], before[name]
        if not np.allclose(*both, FARTHER * relative, FARTHER * absolute, equal_nan=True):
            return None
        beyond |= ~np.isclose(*both, relative, absolute, equal_nan=True)
    if beyond.mean() > RARE:
        return None
    apart = (table["psnr_rgb"] - before["psnr_rgb"]).abs()
    return float(apart.fillna(0.0).max())  # infinite ones are the same in both


def _recorded(path: Path) -> str | None:
    """Return the checksum of the table that a JSON file was written for, if it has one."""
    with suppress(UserError):
        return read_facts(Made, path).sha256
    return None


def collect(paths: Sequence[Path]) -> pd.DataFrame:
    """Join sweeps, each ``.../<suite>/<experiment>/<test set>/sweep.csv`` with a JSON beside it.

    Returns:
        One row per image, knob value and protocol, whatever the order of ``paths``: the columns
        of a sweep but its time, its suite, experiment and test set, ``main``, ``complete``,
        ``training`` (iterations) and ``released``.

    Raises:
        UserError: as ``read_rows`` and ``read_facts``; or there is no sweep.
    """
    if not paths:
        raise UserError("no sweep was given to collect; evaluate an experiment first.")
    return _ordered(pd.concat([_sweep(path) for path in sorted(paths)], ignore_index=True))


def load(path: Path) -> pd.DataFrame:
    """Read the results that ``write_csv`` wrote, with the types that ``collect`` gave them.

    Raises:
        UserError: as ``read_rows``; or no row is of the suite's own protocol.
    """
    rows = read_rows(path, RESULT_TYPES)
    if not rows["main"].any():
        raise UserError(f"{path}: no row is of the suite's own protocol; make the file again.")
    return _ordered(rows)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically and without an index; floats keep every digit, text is one line."""
    plain = table.rename(columns=escape.printable)
    text = [name for name in plain if not pd.api.types.is_numeric_dtype(plain[name])]
    plain[text] = plain[text].map(escape.printable, na_action="ignore")
    with files.atomic(path) as temporary:
        plain.to_csv(temporary, index=False, lineterminator="\n")


def summarise(results: pd.DataFrame, every_protocol: bool = False) -> pd.DataFrame:
    """Average over images: the main rows, or those of every protocol.

    Images that are not ``comparable`` are left out.

    Returns:
        One row per operating point (the columns ``POINT``) with the means ``psnr_rgb``, ``psnr_y``
        (dB), ``ssim``, those of metrics of other packages, ``share_*``, ``units``, ``lr_pixels``,
        ``overlap`` (LR pixels processed over those of the image) and, for each count of FLOPs,
        ``gflops_*`` (1e9 per image) and ``unlapped_*``, the GFLOPs if no pixel were processed
        twice; ``SIZES``, NaN where a sweep lacks them; ``images``, the number of images, and
        ``exact``, how many more were left out because they are restored exactly.
    """
    left_out = results[_exact(results)].groupby(PLACE)["image"].nunique()
    results = comparable(results)
    rows = results if every_protocol else results[results["main"]]
    overlap = rows["lr_pixels"] / (rows["lr_height"] * rows["lr_width"])
    measured = rows.assign(overlap=overlap, **{name: rows.get(name, np.nan) for name in SIZES})
    for convention in COUNTS:
        gflops = rows[f"flops_{convention}"] / 1e9
        measured[f"gflops_{convention}"] = gflops
        measured[f"unlapped_{convention}"] = gflops / overlap
    measures = [
        *("psnr_rgb", "psnr_y", "ssim", *other_metrics(results)),
        *(*share_columns(results), "units", "lr_pixels", "overlap"),
        *(f"{kind}_{convention}" for kind in ("gflops", "unlapped") for convention in COUNTS),
        *SIZES,
    ]
    points = measured.groupby(list(POINT), dropna=False)
    summary = points[measures].mean()
    summary["images"] = points["image"].nunique()
    summary = summary.reset_index().join(left_out.rename("exact"), on=PLACE)
    return summary.astype({"exact": "Int64"}).fillna({"exact": 0})


def comparable(results: pd.DataFrame) -> pd.DataFrame:
    """Keep the images that count in means: those that no point of their place restores exactly.

    All points of a test set, backbone and scale are then means over the same images
    (``metrics.comparable``). Images with other infinite metrics are left out as well.

    Raises:
        UserError: no image of a place is left.
    """
    kept = results[~_exact(results)]
    for place in set(results.groupby(PLACE).groups) - set(kept.groupby(PLACE).groups):
        raise UserError(
            f"results: every image of {place[0]} is restored exactly by a method of {place[1]}, so "
            "that no mean PSNR exists; take the test set out of the suite."
        )
    return kept


def _exact(results: pd.DataFrame) -> pd.Series:
    """Tell which rows are of an image that some point of its place restores exactly."""
    measures = results[["psnr_rgb", "psnr_y", "ssim", *other_metrics(results)]]
    infinite = measures.isin([np.inf, -np.inf]).any(axis="columns")
    return infinite.groupby([results[name] for name in (*PLACE, "image")]).transform("any")


def exact_images(results: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per place on the images left out of means because restored exactly."""
    for (test_set, backbone, scale), rows in results[_exact(results)].groupby(PLACE):
        names = ", ".join(sorted(set(rows["image"])))
        yield (
            f"Left out of all means of {backbone} on {test_set}, x{scale:g}, because some point "
            f"restores them exactly (infinite PSNR): {names}."
        )


def common_images(results: pd.DataFrame) -> pd.DataFrame:
    """Keep, for each test set, backbone and scale, the images measured on every curve."""
    named = results.assign(curve=labels(results))
    curves = named.groupby(PLACE)["curve"].transform("nunique")
    measured = named.groupby([*PLACE, "image"])["curve"].transform("nunique")
    return results[measured == curves]


def share_columns(table: pd.DataFrame) -> list[str]:
    """Return the names ``share_0``, ``share_1``, ... that the table has, cheapest branch first."""
    names = [name for name in table.columns if re.fullmatch("share_[0-9]+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("share_")))


def other_metrics(results: pd.DataFrame) -> list[str]:
    """Return the metrics of other packages: numeric columns that are not the suite's own."""
    own = {*RESULT_TYPES, *SIZES, *share_columns(results)}
    return [name for name in results.select_dtypes("float") if name not in own]


def heavy_share(table: pd.DataFrame) -> pd.Series:
    """Return each row's share of its most expensive branch, 0 to 1."""
    return table[share_columns(table)].ffill(axis="columns").iloc[:, -1]


def labels(summary: pd.DataFrame) -> pd.Series:
    """Name each row's curve: its method, with the experiment where a method has several."""
    curves = summary.groupby(["test_set", "backbone", "method"])["experiment"]
    several = curves.transform("nunique") > 1
    method = summary["method"]
    return method.where(~several, method + " (" + summary["experiment"] + ")")


def knob_text(point: pd.Series) -> str:
    """Return an operating point's knob as text: a number, ``ADM``, or nothing."""
    if point["adaptive"]:
        return "ADM"
    return "" if pd.isna(point["knob"]) else f"{point['knob']:g}"


def lr_text(lr: str) -> str:
    """Return how LR was made, as text: ``8-bit``, ``float``, ``8-bit selfexsr``."""
    return lr.replace("8bit", "8-bit")


def protocol_text(summary: pd.DataFrame) -> str:
    """Say in words how the rows were measured; several protocols are joined by ``;``."""

    def words(lr: str, crop: str, refine: bool) -> str:
        cropped = "cropped to whole tiles" if crop == "tiles" else "not cropped"
        return f"{lr_text(lr)} LR, {cropped}, {'refined' if refine else 'not refined'}"

    return "; ".join(dict.fromkeys(map(words, *(summary[name] for name in PROTOCOL))))


def training_text(results: pd.DataFrame) -> str:
    """Say in a few words who trained the weights of these rows, and for how long."""
    steps = results.loc[~results["released"], "training"].dropna().astype(int)
    texts = ["released by the papers' authors"] if results["released"].any() else []
    if len(steps):
        span = " to ".join(f"{count:,}" for count in sorted({steps.min(), steps.max()}))
        texts.append(f"trained for {span} steps")
    return ", or ".join(texts)


def training_note(results: pd.DataFrame) -> Iterator[str]:
    """Yield ``training_text`` as a sentence, if it is known, with a warning of short training."""
    if text := training_text(results):
        short = results.loc[~results["released"], "training"].lt(RECIPES[0]).any()
        yield f"Weights: {text}.{SHORT_TRAINING if short else ''}"


def read_facts(model: type[ConfigT], path: Path) -> ConfigT:
    """Read the JSON file beside a result; a UserError names a missing file or a wrong key."""
    try:
        facts = content.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make the result again.") from None
    return parse(model, facts, str(path))


def _sweep(path: Path) -> pd.DataFrame:
    places = path.absolute().parent.parts[-len(PLACE_TYPES) :]
    if len(places) < len(PLACE_TYPES):
        raise UserError(
            f"{path}: its folders name the suite, experiment and test set, and it has too few; put "
            "it where a sweep belongs, as results/mine/carn-mine/urban100/sweep.csv."
        )
    sidecar = read_facts(Sidecar, files.sidecar(path))
    frame = read_rows(path, SWEEP_TYPES).assign(**dict(zip(PLACE_TYPES, places, strict=True)))
    own = sidecar.protocol.columns()
    return frame.assign(
        main=(frame[list(own)] == pd.Series(own)).all(axis="columns"),
        complete=sidecar.complete,
        training=sidecar.iterations,
        released=sidecar.released,
    ).astype(FACT_TYPES)


def _ordered(results: pd.DataFrame) -> pd.DataFrame:
    shares = share_columns(results)
    order = [name for name in (*PLACE_TYPES, *SWEEP_TYPES) if name not in shares]
    after_ssim, units = order.index("ssim") + 1, order.index("units")
    head = [*order[:after_ssim], *other_metrics(results), *order[after_ssim:units]]
    sizes = [name for name in SIZES if name in results]
    return results[[*head, *sizes, *shares, *order[units:], *FACT_TYPES]]
