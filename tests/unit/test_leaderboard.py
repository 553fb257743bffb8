"""The leaderboard: gates, ranks by each count, times by device, and results that others bring."""

import json

import numpy as np
import pandas as pd
import pytest
from test_report_fairness import original, routed, rows_of, table

from pcsr import cli
from pcsr.errors import UserError
from pcsr.report import tidy
from pcsr.report.leaderboard import page as leaderboard
from pcsr.report.leaderboard import timings
from pcsr.report.leaderboard.page import Models, standings

MEAN = 0.3 * 4.5  # what the images add to a point's PSNR
MACHINE = {
    "device": "cpu", "threads": 2, "machine": "Linux x86_64, 2 cores", "precision": "float32",
    "versions": {"torch": "2.13.0"}, "fresh": [],
}  # fmt: skip
CASE = {
    "image": "i", "lr_height": 250, "lr_width": 250, "backbone": "carn", "method": "pcsr",
    "path": "engine", "knob": "2", "seconds": 0.5, "peak_bytes": 2**20,
}  # fmt: skip


def suite(*more):
    """An original of 30 dB at 100 G; pcsr reaches 30 dB at k = 2 (80 G), a network 31 dB at 40."""
    network = rows_of("original", [(None, 31.0, 40.0)], backbone="span", experiment="span-original")
    return table(original(), routed(), network, *more)


def measured(path, *cases, **machine):
    content = {"cases": [CASE | case for case in cases], "provenance": MACHINE | machine}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def stand(results, times=(), levels=(), added=()):
    models = Models.of(results, added)
    return standings(models.points, timings.load(times), levels)


def contribution(path, *rows):
    """Write a CSV as `pcsr collect` does."""
    tidy.write_csv(table(*rows), path)
    return path


def of(found, model, gate="carn - 0.05 dB"):
    (row,) = found[(found["model"] == model) & (found["gate"] == gate)].to_dict("records")
    return row


def test_every_count_takes_its_own_cheapest_point_in_the_gate():
    results = suite(rows_of("arm", [(1.0, 29.96, 50.0), (2.0, 29.94, 1.0)]))
    heavier = (results["method"] == "pcsr") & (results["knob"] == 3)
    results.loc[heavier, "flops_engine"] = 30e9
    results.loc[results["method"] == "arm", "flops_paper"] = 200e9
    found = stand(results)
    assert found["model"].tolist() == ["carn-pcsr", "span-original", "carn-arm", "carn-original"]
    assert found["rank_executed"].tolist() == [1, 2, 3, 4]
    assert found["rank_paper"].tolist() == [2, 1, 4, 3]
    pcsr, arm = of(found, "carn-pcsr"), of(found, "carn-arm")
    assert (pcsr["gflops_engine"], pcsr["knob_executed"]) == (30, "3")
    assert (pcsr["gflops_paper"], pcsr["knob_paper"]) == (80, "2")
    assert (arm["gflops_engine"], arm["knob_executed"]) == (50, "1")  # 29.94 dB is too little
    assert found["gate_psnr_rgb"].unique() == pytest.approx([29.95 + MEAN])
    row = next(line for line in page_of(found).splitlines() if line.startswith("| carn-pcsr"))
    assert "| 3 | 31.850 | 30.00 | 80.00 at 2 | 80.00 at 2 | - | - |" in row


def page_of(found, notes=()):
    """Return the page without the marks of what is best."""
    return leaderboard.leaderboard_markdown(found, "as always", notes).replace("**", "")


def test_the_gate_itself_is_reached_and_what_is_below_is_named():
    results = suite(rows_of("arm", [(1.0, 29.95, 1.0)]), rows_of("classsr", [(1.0, 29.949, 1.0)]))
    found = stand(results, levels=[30.5 + MEAN])
    assert of(found, "carn-arm")["rank_executed"] == 1
    below = of(found, "carn-classsr")
    assert pd.isna(below["rank_executed"]) and below["psnr_best"] == pytest.approx(29.949 + MEAN)
    level = found[found["gate"] == f"{30.5 + MEAN:g} dB"]
    assert level.dropna(subset="rank_paper")["model"].tolist() == ["span-original", "carn-pcsr"]
    assert "Not reached by, with their highest PSNR: carn-classsr (31.299 dB)." in page_of(found)


def test_ties_share_a_rank_and_the_better_of_equally_cheap_points_stands():
    results = suite(rows_of("arm", [(1.0, 30.0, 40.0), (2.0, 30.1, 40.0)]))
    found = stand(results)
    assert found["rank_executed"].tolist() == [1, 1, 3, 4]
    assert of(found, "carn-arm")["knob_executed"] == "2"


def test_activations_and_parameters_are_those_of_the_results_or_a_dash():
    results = suite().assign(activations=2e6, parameters=5000)
    results.loc[results["knob"] == 3, "activations"] = 1e6
    found = stand(results)
    pcsr = of(found, "carn-pcsr")
    assert (pcsr["activations"], pcsr["knob_activations"], pcsr["parameters"]) == (1e6, "3", 5000)
    assert pcsr["rank_activations"] == 1
    assert "| 1.0 at 3 | 5.0 |" in page_of(found)
    assert stand(suite())["activations"].isna().all()


def test_a_model_has_a_row_for_each_device(tmp_path):
    whole = {"method": "original", "path": "original", "knob": "", "seconds": 1.0}
    small = {"lr_height": 50, "lr_width": 250, "seconds": 0.1, "peak_bytes": 3 * 2**20}
    alone = {"image": "j", "seconds": 99, "peak_bytes": 2**30}  # the original was not timed there
    cpu = measured(tmp_path / "c.json", {}, small, whole, {"knob": "1", "seconds": 0.01}, alone)
    gpu = measured(tmp_path / "g.json", {"seconds": 0.25}, device="GPU|1")
    found = stand(suite(), [cpu, gpu])
    rows = found[found["model"] == "carn-pcsr"]
    assert rows["rank_executed"].tolist() == [2, 2]
    assert rows["device"].str.partition(",")[0].tolist() == ["GPU|1", "cpu"]
    # Two images: 0.6 s for 62,500 + 12,500 LR pixels at x4. k = 1 is faster, but not in the gate.
    assert rows["seconds_per_megapixel"].tolist() == pytest.approx([0.25, 0.5])
    assert rows["peak_bytes"].tolist() == [2**20, 3 * 2**20]
    assert rows["time_ratio"].tolist() == pytest.approx([np.nan, 0.5], nan_ok=True)
    page = page_of(found)
    assert "Device 1: GPU\\|1, float32" in page and "| 0.500 | 0.50 | 3 | 2 |" in page


def test_a_time_belongs_to_its_weights_point_and_path(tmp_path):
    results = suite(routed(experiment="other-pcsr"))
    others = ({"path": "definition"}, {"knob": "budget 0.6"}, {"knob": "0.5"})
    for cases, timed in (
        ([{}], []),  # of which of the two?
        ([{"weights": "other-pcsr"}], ["other-pcsr"]),
        ([{"weights": "other-pcsr"} | other for other in others], []),
    ):
        found = stand(results, [measured(tmp_path / "c.json", *cases)])
        assert found.dropna(subset="device")["model"].tolist() == timed
    fresh = measured(tmp_path / "c.json", {}, fresh=["carn"])
    assert stand(suite(), [fresh])["device"].isna().all()
    arm = table(original(), rows_of("arm", [(2.0, 30.0, 50.0)]))  # its default
    found = stand(arm, [measured(tmp_path / "c.json", {"method": "arm", "knob": "default"})])
    assert of(found, "carn-arm")["seconds_per_megapixel"] == pytest.approx(0.5)


def test_files_that_are_no_times_are_refused(tmp_path):
    path = tmp_path / "c.json"
    wrong = ({"seconds": 0}, {"seconds": "x"}, {"lr_width": -1}, {"image": None})
    for case in (*wrong, {"knob": "abc"}, {"knob": "nan"}, {"knob": "1e30"}, {"seconds": 1e999}):
        with pytest.raises(UserError, match=rf"c.json: cases.0.{next(iter(case))}"):
            timings.load([measured(path, case)])
    with pytest.raises(UserError, match=r"c.json: provenance.threads"):
        timings.load([measured(path, {}, threads="many")])
    for text in ("{", "[]", '{"cases": []}', '{"cases": [], "cases": []}', "[" * 10**5):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"c.json"):
            timings.load([path])


def test_models_of_others_stand_beside_the_suites(tmp_path):
    mine = rows_of("mine", [(1.0, 30.0, 10.0)], experiment="mine", suite="theirs", main=False)
    # What the suite has measured itself counts as the suite measured it.
    path = contribution(tmp_path / "alice.csv", mine, original(psnr_rgb=99.0))
    found = stand(suite(), added=[path])
    assert found["model"].tolist()[0] == "mine (alice)" and len(found) == 4
    assert of(found, "carn-original")["psnr_best"] == pytest.approx(30 + MEAN)


def test_models_of_others_on_other_images_are_left_out_and_named(tmp_path):
    some = rows_of("mine", [(1.0, 30.0, 10.0)], experiment="some", images=range(9))
    more = rows_of("mine", [(1.0, 30.0, 10.0)], experiment="more", images=range(12))
    float_lr = [row | {"experiment": "f", "lr": "float"} for row in more]
    elsewhere = [row | {"test_set": "elsewhere"} for row in more]
    first = contribution(tmp_path / "a.csv", some, more)
    models = Models.of(suite(), [first, contribution(tmp_path / "b.csv", float_lr, elsewhere)])
    assert "more (a)" in set(models.points["model"]) and set(models.points["images"]) == {10}
    assert models.notes == [
        "some (a) was not measured on all images of set, and is left out.",
        "b.csv has no model of its own on these test sets by this protocol.",
    ]


def test_rows_of_others_that_cannot_be_right_are_refused(tmp_path):
    row = rows_of("mine", [(1.0, 30.0, 10.0)], experiment="mine")
    path = tmp_path / "a.csv"
    for column, value in (
        ("psnr_rgb", -1.0), ("flops_engine", -5.0), ("flops_paper", np.inf), ("knob", 1e9),
        ("scale", 0.5), ("lr", "16bit"), ("crop", "some"), ("lr_height", 0), ("lr_pixels", -1),
        ("activations", -1.0), ("experiment", "x" * 65), ("backbone", ""),
    ):  # fmt: skip
        wrong = contribution(path, row[:3], [row[3] | {column: value}])
        with pytest.raises(UserError, match=rf"a.csv: line 5: {column}: "):
            Models.of(suite(), [wrong])
    other = row[0] | {"method": "other"}  # of the same experiment, at the same knob
    resized = row[0] | {"lr_height": 21}
    for rows, reason in (
        (row + row[:1], "twice"),
        ([*row, other], "twice"),
        ([resized], "another size"),
    ):
        with pytest.raises(UserError, match=rf"image: 00 .*{reason}"):
            Models.of(suite(), [contribution(path, rows)])
    right = contribution(path, row)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="rename one"):
        Models.of(suite(), [right, contribution(tmp_path / "b/a.csv", row)])


def test_hostile_names_stay_text(tmp_path):
    name = "<b>|`x`\x1b[31m\n# y"
    rows = rows_of(name, [(1.0, 30.0, 10.0)], experiment=name)
    path = contribution(tmp_path / "a_b|c.csv", rows)
    times = measured(tmp_path / "t.json", {}, device="<i>|\n")
    results = tmp_path / "results.csv"
    tidy.write_csv(suite(), results)
    out = tmp_path / "out.md"
    leaderboard.leaderboard(results, out=out, gate=[30.0], times=[times], added=[path])
    text, html = out.read_text(), out.with_suffix(".html").read_text()
    assert "\\<b>\\|\\`x\\`" in text and "\x1b" not in text + html
    assert "<b>" not in html and "<i>" not in html
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("| carn")}) == 1
    table = pd.read_csv(out.with_suffix(".csv"))
    assert list(table["gate"].unique()) == ["carn - 0.05 dB", "30 dB"]


def test_without_an_original_only_numbers_are_gates():
    found = stand(table(routed()))
    assert found.empty and "no PSNR was given by --gate" in page_of(found)
    assert stand(table(routed()), levels=[30])["gate"].unique() == ["30 dB"]


def test_gates_out_of_range_are_refused(capsys, monkeypatch, tmp_path):
    tidy.write_csv(suite(), tmp_path / "r.csv")
    for gate in ("0", "101", "nan", "x"):
        command = ["pcsr", "leaderboard", "r.csv", "--gate", gate, "--out", "o.md"]
        monkeypatch.setattr("sys.argv", command)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2 and "gate" in capsys.readouterr().err.lower()
