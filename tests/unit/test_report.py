"""The report: numbers, verdicts and files from a small invented sweep."""

import json
import re
import types
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from docutils.core import publish_string
from pydantic import ValidationError

from pcsr.config.published import Claims, load_claims
from pcsr.errors import UserError
from pcsr.report import inputs, tables, tidy
from pcsr.report.claims import page as claim
from pcsr.report.claims.published import at, knobs_text
from pcsr.report.columns import BOUNDS, SHARE, SWEEP_TYPES
from pcsr.report.figures import showcase, style
from pcsr.report.figures.psnr_flops import psnr_flops
from pcsr.report.figures.saving import SUFFIXES, save

REPOSITORY = Path(__file__).parents[2]
KNOBS = (-25.0, -8.0, -1.0, 0.0, 1.0, 8.0, 25.0)
BRIGHTNESS = (-1.0, 0.0, 1.0)  # dB that an image adds to the mean
PSNR, GFLOPS = 24.06, 49.3  # of the original, mean over images


def row(image, method, knob, adaptive, heavy, psnr, gflops):
    shares = {"share_0": 1.0} if method == "original" else {"share_0": 1 - heavy, "share_1": heavy}
    return {
        "image": f"080{image}",
        "method": method,
        "backbone": "carn",
        "scale": 4,
        "knob": knob,
        "adaptive": adaptive,
        "lr": "8bit",
        "crop": "tiles",
        "refine": True,
        "psnr_rgb": psnr + BRIGHTNESS[image],
        "psnr_y": psnr + 1.5 + BRIGHTNESS[image],
        "ssim": 0.74,
        "flops_paper": gflops * 1e9 * (1 + 0.1 * BRIGHTNESS[image]),
        "flops_algorithmic": 0.5e9 * gflops,
        "flops_engine": 0.4e9 * gflops,
        **shares,
        "units": 1,
        "lr_pixels": 128 * 160,
        "lr_height": 128,
        "lr_width": 160,
        "seconds": 0.1,
        "weights": "0a1b2c",
    }


def pcsr_rows(knobs=KNOBS):
    """A router whose heavy share falls from 1 to 0 with the knob; PSNR falls with its square."""
    rows = []
    for knob in (*knobs, None):
        heavy = 1 / (1 + np.exp(0.9 * (0.3 if knob is None else knob)))
        psnr, gflops = PSNR - 0.8 * (1 - heavy) ** 2, 24 + 26 * heavy
        rows += [row(i, "pcsr", knob, knob is None, heavy, psnr, gflops) for i in range(3)]
    return rows


def write_sweep(root, experiment, rows, test_set="urban100", **facts):
    path = root / "results" / "quick" / experiment / test_set / "sweep.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    told = {
        "protocol": {"lr": "8bit", "crop": "tiles", "refine": True},
        "complete": True,
        "images": 3,
        "iterations": 2_500_000,
        "commit": "0123456789abcdef",
        "seed": 0,
        **facts,
    }
    path.with_suffix(".json").write_text(json.dumps(told))
    return path


def original_rows():
    return [row(i, "original", None, False, 1.0, PSNR, GFLOPS) for i in range(3)]


@pytest.fixture
def sweeps(tmp_path):
    return [
        write_sweep(tmp_path, "carn-pcsr", pcsr_rows()),
        write_sweep(tmp_path, "carn-original", original_rows()),
    ]


@pytest.fixture
def results(sweeps):
    return tidy.collect(sweeps)


@pytest.fixture
def summary(results):
    return tidy.summarise(results)


def test_collect_takes_names_from_the_path_and_protocol_from_the_sidecar(sweeps):
    results = tidy.collect(sweeps)
    assert len(results) == 3 * (len(KNOBS) + 2)
    assert set(results["experiment"]) == {"carn-original", "carn-pcsr"}
    assert set(results["suite"]) == {"quick"}
    assert set(results["test_set"]) == {"urban100"}
    assert set(results["lr"]) == {"8bit"}
    assert results["main"].all()
    assert results["complete"].all()
    assert set(results["image"]) == {"0800", "0801", "0802"}
    pd.testing.assert_frame_equal(results, tidy.collect(sweeps[::-1]))


def test_results_come_back_with_their_types(sweeps, tmp_path):
    released = write_sweep(tmp_path, "carn-x", original_rows(), iterations=None, modified=True)
    results = tidy.collect([*sweeps, released])
    tidy.write_csv(results, tmp_path / "results.csv")
    again = tidy.load(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(results, again)
    assert again["training"].isna().sum() == 3


def test_the_same_results_keep_the_facts_of_the_first_time(sweeps, tmp_path):
    out = tmp_path / "results.csv"
    released = write_sweep(tmp_path, "carn-x", original_rows(), modified=True)
    tidy.write_results(sweeps=[*sweeps, released], out=out)
    table, facts = out.read_bytes(), json.loads((tmp_path / "results.json").read_text())
    assert not {"seconds", "commit"} & set(tidy.load(out))
    assert facts["sweeps"][str(released)] == "0123456789abcdef with changes"
    assert facts["sweeps"][str(sweeps[0])] == "0123456789abcdef"
    slower = pd.read_csv(released, dtype=str).assign(seconds="9.0")
    slower.to_csv(released, index=False)
    before = (tmp_path / "results.json").read_bytes()
    out.unlink()  # as Snakemake does before a job
    tidy.write_results(sweeps=[*sweeps, released], out=out)
    assert out.read_bytes() == table and (tmp_path / "results.json").read_bytes() == before
    tidy.write_results(sweeps=sweeps, out=out)
    assert json.loads((tmp_path / "results.json").read_text())["sweeps"].keys() == set(
        map(str, sweeps)
    )


@pytest.mark.parametrize(
    ("column", "change", "stays"),
    [
        ("psnr_rgb", 2e-5, True),  # another processor
        ("share_0", -1e-5, True),
        ("psnr_rgb", 2e-4, False),
        ("flops_paper", 1e8, False),
        ("lr_width", 1, False),
        ("weights", "others", False),
    ],
)
def test_results_that_agree_leave_the_table_in_place(sweeps, tmp_path, column, change, stays):
    out = tmp_path / "results.csv"
    tidy.write_results(sweeps=sweeps, out=out)
    table, facts = out.read_bytes(), (tmp_path / "results.json").read_bytes()
    rows = pd.read_csv(sweeps[1], dtype={"image": str})
    rows.loc[0, column] = change if isinstance(change, str) else rows.loc[0, column] + change
    rows.to_csv(sweeps[1], index=False)
    tidy.write_results(sweeps=sweeps, out=out)
    assert (out.read_bytes() == table) is stays
    assert ((tmp_path / "results.json").read_bytes() == facts) is stays


@pytest.mark.parametrize(
    ("rows", "change", "stays"),
    [(1, 1e-3, True), (1, 0.01, True), (1, 0.06, False), (2, 1e-3, False)],
)
def test_one_row_in_a_thousand_may_differ_by_more(tmp_path, rows, change, stays):
    out = tmp_path / "results.csv"
    for moved in (0.0, change):
        table = pd.DataFrame(original_rows()[:1] * 1500)
        table["image"] = [f"{number:04}" for number in range(1500)]
        table.loc[: rows - 1, "psnr_rgb"] += moved
        sweep = write_sweep(tmp_path, "carn-original", table)
        before = out.read_bytes() if moved else b""
        tidy.write_results(sweeps=[sweep], out=out)
    assert (out.read_bytes() == before) is stays


def test_a_table_edited_by_hand_is_made_again(sweeps, tmp_path):
    out = tmp_path / "results.csv"
    tidy.write_results(sweeps=sweeps, out=out)
    table = out.read_bytes()
    rows = tidy.load(out)
    tidy.write_csv(rows.assign(psnr_rgb=rows["psnr_rgb"] + 1e-5), out)
    tidy.write_results(sweeps=sweeps, out=out)
    assert out.read_bytes() == table


def test_summary_is_the_mean_over_images(summary):
    assert len(summary) == len(KNOBS) + 2
    assert set(summary["images"]) == {3}
    original = summary[summary["method"] == "original"].iloc[0]
    assert original["psnr_rgb"] == pytest.approx(PSNR)
    assert original["gflops_paper"] == pytest.approx(GFLOPS)
    assert original["gflops_algorithmic"] == pytest.approx(GFLOPS / 2)
    swept = summary.dropna(subset="knob").sort_values("knob")
    for falling in ("psnr_rgb", "gflops_paper", "share_1"):
        assert swept[falling].is_monotonic_decreasing
    assert swept["share_0"].is_monotonic_increasing


def test_only_the_suites_own_protocol_is_averaged(sweeps, tmp_path, summary):
    float_lr = [row | {"lr": "float", "psnr_rgb": 50.0} for row in original_rows()]
    both = write_sweep(tmp_path, "carn-original", original_rows() + float_lr)
    results = tidy.collect([sweeps[0], both])
    assert (~results["main"]).sum() == 3
    pd.testing.assert_frame_equal(tidy.summarise(results), summary)


def test_overlap_is_reported_separately(tmp_path):
    rows = [row | {"units": 24, "lr_pixels": 24 * 1024} for row in original_rows()]
    summary = tidy.summarise(tidy.collect([write_sweep(tmp_path, "carn-x", rows)]))
    assert summary["overlap"].item() == pytest.approx(1.2)
    assert summary["unlapped_paper"].item() == pytest.approx(GFLOPS / 1.2)
    assert summary["unlapped_algorithmic"].item() == pytest.approx(GFLOPS / 2.4)
    table = tables.operating_points(summary)
    assert (table["Units"].item(), table["LR pixels"].item()) == (24, 24 * 1024)


def test_heavy_share_is_that_of_the_most_expensive_branch():
    table = pd.DataFrame({"share_10": [np.nan, 0.1], "share_2": [0.7, 0.2], "share_0": [0.3, 0.7]})
    assert tidy.share_columns(table) == ["share_0", "share_2", "share_10"]
    assert tidy.heavy_share(table).tolist() == [0.7, 0.1]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text(""), "cannot be read"),
        (lambda path: path.write_text(path.read_text().splitlines()[0]), "no rows"),
        (lambda path: path.write_text("image,method\n1,pcsr\n"), "'backbone'"),
        (lambda path: path.write_text(path.read_text().replace("True", "maybe")), "cannot be read"),
        (lambda path: path.with_suffix(".json").unlink(), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text("{}"), "protocol"),
    ],
)
def test_a_damaged_sweep_is_named(sweeps, spoil, told):
    spoil(sweeps[0])
    with pytest.raises(UserError, match=told) as error:
        tidy.collect(sweeps)
    assert str(sweeps[0].with_suffix("")) in str(error.value)


def test_numbers_that_are_missing_are_named(sweeps):
    told = sweeps[0].read_text()
    names = [name for name in SWEEP_TYPES if name.startswith(("psnr", "ssim", "flops"))]
    for spoilt in ([names[0]], [names[-1]], names):
        table = pd.read_csv(sweeps[0])
        table[spoilt] = np.nan
        table.to_csv(sweeps[0], index=False)
        with pytest.raises(UserError, match="lacks numbers in the column") as error:
            tidy.collect(sweeps)
        assert all(f"'{name}'" in str(error.value) for name in spoilt)
        sweeps[0].write_text(told)
    results = sweeps[0].with_name("results.csv")
    tidy.write_csv(tidy.collect(sweeps).assign(psnr_rgb=np.nan), results)
    with pytest.raises(UserError, match=r"results.csv: lacks numbers in the column 'psnr_rgb'"):
        tidy.load(results)


def test_numbers_that_cannot_be_are_named_with_their_line(sweeps):
    results = sweeps[0].with_name("results.csv")
    sound = tidy.collect(sweeps)
    bounds = {**BOUNDS, "share_0": SHARE}
    for path, table, read in (
        (sweeps[0], pd.read_csv(sweeps[0]), lambda: tidy.collect(sweeps)),
        (results, sound, lambda: tidy.load(results)),
    ):
        told = path.read_text() if path.exists() else ""
        for column in bounds.keys() & set(table):
            low, high = bounds[column]
            for number in (low - 1, -np.inf, *([high * 2 + 1, np.inf] if high < np.inf else [])):
                if np.isinf(number) and table[column].dtype.kind in "iI":
                    continue  # no whole number
                wrong = table.astype({column: "float64"})
                wrong.loc[3, column] = number
                whole = table[column].dtype.kind in "iI"
                tidy.write_csv(wrong.astype({column: "Int64"}) if whole else wrong, path)
                with pytest.raises(UserError, match=f"{path.name}: line 5: {column}: ") as error:
                    read()
                assert "\n" not in str(error.value)
        tidy.write_csv(pd.concat([table, table.iloc[[1]]]), path)
        with pytest.raises(UserError, match=rf"line {len(table) + 2}: image: .* appears twice"):
            read()
        path.write_text(told)
    tidy.write_csv(sound.assign(main=False), results)
    with pytest.raises(UserError, match=r"results.csv: no row is of the suite's own protocol"):
        tidy.load(results)


def test_a_sweep_of_several_methods_has_each_image_once_a_method(tmp_path):
    classsr = [one | {"method": "classsr"} for one in pcsr_rows()]
    path = write_sweep(tmp_path, "carn", [*pcsr_rows(), *classsr])
    assert set(tidy.summarise(tidy.collect([path]))["method"]) == {"pcsr", "classsr"}


def test_a_sweep_in_too_few_folders_is_an_error():
    with pytest.raises(UserError, match=r"/tmp/sweep\.csv: its folders name the suite"):
        tidy.collect([Path("/tmp/sweep.csv")])


def test_nothing_to_collect_is_an_error():
    with pytest.raises(UserError, match="no sweep"):
        tidy.collect([])


def test_operating_points(summary):
    table = tables.operating_points(summary)
    assert table["Method"].tolist() == ["original"] + ["pcsr"] * (len(KNOBS) + 1)
    assert table["Knob"].tolist() == ["", "ADM", *(f"{knob:g}" for knob in KNOBS)]
    first, all_heavy, balanced = table.iloc[0], table.iloc[2], table.iloc[5]
    assert np.isnan(first["vs original (dB)"])
    assert first["% of original (paper)"] == pytest.approx(100)
    assert all_heavy["vs original (dB)"] == pytest.approx(0, abs=1e-6)
    assert all_heavy["Heavy share (%)"] == pytest.approx(100)
    assert balanced["vs original (dB)"] == pytest.approx(-0.2)
    assert balanced["% of original (paper)"] == pytest.approx(100 * 37 / GFLOPS)
    assert balanced["% of original (algorithmic)"] == pytest.approx(100 * 37 / GFLOPS)
    assert balanced["Heavy share (%)"] == pytest.approx(50)


def test_the_cheapest_point_within_a_tolerance_is_marked(tmp_path):
    paths = [
        write_sweep(tmp_path, "carn-original", original_rows()),
        write_sweep(
            tmp_path,
            "carn-pcsr",
            [
                row(0, "pcsr", 0.0, False, 1.0, PSNR, 50),
                row(0, "pcsr", 1.0, False, 0.8, PSNR - 0.02, 45),
                row(0, "pcsr", 2.0, False, 0.6, PSNR - 0.05, 40),
                row(0, "pcsr", 3.0, False, 0.4, PSNR - 0.06, 35),
            ],
        ),
    ]
    results = tidy.collect(paths)
    table = tables.operating_points(tidy.summarise(results[results["image"] == "0800"]))
    notes = dict(zip(table["Knob"], table["Note"], strict=True))
    assert notes == {
        "": "",
        "0": "",
        "1": "cheapest within 0.02 dB",
        "2": "cheapest within 0.05 dB",
        "3": "",
    }


def test_without_an_original_the_comparisons_are_blank(sweeps):
    table = tables.operating_points(tidy.summarise(tidy.collect(sweeps[:1])))
    assert table["vs original (dB)"].isna().all()
    assert (table["Note"] == "").all()


def test_several_experiments_of_one_method_are_told_apart(sweeps, tmp_path):
    more = write_sweep(tmp_path, "carn-pcsr-m3", pcsr_rows())
    table = tables.operating_points(tidy.summarise(tidy.collect([*sweeps, more])))
    assert set(table["Method"]) == {"original", "pcsr (carn-pcsr)", "pcsr (carn-pcsr-m3)"}


def test_tables_are_written_as_markdown_latex_and_csv(summary, tmp_path):
    table = tables.operating_points(summary)
    for suffix in (".md", ".tex", ".csv"):
        tables.write(table, tmp_path / f"points{suffix}")
    page = (tmp_path / "points.md").read_text()
    assert "## CARN on Urban100, x4\n\nImages: 3.\n" in page
    best = "| original |  | **24.060** | - | **25.560** | 0.7400 | **49.30** | **24.65** |"
    assert best in page  # of what is as good, nothing is cheaper
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1
    latex = (tmp_path / "points.tex").read_text()
    assert r"\toprule" in latex
    assert r"\% of original (paper)" in latex
    assert not re.search(r"(?<!\\)%", latex)
    assert len(pd.read_csv(tmp_path / "points.csv")) == len(table)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "points.md",
        "points.tex",
        "points.csv",
    }
    with pytest.raises(UserError, match=r"\.xls"):
        tables.write(table, tmp_path / "points.xls")


def test_a_rounded_zero_has_no_sign_and_a_bar_is_escaped():
    text = tables.rounded(pd.DataFrame({"a": [-0.0001, np.nan], "b": ["x|y", ""]}), {"a": 2})
    assert text.to_numpy().tolist() == [["0.00", "x|y"], ["-", ""]]
    assert tables.markdown(text, ["a"]).splitlines()[:3] == [
        "| a | b |",
        "| --: | :-- |",
        "| 0.00 | x\\|y |",
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_figures_are_the_same_bytes_each_time(results, tmp_path, suffix):
    before = dict(mpl.rcParams)
    written = []
    for name in ("one", "two"):
        save(psnr_flops(results, "urban100", "carn"), tmp_path / (name + suffix))
        written.append((tmp_path / (name + suffix)).read_bytes())
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0]
    assert dict(mpl.rcParams) == before


def test_a_failed_save_leaves_the_old_file(results, tmp_path, monkeypatch):
    path = tmp_path / "figure.svg"
    path.write_text("old")
    figure = psnr_flops(results, "urban100", "carn")

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_text() == "old"
    assert [other.name for other in tmp_path.glob("*figure*")] == ["figure.svg"]


def test_what_is_far_below_the_original_is_cut_and_said(tmp_path):
    low = [row(i, "pcsr", 50.0, False, 0.0, PSNR - 3, 20) for i in range(3)]
    paths = [
        write_sweep(tmp_path, "carn-pcsr", pcsr_rows() + low),
        write_sweep(tmp_path, "carn-original", original_rows()),
    ]
    for panel in psnr_flops(tidy.collect(paths), "urban100", "carn").axes:
        bottom, _ = panel.get_ylim()
        assert bottom > PSNR - 2
        texts = [text.get_text() for text in panel.texts]
        assert f"\u2193 {PSNR - 3:.1f} dB" in texts and "50" not in texts


@pytest.mark.parametrize("adaptive", [PSNR - 3, PSNR - 5])
def test_a_curve_far_below_the_original_has_a_point_in_the_panel(tmp_path, adaptive):
    low = [row(i, "pcsr", k, False, k / 2, PSNR - 4 + k, 20) for k in (0.0, 1.0) for i in range(3)]
    low += [row(i, "pcsr", None, True, 0.5, adaptive, 20) for i in range(3)]
    paths = [
        write_sweep(tmp_path, "carn-pcsr", low),
        write_sweep(tmp_path, "carn-original", original_rows()),
    ]
    drawn = psnr_flops(tidy.collect(paths), "urban100", "carn")
    drawn.draw_without_rendering()
    for panel in drawn.axes:
        bottom, _ = panel.get_ylim()
        for marker in "o*D":
            (line,) = [line for line in panel.get_lines() if line.get_marker() == marker]
            assert (line.get_ydata() > bottom).any()
        said = [text for text in panel.texts if "\u2193" in text.get_text()]
        assert len(said) == (bottom > PSNR - 4)
        for text in said:
            assert text.get_text() == f"\u2193 {PSNR - 4:.1f} dB"
            box = text.get_window_extent()
            assert panel.bbox.x0 <= box.x0 and box.x1 <= panel.bbox.x1


def test_a_curve_that_leaves_by_the_side_is_marked_there(tmp_path):
    """Far cheaper and far below: the axis of costs ends before the curve reaches the lower end."""
    # The last but one is high enough for the margin of the axis, and too cheap as well.
    points = ((0.0, PSNR, 50.0), (1.0, PSNR - 0.01, 45.0), (2.0, PSNR - 1.03, 2.0))
    points += ((3.0, PSNR - 3, 1.0),)
    low = [row(i, "arm", 1.0, False, 0.5, PSNR - 0.99, 45.0) for i in range(3)]
    rows = [row(i, "pcsr", k, False, 0.5, psnr, g) for k, psnr, g in points for i in range(3)]
    paths = [
        write_sweep(tmp_path, "carn-pcsr", rows),
        write_sweep(tmp_path, "carn-arm", low),
        write_sweep(tmp_path, "carn-original", original_rows()),
    ]
    drawn = psnr_flops(tidy.collect(paths), "urban100", "carn")
    drawn.draw_without_rendering()
    for panel in drawn.axes:
        (text,) = [text for text in panel.texts if "\u2193" in text.get_text()]
        (curve,) = [line for line in panel.get_lines() if line.get_marker() == "o"]
        at = np.interp(panel.get_xlim()[0], *curve.get_xydata()[::-1].T)
        assert abs(panel.transData.transform((0, at))[1] - text.get_window_extent().y0) < 40


def test_counts_that_agree_share_a_panel(results):
    paper = results["flops_paper"]
    same = results.assign(flops_algorithmic=1.004 * paper, flops_engine=0.995 * paper)
    (panel,) = psnr_flops(same, "urban100", "carn").axes
    assert panel.get_title() == "paper FLOPs (algorithmic and executed: the same)"
    panels = psnr_flops(same.assign(flops_engine=0.9 * paper), "urban100", "carn").axes
    titles = [panel.get_title() for panel in panels]
    assert titles == ["paper FLOPs (algorithmic: the same)", "executed FLOPs"]
    assert panels[1].get_lines()[2].get_xdata() == pytest.approx(0.9 * GFLOPS)


def test_a_static_network_that_is_counted_differently_gets_no_panel_but_is_named(results):
    fsrcnn = tidy.comparable(results[results["method"] == "original"]).assign(backbone="fsrcnn")
    both = pd.concat([results, fsrcnn]).assign(flops_engine=0.9 * results["flops_paper"].mean())
    both["flops_algorithmic"] = both["flops_paper"].where(both["backbone"] == "carn", 1e9)
    panel, _ = psnr_flops(both, "urban100", "carn").axes
    assert panel.get_title() == "paper FLOPs (algorithmic: the same but for FSRCNN)"


def test_markers_that_lie_on_each_other_have_no_text(tmp_path):
    paths = [write_sweep(tmp_path, "carn-original", original_rows())]
    for method, offset in (("arm", 0.0), ("pcsr", 0.002)):
        points = ((0.0, PSNR - 0.2, 40.0), (7.0, PSNR - 0.6, 30.0 if offset else 20.0))
        rows = [
            row(i, method, k, False, 0.5, p + offset, g) for k, p, g in points for i in range(3)
        ]
        paths.append(write_sweep(tmp_path, f"carn-{method}", rows))
    for panel in psnr_flops(tidy.collect(paths), "urban100", "carn").axes:
        assert [text.get_text() for text in panel.texts] == ["7", "7"]


def test_texts_neither_cover_nor_touch_each_other(tmp_path):
    paths = [write_sweep(tmp_path, "carn-original", original_rows())]
    for method, lower in (("arm", 0.03), ("pcsr", 0), ("classsr", 0.06)):
        rows = [
            one | {"method": method, "psnr_rgb": one["psnr_rgb"] - lower} for one in pcsr_rows()
        ]
        paths.append(write_sweep(tmp_path, f"carn-{method}", rows))
    figure = psnr_flops(tidy.collect(paths), "urban100", "carn")
    figure.draw_without_rendering()
    for panel in figure.axes:
        boxes = [text.get_window_extent() for text in panel.texts]
        assert len(boxes) >= 3
        for number, box in enumerate(boxes):
            others = boxes[:number] + boxes[number + 1 :]
            assert not box.padded(2 * figure.dpi / 72, 0).count_overlaps(others)


def test_methods_look_the_same_wherever_they_are_drawn():
    one, other = style.styles(["pcsr", "mine"]), style.styles(["arm", "mine", "original", "pcsr"])
    assert one["pcsr"] == other["pcsr"] == style.KNOWN["pcsr"] and one["mine"] == other["mine"]
    assert (
        len({look.knob_and_unit for look in style.KNOWN.values()}) == 3
    )  # k twice, two kinds of η
    looks = [*style.KNOWN.values(), *style.OTHERS]
    assert len({look.marker for look in looks}) == len({look.colour for look in looks}) == 7
    assert style.curve("pcsr (carn-pcsr-wide)") == "PCSR (carn-pcsr-wide)"
    assert style.curve("mine") == "mine"


def test_a_model_has_the_name_of_its_experiment_where_that_tells_more():
    called = [style.model("carn", "pcsr", one) for one in (None, "carn-pcsr", "carn-pcsr-wide")]
    assert called == ["CARN-PCSR", "CARN-PCSR", "CARN-PCSR-wide"]
    assert style.model("carn", "pcsr", "mine") == "CARN-PCSR (mine)"


def test_bands_are_intervals_of_the_difference_from_the_original(tmp_path):
    def many(rows):
        return [
            r | {"image": f"{r['image']}{n}", "psnr_rgb": r["psnr_rgb"] + n}
            for n in range(4)
            for r in rows
        ]

    paths = [
        write_sweep(tmp_path, "carn-pcsr", many(pcsr_rows())),
        write_sweep(tmp_path, "carn-original", many(original_rows())),
    ]
    figure = psnr_flops(tidy.collect(paths), "urban100", "carn")
    for panel in figure.axes:
        (band,) = panel.collections
        (curve,) = [line for line in panel.get_lines() if line.get_marker() == "o"]
        heights = band.get_paths()[0].vertices[:, 1]
        # The images differ by decibels, and the difference from the original on none.
        assert np.allclose(
            [heights.min(), heights.max()], [curve.get_ydata().min(), curve.get_ydata().max()]
        )


def test_every_panel_shows_every_point(results):
    figure = psnr_flops(results, "urban100", "carn")
    assert [panel.get_title() for panel in figure.axes] == [
        "paper FLOPs",
        "algorithmic FLOPs",
        "executed FLOPs",
    ]
    for panel in figure.axes:
        assert panel.get_xlabel() == "GFLOPs per image"
        drawn = [line.get_xydata() for line in panel.get_lines()]
        curve, star = drawn[3], drawn[4]
        assert len(curve) == len(KNOBS)
        assert len(star) == 1
        low, high = panel.get_ylim()
        assert ((low < curve[:, 1]) & (curve[:, 1] < high)).all()
        texts = {text.get_text() for text in panel.texts}
        assert {"0", "8 to 25"} <= texts
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["PCSR (k)", "value of the knob", "adaptive (ADM)", "original"]
    figure.draw_without_rendering()
    box = legend.get_window_extent()  # in the cell of a fourth panel
    assert not box.count_overlaps([panel.get_tightbbox() for panel in figure.axes])


def test_experiments_of_one_method_are_told_apart_by_line_and_face(sweeps, tmp_path):
    more = write_sweep(tmp_path, "carn-pcsr-m3", pcsr_rows())
    figure = psnr_flops(tidy.collect([*sweeps, more]), "urban100", "carn")
    kinds = {
        (line.get_color(), line.get_marker(), line.get_linestyle(), line.get_markerfacecolor())
        for line in (*figure.axes[0].get_lines(), *figure.legends[0].get_lines())
        if line.get_marker() == "o"
    }
    green = style.KNOWN["pcsr"].colour
    assert kinds == {(green, "o", "-", green), (green, "o", "--", "white")}


def test_a_legend_of_long_names_stays_inside_the_figure(tmp_path):
    paths = [write_sweep(tmp_path, "carn-original", original_rows())]
    paths += [write_sweep(tmp_path, f"carn-pcsr-{w * 9}", pcsr_rows()) for w in ("one", "two")]
    figure = psnr_flops(tidy.collect(paths), "urban100", "carn")
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width


def test_a_sweep_that_collapses_to_one_branch_is_one_labelled_point(tmp_path):
    paths = [
        write_sweep(tmp_path, "carn-pcsr", pcsr_rows((-25.0, -20.0, -15.0))),
        write_sweep(tmp_path, "carn-original", original_rows()),
    ]
    results = tidy.collect(paths)
    figure = psnr_flops(results[~results["adaptive"]], "urban100", "carn")
    for panel in figure.axes:
        assert np.ptp(panel.get_ylim()) >= 0.1
        assert [text.get_text() for text in panel.texts] == ["-25 to -15"]


@pytest.mark.parametrize("place", [("urban10", "carn"), ("urban100", "cairn")])
def test_a_figure_of_nothing_names_what_there_is(results, place):
    with pytest.raises(UserError, match="Did you mean"):
        psnr_flops(results, *place)


@pytest.fixture(scope="module")
def claims():
    """The published table, as if its sets had the three images of these sweeps."""
    published = load_claims(REPOSITORY / "configs" / "claims.yaml")
    return published.model_copy(update={"images": dict.fromkeys(published.images, 3)})


def test_every_published_cell_is_there(claims):
    of_pcsr = [row for row in claims.models if row.method != "enaf"]  # in PCSR's own table
    assert len(of_pcsr) == 12 and len(claims.models) == 21
    for row in claims.models:
        lacking = "f2k" if row in of_pcsr else "urban100"
        assert set(row.cells) == set(claims.images) - {lacking}
    carn = next(row for row in claims.models if row.model == "CARN-PCSR")
    assert carn.cells["urban100"] == (24.00, 29.6)
    for row in of_pcsr:  # bigger sets cost more, and each set has one order of sizes
        assert [
            row.cells[name][1] for name in ("urban100", "test2k", "test4k", "test8k")
        ] == sorted(cost for _, cost in row.cells.values())


@pytest.mark.parametrize("key", ["iterations", "protocols"])
def test_claims_refuse_a_method_without_its_training_length_or_protocol(claims, key):
    values = claims.model_dump()
    del values[key]["arm"]
    with pytest.raises(ValidationError, match=key):
        Claims.model_validate(values)


def verdicts(paths, claims):
    rows = claim.compare(tidy.collect(paths), claims)
    return {(row["Model"].split()[0], row["Test set"]): row for _, row in rows.iterrows()}


def test_verdicts(tmp_path, claims):
    close = [row(i, "original", None, False, 1, 24.08, 49.3 * 1.05) for i in range(3)]
    points = ((0.0, 40.0, 24.0), (2.0, 32.0, 23.9), (25.0, 24.0, 23.0))
    far = [row(i, "pcsr", k, False, 0.5, psnr, g) for i in range(3) for k, g, psnr in points]
    rows = verdicts(
        [
            write_sweep(tmp_path, "carn-original", close),
            write_sweep(tmp_path, "carn-pcsr", far),
            write_sweep(tmp_path, "carn-original", close, "test2k-from-div8k"),
        ],
        claims,
    )
    assert len(rows) == 84
    assert rows["CARN", "urban100"]["Verdict"] == "reproduced"
    ours = rows["CARN-PCSR", "urban100"]
    assert ours["Verdict"] == "differs"
    assert ours["Knob"] == "2 to 25"  # the original is 5 % larger than published: 31.08 GFLOPs
    assert ours["Our GFLOPs"] == pytest.approx(1.05 * 29.6)
    assert ours["Difference (dB)"] == pytest.approx(23.9 - 0.9 * (32 - 31.08) / 8 - 24.0)
    assert rows["CARN", "test2k"]["Verdict"] == "not run"
    assert sum(row["Verdict"] == "not run" for row in rows.values()) == 82


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"iterations": None}, "reproduced"),
        ({"iterations": 2_000_000}, "reproduced"),
        ({"iterations": 500}, "reproduced (short training: 500 iterations)"),
        ({"complete": False}, "partial: 3 of 3 images"),
        (
            {"complete": False, "iterations": 500},
            "partial: 3 of 3 images (short training: 500 iterations)",
        ),
    ],
)
def test_a_verdict_mentions_a_partial_set_and_short_training(tmp_path, claims, facts, verdict):
    path = write_sweep(tmp_path, "carn-original", original_rows(), **facts)
    assert verdicts([path], claims)["CARN", "urban100"]["Verdict"] == verdict


def test_a_folder_of_fewer_images_is_partial_whatever_it_says(tmp_path, claims):
    whole = claims.model_copy(update={"images": claims.images | {"urban100": 100}})
    path = write_sweep(tmp_path, "carn-original", original_rows())
    assert verdicts([path], whole)["CARN", "urban100"]["Verdict"] == "partial: 3 of 100 images"


def test_a_choice_that_was_not_measured_as_published_stays_the_suites_own(tmp_path, claims):
    """A suite on float LR, unrefined, that measures LR both ways: the original is on 8-bit LR."""
    rows = [one | {"refine": False} for one in both_lr(original_rows(), 0.1)]
    own = {"lr": "float", "crop": "tiles", "refine": False}
    ours = verdicts([write_sweep(tmp_path, "carn-original", rows, protocol=own)], claims)
    assert ours["CARN", "urban100"]["LR"] == "8-bit"
    assert ours["CARN", "urban100"]["Our PSNR"] == pytest.approx(PSNR)


def test_the_adaptive_decision_is_compared_with_no_cell(tmp_path, claims):
    points = ((0.0, 40.0, False), (None, 29.6, True))
    rows = [row(i, "pcsr", k, adm, 0.5, 24.0, g) for i in range(3) for k, g, adm in points]
    sweeps = [write_sweep(tmp_path, "carn-pcsr", rows)]
    assert verdicts(sweeps, claims)["CARN-PCSR", "urban100"]["Knob"] == "0"


@pytest.mark.parametrize("lacking", ["carn-pcsr", "carn-original"])
def test_images_without_a_pair_are_left_out_of_claims(tmp_path, claims, lacking):
    rows = {"carn-pcsr": pcsr_rows(), "carn-original": original_rows()}
    rows[lacking] = [one for one in rows[lacking] if one["image"] != "0801"]
    sweeps = [write_sweep(tmp_path, name, of) for name, of in rows.items()]
    page = claim.claims_markdown(tidy.collect(sweeps), claims)
    assert "Images excluded for carn on urban100" in page and "measured on them: 0801." in page
    assert page.count("partial: 2 of 3 images |") == 2
    paired = {name: [one for one in of if one["image"] != "0801"] for name, of in rows.items()}
    alone = [write_sweep(tmp_path / "paired", name, of) for name, of in paired.items()]
    sections = [
        claim.claims_markdown(tidy.collect(paths), claims).partition("### ")[2]
        for paths in (sweeps, alone)
    ]
    assert sections[0] == sections[1]


def test_an_original_on_float_lr_alone_leaves_a_dash(tmp_path, claims):
    own = {"lr": "float", "crop": "tiles", "refine": True}
    rows = {"carn-pcsr": pcsr_rows(), "carn-original": original_rows()}
    sweeps = [
        write_sweep(tmp_path, name, [one | {"lr": "float"} for one in of], protocol=own)
        for name, of in rows.items()
    ]
    section = claim.claims_markdown(tidy.collect(sweeps), claims).partition("### CARN-PCSR")[2]
    cells = section.splitlines()[6].split(" | ")
    assert cells[1] == "float" and cells[7] == "-" and cells[6] != "-"


def test_only_the_published_scale_is_compared(tmp_path, claims):
    path = write_sweep(tmp_path, "carn-x2", [row_ | {"scale": 2} for row_ in original_rows()])
    assert verdicts([path], claims)["CARN", "urban100"]["Verdict"] == "not run"


def test_the_claims_page_states_its_sources(sweeps, claims):
    page = claim.claims_markdown(tidy.collect(sweeps), claims)
    assert "suite quick; results.json" in page and "0123456789ab" not in page
    assert "8-bit LR, cropped to whole tiles, refined" in page
    assert "1 reproduced, 1 differs, 82 not run, 0 partial" in page
    models = re.compile(r"\| (FSRCNN|CARN|SRResNet).* (reproduced|differs|not run) \|$")
    cells = [line for line in page.splitlines() if models.match(line)]
    assert len(cells) == 12  # of the test set that was measured; the others are named
    assert sum("not run" in line for line in cells) == 10
    others = "F2K (9 cells), Test2K (21 cells), Test4K (21 cells), Test8K (21 cells)"
    assert f"Published on test sets that this suite did not measure: {others}." in page
    lines = page.splitlines()
    header = next(number for number, line in enumerate(lines) if "| Knob |" in line)
    rules = dict(zip(lines[header].split(" | "), lines[header + 1].split(" | "), strict=True))
    assert rules["Knob"] == "--:" and rules["Experiment"] == ":--"


def both_lr(rows, gain):
    """The rows on 8-bit LR, and on float LR with ``gain`` more PSNR."""
    return [*rows, *(one | {"lr": "float", "psnr_rgb": one["psnr_rgb"] + gain} for one in rows)]


@pytest.fixture
def two_lr(tmp_path):
    points = ((0.0, 40.0, 24.05), (2.0, 29.6, 24.00), (None, 45.0, 24.06))
    pcsr = [
        row(image, "pcsr", knob, knob is None, 0.5, psnr, gflops)
        for image in range(3)
        for knob, gflops, psnr in points
    ]
    return [
        write_sweep(tmp_path, "carn-pcsr", both_lr(pcsr, 0.05), complete=False),
        write_sweep(tmp_path, "carn-original", both_lr(original_rows(), 0.1), complete=False),
    ]


def test_a_cell_is_compared_on_the_lr_it_was_measured_on(two_lr, claims):
    ours = verdicts(two_lr, claims)["CARN-PCSR", "urban100"]
    assert (ours["Knob"], ours["LR"]) == ("2", "float")
    assert ours["Our PSNR"] == pytest.approx(24.05)
    assert ours["Published (dB)"] == pytest.approx(-0.03)
    assert ours["Ours (dB)"] == pytest.approx(24.05 - PSNR)  # the original is measured on 8-bit LR
    assert ours["Published (% of FLOPs)"] == pytest.approx(100 * 29.6 / 49.3)
    assert ours["Ours (% of FLOPs)"] == pytest.approx(100 * 29.6 / GFLOPS)
    assert ours["Verdict"] == "partial: 3 of 3 images"


def test_points_are_matched_by_their_share_of_the_original(tmp_path, claims):
    """All images twice as large: the knob stays, whatever the absolute FLOPs say."""
    points = ((0.0, 40.0), (2.0, 29.6), (4.0, 15.0))
    large = [row(i, "pcsr", k, False, 0.5, 24.0, 2 * g) for i in range(3) for k, g in points]
    original = [row(i, "original", None, False, 1.0, PSNR, 2 * GFLOPS) for i in range(3)]
    pcsr = write_sweep(tmp_path, "carn-pcsr", large)
    alone = verdicts([pcsr], claims)["CARN-PCSR", "urban100"]
    assert alone["Knob"] == "4" and pd.isna(alone["Ours (dB)"])  # 30 is the least there is
    assert alone["Our GFLOPs"] == pytest.approx(30)
    sweeps = [pcsr, write_sweep(tmp_path, "carn-original", original)]
    assert verdicts(sweeps, claims)["CARN-PCSR", "urban100"]["Knob"] == "2"


def test_a_cell_between_two_knobs_is_read_on_the_line_between_them(tmp_path, claims):
    """A grid that jumps over the published FLOPs does not decide about the verdict."""
    published, whole = (22.89, 19.9), (23.05, 19.9)  # FSRCNN-ARM and FSRCNN
    points = ((3.4, 17.9, 22.80), (3.8, 20.97, 22.906), (3.6, 18.9, 22.86))
    arm = [row(i, "arm", k, False, 0.5, psnr, g) for i in range(3) for k, g, psnr in points]
    original = [row(i, "original", None, False, 1.0, *whole) for i in range(3)]
    sweeps = [
        write_sweep(tmp_path, f"fsrcnn-{name}", [one | {"backbone": "fsrcnn"} for one in rows])
        for name, rows in (("arm", arm), ("original", original))
    ]
    ours = verdicts(sweeps, claims)["FSRCNN-ARM", "urban100"]
    assert (ours["Knob"], ours["Verdict"]) == ("3.6 to 3.8", "reproduced")
    assert ours["Our GFLOPs"] == pytest.approx(published[1])
    assert ours["Our PSNR"] == pytest.approx(22.86 + 0.046 * (19.9 - 18.9) / (20.97 - 18.9))
    page = claim.claims_markdown(tidy.collect(sweeps), claims)
    assert "interpolated linearly in GFLOPs" in page
    by_protocol = (
        "| ARM | 8-bit | yes | - | 3.6 to 3.8 | 22.882 | -0.168 | -0.168 | 100.0 | 100.0 |"
    )
    assert by_protocol in page


@pytest.mark.parametrize(("share", "knob"), [(0.1, "2"), (0.5, "1"), (0.75, "0 to 1"), (9, "0")])
def test_a_curve_ends_where_it_ends(claims, share, knob):
    points = pd.DataFrame(
        {"method": "pcsr", "adaptive": False, "knob": [0.0, 1, 2], "gflops_paper": [1, 0.5, 0.25]}
    )
    parts = at(points, share, claims)
    assert knobs_text(parts) == knob
    assert sum(weight for _, weight in parts) == 1


def test_classsr_is_compared_at_its_own_knob(tmp_path, claims):
    points = ((-25.0, 51.7), (0.0, 40.0), (25.0, 30.0))
    rows = [row(i, "classsr", k, False, 0.5, 24.0, cost) for i in range(3) for k, cost in points]
    sweeps = [write_sweep(tmp_path, "carn-classsr", rows)]
    sweeps.append(write_sweep(tmp_path, "carn-original", original_rows()))
    assert verdicts(sweeps, claims)["CARN-ClassSR", "urban100"]["Knob"] == "0"
    page = claim.claims_markdown(tidy.collect(sweeps), claims)
    assert "| ClassSR | 8-bit | yes | - | 0 | 24.000 | -0.060 |" in page


def test_the_audit_shows_each_protocol_beside_the_original(two_lr, claims):
    page = claim.claims_markdown(tidy.collect(two_lr), claims)
    section = page.partition("### CARN-PCSR: published 24.00 dB, 29.6 GFLOPs")[2]
    assert "-0.03 dB relative to the published original, at 60.0 % of its FLOPs" in section
    lines = [line for line in section.splitlines() if line.startswith("| PCSR |")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    # Method, LR, cropped, refined, knob, PSNR, gain over the original on the same and on 8-bit LR,
    # shares of its FLOPs in both conventions, and the share for the published loss.
    # 24.03 dB lies 3/5 of the way from knob 2 to knob 0: 35.84 of 49.3 GFLOPs.
    assert cells == [
        ["PCSR", "8-bit", "yes", "yes", "2", "24.000", "-0.060", "-0.060", "60.0", "60.0", "72.7"],
        ["PCSR", "8-bit", "yes", "yes", "ADM", "24.060", "0.000", "0.000", "91.3", "91.3", "-"],
        ["PCSR", "float", "yes", "yes", "2", "24.050", "-0.110", "-0.010", "60.0", "60.0", "-"],
        ["PCSR", "float", "yes", "yes", "ADM", "24.110", "-0.050", "0.050", "91.3", "91.3", "-"],
    ]
    assert "### CARN-ClassSR" not in page


def test_names_that_count_upwards_are_shortened():
    names = ["img_001", "img_002", "img_003", "img_005", "baby", "bird", "3096", "3097"]
    assert inputs.ranges(names) == "img_001 to img_003, img_005, baby, bird, 3096 to 3097"


def test_routing_image_keeps_blue_for_cheap_and_red_for_expensive():
    labels = np.array([[0, 0], [1, 1]])
    image = showcase.routing_image(labels, 2, np.full((2, 2, 3), 128, np.uint8))
    assert image.dtype == np.uint8
    assert image[0, 0, 2] > image[0, 0, 0] + 50
    assert image[1, 0, 0] > image[1, 0, 2] + 50
    with pytest.raises(ValueError, match="0 to 1"):
        showcase.routing_image(labels + 1, 2, image)
    with pytest.raises(ValueError, match="image is"):
        showcase.routing_image(labels[:1], 2, image)


def test_the_most_detailed_square_is_found():
    image = np.full((80, 120, 3), 90, np.uint8)
    image[40:56:2, 64:80] = 250
    top, left, height, width = showcase.detailed_box(image, 16)
    assert (height, width) == (16, 16)
    assert (top, left) == (40, 64)
    assert showcase.detailed_box(np.zeros_like(image), 16) == (0, 0, 16, 16)
    assert showcase.detailed_box(image, 500)[2:] == (80, 80)


def test_comparison_titles_carry_the_psnr_of_the_crop():
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
    worse = hr.copy()
    worse[:16, :16] ^= 16  # within the box only
    panels = [("HR", hr), ("LR", hr[::4, ::4]), ("original", worse)]
    figure = showcase.comparison(panels, box=(0, 0, 16, 16), title="image 21 of Kodak24")
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == [
        "HR, whole image",
        "HR",
        "LR",
        f"original\ncrop: {20 * np.log10(255 / 16):.2f} dB",
    ]
    assert figure.get_suptitle() == "image 21 of Kodak24"
    assert figure.axes[2].get_xlim() == (-0.5, 15.5)


def test_the_image_that_shows_most_is_the_one_whose_work_is_divided():
    shares = {"share_0": [1.0, 0.9, 0.5, 0.5, 0.0], "share_1": [0.0, 0.1, 0.5, 0.5, 1.0]}
    rows = pd.DataFrame({"image": list("abdce"), "knob": [0.0, 0.0, 1.0, 1.0, -1.0], **shares})
    assert showcase.most_divided(rows) == ("c", 1.0)
    three = rows.assign(share_2=[0.0, 0.0, 0.0, np.nan, 0.0])
    three.loc[0, ["share_0", "share_1", "share_2"]] = 1 / 3
    assert showcase.most_divided(three) == ("a", 0.0)


def test_routing_figure_tells_shares_and_gains(tmp_path):
    hr = np.zeros((40, 60, 3), np.uint8)
    labels = np.zeros((40, 60), np.int64)
    labels[:10] = 2
    worse, better = hr + np.uint8(8), hr + np.uint8(8)
    better[:10] = 3
    gain = showcase.gain_over(worse, better, hr)
    assert np.array_equal(gain, np.where(labels == 2, 5.0, 0.0))
    figure = showcase.routing_figure(better, labels, 3, gain, "CARN-ClassSR, k = 0")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        "branch 0 (cheapest): 75.0 %, +0.00",
        "branch 1: 0.0 %",
        "branch 2 (most expensive): 25.0 %, +5.00",
    ]
    means = "share of the pixels, mean error reduction in grey levels of 255"
    assert figure.legends[0].get_title().get_text() == means
    titles = ["SR", "branch of each pixel", "error reduction against the original"]
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == titles
    assert bar.get_ylabel() == "grey levels of 255"
    names = ("simple", "medium", "hard")
    of_tiles = showcase.routing_figure(better, labels, 3, gain, "", names=names, unit="tile")
    assert of_tiles.axes[1].get_title() == "branch of each tile"
    first, *_ = of_tiles.legends[0].get_texts()
    assert first.get_text() == "simple: 75.0 %, +0.00"
    save(figure, tmp_path / "routing.png")
    assert (tmp_path / "routing.png").stat().st_size > 0


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "workflow" / "report").glob("*.rst")), ids=lambda path: path.stem
)
def test_captions_render(path):
    wildcards = types.SimpleNamespace(backbone="carn", test_set="set5", experiment="carn-pcsr")
    template = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(path.read_text())
    text = template.render(snakemake=types.SimpleNamespace(wildcards=wildcards))
    strict = {"halt_level": 2, "report_level": 2}
    assert publish_string(text, writer="html", settings_overrides=strict)
