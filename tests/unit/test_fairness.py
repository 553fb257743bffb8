"""Fair comparisons: known answers on curves that are straight, shifted or scaled."""

import numpy as np
import pandas as pd
import pytest

from pcsr.report import curves
from pcsr.report.curves import Curve, Estimate
from pcsr.report.fairness import choices
from pcsr.report.fairness import page as fairness

IMAGES = 12
KNOBS = np.arange(6.0)
ORIGINAL_PSNR, ORIGINAL_GFLOPS = 30.0, 100.0


def straight(images=IMAGES, up=0.0, costlier=1.0, noise=0.0):
    """25 to 30 dB over 20 to 120 GFLOPs, every image alike but for noise."""
    random = np.random.default_rng(1)
    psnr = np.tile(25 + KNOBS, (images, 1)) + noise * random.standard_normal((images, 1))
    return Curve(psnr + up, np.tile(20 + 20 * KNOBS, (images, 1)) * costlier)


def everything(curve):
    return np.arange(len(curve.psnr))


def test_a_straight_line_is_read_between_its_points():
    curve = straight()
    assert curve.gflops_at(27.5, everything(curve)) == pytest.approx(70)
    assert curve.psnr_at(70, everything(curve)) == pytest.approx(27.5)
    assert np.isnan(curve.gflops_at(30.1, everything(curve)))
    assert np.isnan(curve.psnr_at(10, everything(curve)))
    # Its cheapest point is good enough for less, and its best one within any larger budget.
    assert curve.gflops_at(20, everything(curve)) == pytest.approx(20)
    assert curve.psnr_at(500, everything(curve)) == pytest.approx(30)


def test_a_curve_that_not_all_images_were_measured_on():
    psnr, gflops = straight().psnr.copy(), straight().gflops.copy()
    psnr[0, 1:], gflops[0, 1:] = np.nan, np.nan
    part = Curve(psnr, gflops)
    assert len(part.frontier(everything(part))[0]) == 1
    psnr[1, 0], gflops[1, 0] = np.nan, np.nan
    none = Curve(psnr, gflops)
    assert np.isnan(none.gflops_at(20, everything(none)))
    assert np.isnan(none.psnr_at(1e9, everything(none)))
    assert np.isnan(curves.bd_flops(straight(), none, everything(none)))


def test_points_that_another_one_beats_are_left_out():
    psnr = np.array([[25.0, 24.0, 26.0, 26.0, 27.0]])
    curve = Curve(psnr, np.array([[10.0, 20.0, 30.0, 40.0, 30.0]]))
    gflops, quality = curve.frontier(np.array([0]))
    assert gflops.tolist() == [10, 30] and quality.tolist() == [25, 27]


def test_a_resample_takes_images_as_often_as_it_names_them():
    curve = straight(noise=1.0)
    some = np.array([3, 3, 5])
    _, quality = curve.frontier(some)
    expected = (2 * curve.psnr[3] + curve.psnr[5]) / 3
    np.testing.assert_allclose(quality, expected)


def test_bjontegaard_deltas_of_known_curves():
    anchor, images = straight(), np.arange(IMAGES)
    assert curves.bd_flops(anchor, straight(), images) == pytest.approx(0, abs=1e-9)
    assert curves.bd_flops(anchor, straight(costlier=0.8), images) == pytest.approx(-20)
    assert curves.bd_psnr(anchor, straight(up=0.3), images) == pytest.approx(0.3)
    assert curves.common_psnr(anchor, straight(up=0.3)) == pytest.approx((25.3, 30))


def test_curves_with_little_in_common_have_no_delta():
    images = np.arange(IMAGES)
    for better in (straight(up=4.9), straight(up=9.0)):
        assert np.isnan(curves.bd_flops(straight(), better, images))
    costlier = straight(costlier=9.0)
    assert np.isnan(curves.bd_psnr(straight(), costlier, images))
    assert curves.bd_flops(straight(), costlier, images) == pytest.approx(800)


def test_a_curve_that_is_all_free_has_nothing_in_common():
    free = Curve(straight().psnr, 0 * straight().gflops)
    low, high = curves.common_psnr(straight(), free)
    assert low > high
    assert np.isnan(curves.bd_flops(straight(), free, np.arange(IMAGES)))


def test_points_of_no_flops_have_no_rate():
    free = Curve(
        np.hstack([np.full((IMAGES, 1), 20.0), straight().psnr]),
        np.hstack([np.zeros((IMAGES, 1)), straight().gflops]),
    )
    images = np.arange(IMAGES)
    assert curves.bd_flops(straight(), free, images) == pytest.approx(0, abs=1e-9)
    assert free.gflops_at(22.5, images) == pytest.approx(10)


def test_intervals_hold_the_value_and_shrink_with_images():
    widths = []
    for images in (10, 1000):
        values = np.random.default_rng(0).normal(5, 1, images)
        found = curves.estimate(lambda some, values=values: values[some].mean(), images)
        assert found.low < found.value < found.high
        assert found.low < 5 < found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.2 * widths[0]
    assert widths[1] == pytest.approx(2 * 1.96 / np.sqrt(1000), rel=0.1)


def test_few_images_and_missing_values_have_no_interval():
    few = curves.estimate(lambda some: float(len(some)), curves.LEAST_IMAGES - 1)
    assert few.text(1) == "7.0"
    sometimes = curves.estimate(lambda some: 1.0 if 0 in some else np.nan, IMAGES)
    assert sometimes.text(1) == "1.0"
    assert curves.estimate(lambda some: np.nan, IMAGES).text(1) == "-"
    assert Estimate(-0.0001, -0.01, 0.01).text(2) == "0.00 [-0.01, 0.01]"


def results():
    """An original; a router of pixels; a router of tiles that does the same with 1.25 overlap."""
    rows = []
    for image in range(IMAGES):
        bright = 0.1 * image
        common = {
            "image": f"{image:02}", "suite": "s", "test_set": "set", "backbone": "carn",
            "scale": 4.0, "adaptive": False, "lr": "8bit", "crop": "tiles", "refine": True,
            "psnr_y": 30.0, "ssim": 0.8, "units": 1, "lr_pixels": 1000, "lr_height": 20,
            "lr_width": 50, "weights": "w", "main": True, "complete": True,
            "training": 10, "released": False, "share_0": 1.0,
        }  # fmt: skip

        def add(experiment, knob, psnr, gflops, common=common, bright=bright, **own):
            method = experiment.removeprefix("carn-")
            rows.append(
                common
                | {"experiment": experiment, "method": method, "knob": knob}
                | {"psnr_rgb": psnr + bright, "flops_paper": 1e9 * gflops}
                | {"flops_algorithmic": 0.5e9 * gflops, "flops_engine": 0.4e9 * gflops}
                | own
            )

        add("carn-original", None, ORIGINAL_PSNR, ORIGINAL_GFLOPS)
        add("carn-original", None, ORIGINAL_PSNR + 0.01, ORIGINAL_GFLOPS, lr="float", main=False)
        for knob, (psnr, gflops) in enumerate(((28.0, 20), (29.0, 40), (29.96, 60), (30.1, 110))):
            add("carn-pcsr", knob, psnr, gflops, flops_algorithmic=2e9 * gflops)
            add("carn-pcsr", knob, psnr + 0.02, gflops, refine=False, main=False)
            add("carn-pcsr", knob, psnr + 0.03, gflops + 1, lr="float", main=False)
            tiles = {"units": 5, "lr_pixels": 1250}
            add("carn-arm", knob, psnr, 1.25 * gflops, **tiles)
    return pd.DataFrame(rows).astype({"training": "Int64", "knob": "float64"})


def points():
    summary = fairness.summarise(results())
    return summary.assign(curve=fairness.labels(summary))


def test_the_cheapest_near_point_is_selected():
    chosen = fairness.selected(points())
    assert chosen["curve"].tolist() == ["original", "arm", "pcsr"]
    assert chosen["near"].all() and chosen["knob"].iloc[1:].tolist() == [2, 2]
    far = points()
    far.loc[far["method"] == "arm", "psnr_rgb"] -= 1
    chosen = fairness.selected(far).set_index("curve")
    assert not chosen.loc["arm", "near"] and chosen.loc["arm", "knob"] == 3


def test_flops_are_split_into_routing_and_overlap():
    table = fairness.split_flops(fairness.selected(points()))
    paper = table[table["Convention"] == "paper"].set_index("Method")
    assert paper.loc["arm", "GFLOPs"] == pytest.approx(75)
    assert paper.loc["arm", "Without overlap"] == pytest.approx(60)
    assert paper.loc["arm", "Added by overlap"] == pytest.approx(15)
    assert paper.loc["arm", "Saved by routing (%)"] == pytest.approx(40)
    assert paper.loc["arm", "Saved in total (%)"] == pytest.approx(25)
    assert paper.loc["pcsr", "Saved by routing (%)"] == pytest.approx(40)
    assert paper.loc["pcsr", "Overlap factor"] == pytest.approx(1)


def test_the_protocol_is_worth_what_it_adds():
    effects = choices.protocol_effects(
        results().assign(curve=results()["method"]), fairness.selected(points())
    )
    said = {(r["Choice"], r["Method"]): r for _, r in effects.iterrows()}
    float_lr, refined = (choices.CHOICES[name][0] for name in ("lr", "refine"))
    assert set(said) == {(float_lr, "original"), (float_lr, "pcsr"), (refined, "pcsr")}
    assert said[float_lr, "pcsr"]["PSNR-RGB (dB)"] == "0.030 [0.030, 0.030]"
    assert said[float_lr, "pcsr"]["GFLOPs"] == "+1.00"
    assert said[refined, "pcsr"]["PSNR-RGB (dB)"] == "-0.020 [-0.020, -0.020]"
    assert said[refined, "pcsr"]["GFLOPs"] == "+0.00"


def test_conventions_that_agree_are_shown_once():
    same = results().assign(flops_algorithmic=lambda table: table["flops_paper"])
    page = fairness.fairness_markdown(same)
    assert page.count("FLOPs (paper and algorithmic):") == 1
    assert "FLOPs (paper):" not in page and "executes" not in page


def test_a_method_without_a_knob_is_one_point():
    table = results()
    plain = table[table["method"] == "original"].assign(method="plain", experiment="carn-plain")
    page = fairness.fairness_markdown(pd.concat([table, plain], ignore_index=True))
    assert "| plain | 100.0 [100.0, 100.0] |" in page
    assert "| plain | PCSR |" in page or "| PCSR | plain |" in page


def test_few_images_are_mentioned_once():
    page = fairness.fairness_markdown(results().query("image < '03'"))
    assert page.count("fewer than 8 images") == 1
    # 29.95 dB lies between (29, 40) and (29.96, 60): 59.8 GFLOPs.
    assert "| PCSR | 59.8 |" in page
    assert "Not compared: whole image instead of tiles." in page
    assert "fewer than" not in fairness.fairness_markdown(results())


def test_without_an_original_nothing_is_compared():
    page = fairness.fairness_markdown(results().query("method != 'original'"))
    assert "The original was not measured" in page
