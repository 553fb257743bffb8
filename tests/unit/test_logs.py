"""Published knobs: lines of test logs and points of curves, beside results that are invented."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pcsr.config.load import load_datasets, load_study
from pcsr.config.published import AtKnobs, Claims, load_claims
from pcsr.errors import UserError
from pcsr.report.claims import logs

ROOT = Path(__file__).parents[2]
ARM = {"carn": 1154.875392, "fsrcnn": 467.877892, "srresnet": 5193.990144}
TILES = 126


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the files of lines are relative to it


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims(ROOT / "configs/claims.yaml")


def measured(lines: pd.DataFrame, backbone: str, test_set: str, knob: float) -> pd.DataFrame:
    """Results of a run: some tiles bicubic, the others by the full width, with the logged FLOPs."""
    full = lines["mflops_per_tile"] / ARM[backbone]
    rows = pd.DataFrame(
        {
            "image": lines.index,
            "experiment": f"{backbone}-arm",
            "test_set": test_set,
            "backbone": backbone,
            "method": "arm",
            "scale": 4.0,
            "knob": knob,
            "adaptive": False,
            "lr": "8bit",
            "crop": "tiles",
            "refine": True,
            "released": True,
            "complete": True,
            "psnr_rgb": lines["psnr_rgb"].to_numpy(),
            "flops_paper": 1e6 * TILES * lines["mflops_per_tile"].to_numpy(),
            "units": TILES,
        }
    )
    return rows.assign(share_0=1 - full.to_numpy(), share_1=0.0, share_2=0.0, share_3=full.array)


def lines_of(known: AtKnobs, backbone: str, test_set: str, knob: float) -> pd.DataFrame:
    return logs.read_lines(Path(known.lines[test_set]), backbone, knob)


def page(results: pd.DataFrame, claims: Claims) -> str:
    return "\n".join(logs.sections(results, claims))


def row_of(text: str, *cells: str) -> str:
    (row,) = re.findall(rf"^\| {re.escape(' | '.join(cells))} \|.*$", text, re.MULTILINE)
    return row


# -- what is published ---------------------------------------------------------------------------


def test_all_lines_of_all_runs_are_there_and_agree_with_the_totals(claims: Claims) -> None:
    """3,600 lines; a larger eta never takes a cheaper branch; the totals lie among the images."""
    known = claims.at_knobs[0]
    count = 0
    for log in known.logs:
        costs = np.array(known.costs[log.backbone])
        assert {tiles[0] for _, tiles in log.runs} == {log.runs[0][1][0]}  # bicubic: by edges alone
        runs = []
        for knob, tiles in sorted(log.runs):
            assert sum(tiles) == claims.tiles[log.test_set]
            lines = lines_of(known, log.backbone, log.test_set, knob)
            mean = tiles @ costs / sum(tiles)
            assert len(lines) == lines.index.nunique() == claims.images[log.test_set]
            assert lines.notna().all(axis=None) and lines["psnr_rgb"].between(15, 50).all()
            assert lines["mflops_per_tile"].between(0, costs[-1] + 0.005).all()
            assert mean == pytest.approx(lines["mflops_per_tile"].mean(), rel=0.04)
            count += len(lines)
            runs.append((lines["mflops_per_tile"], mean))
        assert all((a <= b + 0.005).all() and m <= n for (a, m), (b, n) in pairwise(runs))
    assert (count, len(known.logs)) == (3600, 12)


def test_sets_have_one_number_of_tiles_and_suites_the_published_knobs(claims: Claims) -> None:
    datasets = load_datasets(ROOT / "configs/datasets.yaml")
    assert {name: one.tiles for name, one in datasets.items() if one.tiles} == claims.tiles
    known = claims.at_knobs[0]
    suite = load_study(ROOT / "configs/suites/arm-logs.yaml").suite
    published = {knob for log in known.logs for knob, _ in log.runs}
    published |= {knob for curve in known.curves for knob, *_ in curve.points}
    assert published <= set(suite.knobs["arm"])
    assert set(known.lines) <= set(suite.test_sets)


def test_a_cell_per_tile_is_one_per_image(claims: Claims) -> None:
    """PCSR's table holds two cells of ARM's runs per image, the log has them per tile."""
    cells = {row.model: row for row in claims.models}
    arm, enaf = cells["FSRCNN-ARM"], cells["FSRCNN-ENAF-L"]
    run = claims.at_knobs[0].logs[1].runs[1][1]
    mflops = np.dot(run, claims.at_knobs[0].costs["fsrcnn"]) / sum(run)
    alike = enaf.model_copy(update={"cells": {"test2k": (25.61, mflops)}})
    found, published = claims.cell(alike, "test2k"), claims.cell(arm, "test2k")
    assert found is not None and published is not None
    assert found[1] == pytest.approx(published[1], abs=0.05)
    assert claims.cell(enaf, "test2k") == (25.64, pytest.approx(316 * 123.2 / 1000))
    assert claims.cell(enaf, "urban100") is None


def test_published_numbers_that_contradict_each_other_are_refused(claims: Claims) -> None:
    whole = claims.model_dump()

    def changed(**given: object) -> dict[str, object]:
        return {**whole, "at_knobs": [{**whole["at_knobs"][0], **given}]}

    log = {"backbone": "carn", "test_set": "f2k", "runs": [(4, (1945, 0, 0, 18697))]}
    bad = {
        "has not all tiles of f2k": changed(logs=[log]),
        "counts tiles of 4 branches": changed(logs=[log | {"runs": [(4, (1945, 18698))]}]),
        "needs lines and costs": changed(lines={}),
        "has no entry under protocols": changed(method="arms"),
        "no entry under tiles": whole | {"tiles": {}, "at_knobs": []},
    }
    for message, values in bad.items():
        with pytest.raises(ValidationError, match=message):
            Claims.model_validate(values)


# -- what is compared ----------------------------------------------------------------------------


def test_every_line_of_a_run_is_compared(claims: Claims) -> None:
    known, place = claims.at_knobs[0], ("carn", "test2k", 1.38)
    lines = lines_of(known, *place)
    off = lines.copy()
    off.loc["1232", "psnr_rgb"] += 0.0021
    off.loc["1250", "mflops_per_tile"] -= 0.5
    near = lines.assign(psnr_rgb=lines["psnr_rgb"] + 0.00099)
    near["mflops_per_tile"] -= 0.0099
    expected = {"100 of 100": lines, "98 of 100": off}
    for agree, numbers in expected.items():
        text = page(measured(numbers, *place), claims)
        row = row_of(text, "carn-arm", "test2k", "1.38", "100 of 100")
        # The invented run has other branches than the logged one.
        tiles = r"tiles \d+/0/0/\d+, not 1950/877/2753/6740"
        assert re.search(rf"{agree} images agree; {tiles} \|", row)
    worst = text.partition("Largest differences")[2].splitlines()
    assert worst[4].startswith("| carn-arm | test2k | 1.38 | 1250 |")
    assert worst[5] == "| carn-arm | test2k | 1.38 | 1232 | 29.2785 | 29.2806 | 632.59 | 632.59 |"
    assert "100 of 100 images agree" in page(measured(near, *place), claims)
    assert "arm, 35 runs of its test logs (f2k, test2k, test4k, test8k); arm, 43 points" in text


def test_some_images_are_compared_with_their_own_lines(claims: Claims) -> None:
    place = ("fsrcnn", "f2k", 1.5)
    lines = lines_of(claims.at_knobs[0], *place)
    text = page(measured(lines[:3], *place), claims)
    row = row_of(text, "fsrcnn-arm", "f2k", "1.5", "3 of 100").split(" | ")
    assert row[4] == row[5] == f"{lines['psnr_rgb'][:3].mean():.4f}"
    assert row[6] == row[7] and row[8] == "3 of 3 images agree |"
    renamed = lines[:3].set_axis(["a", "b", "c"])
    row = row_of(page(measured(renamed, *place), claims), "fsrcnn-arm", "f2k", "1.5", "0 of 100")
    assert row.endswith("| - | - | - | - | no image is in the log |")


def test_tiles_of_each_branch_are_those_of_the_log(claims: Claims) -> None:
    """CARN on F2K at eta 4 takes bicubic or the full width, so that an invented run can agree."""
    place = ("carn", "f2k", 4.0)
    results = measured(lines_of(claims.at_knobs[0], *place), *place)
    results["units"] = [206] * 57 + [207] * 43
    results["share_3"] = 18698 / 20643
    results["share_0"] = 1945 / 20643
    assert "; tiles of each branch as logged |" in page(results, claims)


def test_without_such_a_point_there_is_one_line(claims: Claims) -> None:
    place = ("carn", "test2k", 1.38)
    results = measured(lines_of(claims.at_knobs[0], *place), *place)
    others = {
        "released": False,
        "lr": "float",
        "crop": "none",
        "adaptive": True,
        "scale": 2.0,
        "knob": 1.37,
        "test_set": "test2k-from-div8k",
        "backbone": "cairn",
        "method": "classsr",
    }
    for column, value in others.items():
        heading, blank, line, *rest = page(results.assign(**{column: value}), claims).splitlines()
        assert (heading, blank, rest) == ("## At published knobs", "", [""][: len(rest)])
        assert line.startswith("Not measured with released weights: arm, 36 runs of its test logs")
    assert page(results, claims.model_copy(update={"at_knobs": ()})) == ""


def test_a_point_of_a_curve_is_judged_on_the_whole_set(claims: Claims) -> None:
    place = ("carn", "test8k", 1.94)
    lines = lines_of(claims.at_knobs[0], *place)
    results = measured(lines, *place)
    psnr, mflops = lines["psnr_rgb"].mean(), lines["mflops_per_tile"].mean()

    def verdict(results: pd.DataFrame, *point: float, **known: object) -> str:
        curve = {"backbone": "carn", "test_set": "test8k", "points": (point,)}
        alone = AtKnobs.model_validate(
            {"method": "arm", "source": "a figure", "curves": [curve], **known}
        )
        text = page(results, claims.model_copy(update={"at_knobs": (alone,)}))
        return row_of(text, "carn-arm", "test8k", "1.94", f"{len(results)} of 100").split(" | ")[-1]

    costs = {"costs": {"carn": (0, 0, 0, ARM["carn"])}}
    for counted in ({}, costs):
        assert verdict(results, 1.94, mflops + 0.9, psnr - 0.009, **counted) == "agrees |"
        assert verdict(results, 1.94, mflops, **counted) == "agrees |"
        assert verdict(results, 1.94, mflops + 1.1, psnr, **counted) == "differs |"
    assert verdict(results, 1.94, mflops, psnr + 0.02) == "differs |"
    assert verdict(results[:99], 1.94, mflops, psnr) == "partial |"
    assert verdict(results.assign(complete=False), 1.94, mflops, psnr) == "partial |"


def test_a_file_of_lines_that_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "text.csv").write_text("backbone,carn\nknob,4\nimage,psnr_rgb\n1,x\n")
    (tmp_path / "other.csv").write_bytes((ROOT / "configs/logs/arm-f2k.csv").read_bytes()[:3000])
    for name in ("none", "empty", "text", "other"):
        with pytest.raises(UserError, match=rf"{name}\.csv: no lines of carn at knob 5 .*at_knobs"):
            logs.read_lines(tmp_path / f"{name}.csv", "carn", 5)
