"""The page of fair comparisons on invented sweeps: pairing, interpolated points, explanations."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pcsr.report import curves, tidy
from pcsr.report.curves import Curve
from pcsr.report.fairness import page as fairness

IMAGES = 10
KNOBS = (0.0, 1.0, 2.0, 3.0)
ORIGINAL = 30.0, 100.0  # dB, GFLOPs


def rows_of(method, points, experiment=None, test_set="set", images=range(IMAGES), **own):
    """Rows of one method: points are (knob, dB, GFLOPs); images differ in dB alone."""
    return [
        {
            "suite": "s", "experiment": experiment or f"carn-{method}", "test_set": test_set,
            "image": f"{image:02}", "method": method, "backbone": "carn", "scale": 4.0,
            "knob": knob, "adaptive": knob is None and method != "original",
            "lr": "8bit", "crop": "tiles", "refine": True,
            "psnr_rgb": psnr + 0.3 * image, "psnr_y": 30.0, "ssim": 0.8,
            "flops_paper": 1e9 * gflops, "flops_algorithmic": 1e9 * gflops,
            "flops_engine": 1e9 * gflops, "share_0": 1.0,
            "units": 1, "lr_pixels": 1000, "lr_height": 20, "lr_width": 50,
            "weights": "w", "main": True, "complete": True, "training": 10, "released": False,
        }
        | own
        for image in images
        for knob, psnr, gflops in points
    ]  # fmt: skip


def original(**own):
    return rows_of("original", [(None, *ORIGINAL)], **own)


def routed(method="pcsr", costlier=1.0, **own):
    """29 to 30.5 dB over 20 to 110 GFLOPs: 29.95 dB at 77."""
    points = [(knob, 29 + 0.5 * knob, costlier * (20 + 30 * knob)) for knob in KNOBS]
    return rows_of(method, points, **own)


def float_lr(rows, gained):
    return [row | {"lr": "float", "main": False, "psnr_rgb": row["psnr_rgb"] + gained}
            for row in rows]  # fmt: skip


def table(*rows):
    return pd.DataFrame([row for some in rows for row in some]).astype(
        {"training": "Int64", "knob": "float64"}
    )


def cells(page, start):
    """Return the cells of the page's only line that starts so."""
    lines = page.replace("**", "").splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_one_file_of_several_methods_reads_like_one_file_each():
    one, each = (
        fairness.fairness_markdown(
            table(
                original(**where), float_lr(original(**where), 0.1),
                routed(**where), float_lr(routed(**where), 0.2),
            )
        )
        for where in ({"experiment": "all"}, {})
    )  # fmt: skip
    assert one == each
    assert cells(one, "| float LR instead of 8-bit LR | PCSR")[3] == "0.200 [0.200, 0.200]"


def test_experiments_of_one_method_on_one_set_do_not_double_another_set():
    here = [original(), routed(), float_lr(routed(), 0.2)]
    there = [
        original(test_set="two"),
        routed(test_set="two"),
        routed(test_set="two", experiment="carn-pcsr-m3"),
    ]
    alone = fairness.fairness_markdown(table(*here))
    both = fairness.fairness_markdown(table(*here, *there))
    own = both[both.index("## CARN on set, x4") : both.index("## CARN on two, x4")]
    assert own.strip() in alone
    assert "PCSR (carn-pcsr-m3)" in both and "PCSR (carn-pcsr-m3)" not in own


def test_images_that_a_method_lacks_are_left_out_of_all():
    some = range(1, IMAGES)
    page = fairness.fairness_markdown(table(original(), routed(images=some)))
    assert "Images left out because not every method was measured on them: 1." in page
    without = fairness.fairness_markdown(table(original(images=some), routed(images=some)))
    assert cells(page, "| original |  | paper and algorithmic") == cells(
        without, "| original |  | paper and algorithmic"
    )
    assert "left out because" not in without
    nothing = fairness.fairness_markdown(table(original(images=[0]), routed(images=[1])))
    assert "on them: 2." in nothing and "Where the FLOPs go\n" not in nothing


def test_points_between_the_measured_ones():
    page = fairness.fairness_markdown(table(original(), routed(), routed("classsr", costlier=1.25)))
    _, percent, gflops, psnr_75, change_75, psnr_50, change_50 = cells(page, "| PCSR | 77.0")
    assert percent == "77.0 [77.0, 77.0]" and gflops == "77.00 [77.00, 77.00]"
    assert "| PCSR | **77.0 [77.0, 77.0]** |" in page and "| ClassSR | 96.2 [" in page
    assert psnr_75.startswith("31.27 [") and psnr_50.startswith("30.85 [")  # 1.35 + 29.92, 29.5
    assert change_75 == "-0.083 [-0.083, -0.083]" and change_50 == "-0.500 [-0.500, -0.500]"
    _, _, common_psnr, flops, common_gflops, _ = cells(page, "| PCSR | ClassSR")
    assert common_psnr == "30.35 to 31.85" and common_gflops == "25.00 to 110.00"
    assert flops == "-20.0 [-20.0, -20.0]"


def test_a_method_that_is_costlier_by_its_overlap_alone_is_equal_without_it():
    tiles = routed("classsr", costlier=1.25, lr_pixels=1250)
    page = fairness.fairness_markdown(table(original(), routed(), tiles))
    as_counted, once = page.split("as if no pixel were processed twice):")
    assert cells(as_counted, "| PCSR | ClassSR")[3] == "-20.0 [-20.0, -20.0]"
    assert cells(once, "| PCSR | ClassSR")[3] == "0.0 [0.0, 0.0]"
    assert cells(once, "| ClassSR | 77.0")[1:] == cells(once, "| PCSR | 77.0")[1:]
    without = fairness.fairness_markdown(table(original(), routed()))
    assert "as if no pixel were" not in without


def noisy(seed, images, costlier=1.0):
    """A straight curve whose images differ in dB and in size; both methods share the images."""
    shared, own = np.random.default_rng(7), np.random.default_rng(seed)
    brightness = shared.normal(0, 3, (images, 1))
    size = shared.uniform(0.8, 1.2, (images, 1))
    knobs = np.arange(6.0)
    noise = own.normal(0, 0.1, (images, 6))
    return Curve(25 + knobs + brightness + noise, (20 + 20 * knobs) * size * costlier)


@pytest.mark.parametrize("images", [20, 200])
def test_the_interval_of_a_delta_holds_the_truth_and_is_that_of_pairs(images):
    anchor, test = noisy(1, images), noisy(2, images, costlier=0.8)
    found = curves.estimate(lambda some: curves.bd_flops(anchor, test, some), images)
    assert found.low < -20 < found.high
    # The images differ by 3 dB, the methods by 0.1 dB on an image of 1 dB per 20 GFLOPs.
    assert found.high - found.low < 20 / np.sqrt(images)


def test_a_sweep_that_is_one_point_has_no_delta():
    whole = noisy(1, IMAGES)
    point, wider = (
        Curve(whole.psnr[:, [2]] + [0, rise], whole.gflops[:, 2:4]) for rise in (0.04, 0.08)
    )
    everything = np.arange(IMAGES)
    assert np.isnan(curves.bd_flops(whole, point, everything))
    assert np.isfinite(curves.bd_flops(whole, wider, everything))


def test_a_dash_is_explained_by_where_the_curve_runs():
    low = rows_of("pcsr", [(0.0, 29.0, 60), (1.0, 29.5, 80)])
    page = fairness.fairness_markdown(table(original(), low))
    assert cells(page, "| PCSR | -")[1:3] == ["-", "-"]
    assert cells(page, "| PCSR | -")[5:] == ["-", "-"]
    assert (
        "- PCSR covers 60.0 to 80.0 % of the original's FLOPs and -1.000 to -0.500 dB relative to "
        "the original." in page
    )
    assert "so the one with the highest PSNR is shown: PCSR." in page
    reaches = rows_of("pcsr", [(0.0, 29.0, 40), (1.0, 30.5, 80)])
    assert "pcsr covers" not in fairness.fairness_markdown(table(original(), reaches))


def test_a_value_that_some_resample_lacks_has_no_interval():
    rows = table(original(), routed())
    lucky = (rows["method"] == "pcsr") & (rows["image"] == "00")
    rows.loc[(rows["method"] == "pcsr") & ~lucky, "psnr_rgb"] -= 0.6
    rows.loc[lucky, "psnr_rgb"] += 0.6  # with it the mean is within 0.05 dB, without it is not
    percent = cells(fairness.fairness_markdown(rows), "| PCSR | 1")[1]
    assert float(percent) > 77


def test_a_reversal_is_told_with_its_numbers():
    rows = table(original(flops_algorithmic=10e9), routed())
    page = fairness.fairness_markdown(rows)
    assert (
        "**PCSR saves 20.0 % of the original's FLOPs in the paper convention (80.00 instead of "
        "100.00 GFLOPs), but costs 8.00 times the original's in the algorithmic convention (80.00 "
        "instead of 10.00 GFLOPs).**" in page
    )
    cheaper = table(original(flops_algorithmic=90e9), routed())
    assert "but costs" not in fairness.fairness_markdown(cheaper)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "Weights: trained for 10 steps. That is short training: the papers' recipes have "),
        ({"training": 2_000_000}, "Weights: trained for 2,000,000 steps.\n"),
        ({"training": pd.NA}, None),
        ({"released": True, "training": pd.NA}, "Weights: released by the papers' authors.\n"),
    ],
)
def test_the_page_tells_how_long_the_weights_were_trained(own, said):
    page = fairness.fairness_markdown(table(original(**own), routed(**own)))
    assert said in page if said else "Weights:" not in page


def test_released_weights_and_short_training_are_told_apart():
    rows = table(original(released=True), routed(training=9), routed("arm", training=60_000))
    text = "released by the papers' authors, or trained for 9 to 60,000 steps"
    assert tidy.training_text(rows) == text


def test_the_adaptive_decision_is_in_the_protocol_and_in_no_curve():
    adaptive = rows_of("pcsr", [(None, 20.0, 1.0)])
    page = fairness.fairness_markdown(
        table(original(), routed(), adaptive, float_lr(adaptive, 0.25))
    )
    assert cells(page, "| float LR instead of 8-bit LR | PCSR")[2:4] == [
        "ADM",
        "0.250 [0.250, 0.250]",
    ]
    assert cells(page, "| PCSR | 77.0")
    assert "Not compared: refined instead of unrefined; whole image instead of tiles." in page


def test_the_page_ends_with_the_meaning_of_every_column():
    rows = table(original(flops_algorithmic=10e9), routed(), routed("classsr"))
    page = fairness.fairness_markdown(rows)
    tables, reading = page.split("## How to read this page")
    lines = tables.splitlines()
    heads = {
        name.strip()
        for above, line in pairwise(lines)
        if line.startswith("| :--")
        for name in above.strip("|").split("|")
    }
    plain = {"Method", "PSNR-RGB (dB)", "vs original (dB)", "Compared with"}
    half = {f"{name} at 50 % (dB)" for name in ("PSNR-RGB", "vs original")}
    assert half < heads
    untold = {name for name in heads - plain - half if name not in reading}
    assert untold == set()


def test_the_command_writes_markdown_and_html(tmp_path):
    tidy.write_csv(table(original(), routed()), tmp_path / "results.csv")
    fairness.fairness(tmp_path / "results.csv", out=tmp_path / "reports" / "fairness.md")
    page = (tmp_path / "reports" / "fairness.md").read_text()
    assert page.startswith("# Fair comparisons\n")
    html = (tmp_path / "reports" / "fairness.html").read_text()
    assert "<title>Fair comparisons</title>" in html
    assert html.count("<table>") == sum(line.startswith("| :--") for line in page.splitlines())
