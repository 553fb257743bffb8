"""The static frontier: who is on it, its PSNR between two networks, who lies above it."""

import numpy as np
import pandas as pd
import pytest
from test_report_fairness import IMAGES, rows_of, table

from pcsr.report import tidy
from pcsr.report.curves import Curve
from pcsr.report.fairness import frontier
from pcsr.report.fairness import page as fairness
from pcsr.report.figures.psnr_flops import psnr_flops


def static(backbone, psnr, gflops, **own):
    where = {"backbone": backbone, "experiment": f"{backbone}-original"}
    return rows_of("original", [(None, psnr, gflops)], **where | own)


# On the frontier: 30 dB at 10 G and 32 dB at 1000 G, so that it has 31 dB at 100 G.
NETWORKS = (static("cheap", 30.0, 10.0), static("carn", 32.0, 1000.0), static("bad", 29.9, 500.0))


def noisy(rows, spread):
    """The same mean over the images, but not the same difference on each."""
    return [
        row | {"psnr_rgb": row["psnr_rgb"] + spread * (-1) ** int(row["image"])} for row in rows
    ]


def with_points(points, spread=0.0, networks=NETWORKS):
    routed = rows_of("pcsr", [(k, *point) for k, point in enumerate(points)])
    return table(*networks, noisy(routed, spread))


def found(results, count="paper"):
    main = results.assign(curve=tidy.labels(results))
    return frontier.differences(main, count)


@pytest.mark.parametrize(
    ("psnr", "gflops", "difference", "verdict"),
    [
        (31.2, 100.0, 0.2, frontier.ABOVE),
        (30.9, 100.0, -0.1, frontier.BELOW),
        (30.6, 10 * 10**0.5, 0.1, frontier.ABOVE),  # a quarter of the way in log FLOPs
        (31.9, 5000.0, -0.1, frontier.BELOW),  # beyond the most expensive network it stays
        (25.0, 9.0, np.nan, frontier.CHEAPER),
        (25.0, 0.0, np.nan, frontier.CHEAPER),
        (30.0, 10.0, 0.0, frontier.LEVEL),
    ],
)
def test_differences_and_verdicts(psnr, gflops, difference, verdict):
    (_, point), *_ = found(with_points([(psnr, gflops)])).iterrows()
    assert point["difference"].value == pytest.approx(difference, nan_ok=True, abs=1e-9)
    assert (point["psnr"] - 0.3 * 4.5, point["gflops"]) == pytest.approx((psnr, gflops))
    assert point["verdict"] == verdict


def test_a_difference_that_hangs_on_the_images_is_not_told_apart():
    (one,) = found(with_points([(31.05, 100.0)], spread=1.0))["difference"]
    assert one.value == pytest.approx(0.05) and one.low < 0 < one.high
    (verdict,) = found(with_points([(31.05, 100.0)], spread=1.0))["verdict"]
    assert verdict == frontier.LEVEL


def test_the_executed_flops_make_another_frontier():
    results = with_points([(31.2, 100.0)])
    cheaper = results["backbone"] == "bad"
    results.loc[cheaper, "flops_engine"] = 5e9
    results.loc[results["method"] == "pcsr", "flops_engine"] = 7e9
    assert found(results)["verdict"].tolist() == [frontier.ABOVE]
    (executed,) = found(results, "engine")["difference"]
    expected = 31.2 - (29.9 + 0.1 * np.log(7 / 5) / np.log(10 / 5))
    assert executed.value == pytest.approx(expected)


def test_a_frontier_in_each_resample_is_that_of_its_images():
    curve = Curve(np.array([[30.0, 31.0], [34.0, 31.0]]), np.array([[1.0, 2.0], [1.0, 2.0]]))
    first, second = np.array([0]), np.array([1])
    assert frontier.psnr_at(curve, np.array([2.0]), first) == pytest.approx([31.0])
    assert frontier.psnr_at(curve, np.array([2.0]), second) == pytest.approx([34.0])


def test_the_page_answers_and_names_the_networks():
    points = [(31.2, 100.0), (30.9, 100.0), (25.0, 1.0)]
    page = fairness.fairness_markdown(with_points(points))
    section = page[
        page.index("## Which operating points lie above the static frontier on set, x4?") :
    ]
    assert "cheap (31.35 dB, 10.00 G), CARN (33.35 dB, 1000.00 G)" in section
    assert "Beaten by another static network: bad." in section
    assert "**1 of the 2 adaptive operating points that can be compared lie above it**" in section
    assert "1 more is cheaper than every static network." in section
    assert "| CARN | PCSR | 3 | 1 | 0 | 1 | 1 | 0.200 [0.200, 0.200] | 0: 100.00 G |" in section
    assert "| CARN | PCSR | 0 | 100.00 | 32.550 | 0.200 [0.200, 0.200] |" in section
    # Static networks alone have nothing to compare with in sections of their own.
    assert "## CARN on set" in page and "## cheap on set" not in page


def test_one_network_is_no_frontier():
    page = fairness.fairness_markdown(with_points([(31.2, 100.0)], networks=NETWORKS[1:2]))
    assert "static frontier" not in page
    alone = fairness.fairness_markdown(table(*NETWORKS))
    assert "static frontier" not in alone and "## cheap on set" in alone


def test_few_images_have_no_interval_and_no_verdict():
    few = with_points([(31.2, 100.0)])
    (point,) = found(few[few["image"].isin(["00", "01"])]).itertuples()
    assert point.difference.text(1) == "0.2" and point.verdict == frontier.LEVEL


def test_images_that_a_network_lacks_are_left_out():
    results = with_points([(31.2, 100.0)])
    lacking = (results["backbone"] == "bad") & (results["image"] == "09")
    page = fairness.fairness_markdown(results[~lacking])
    assert "cheap (31.20 dB, 10.00 G)" in page  # the mean of nine images


@pytest.mark.parametrize("least", [1.0, 0.0])
def test_every_figure_shows_the_static_networks(least):
    """Points of no cost at all are drawn, too; what is more than 1 dB below is not named."""
    networks = (
        *(static("cheap", 31.3, 10.0), static("carn", 32.0, 1000.0), static("bad", 31.2, 500.0)),
        static("far", 30.0, 5.0),
    )
    points = [(31.9, 100.0), (31.5, 50.0), (31.1, least)]
    results = with_points(points, networks=networks)
    figure = psnr_flops(results, "set", "carn")
    for panel in figure.axes:
        assert panel.get_xscale() == ("log" if least else "symlog")
        texts = {text.get_text() for text in panel.texts}
        assert {"cheap", "bad"} <= texts and not {"carn", "far"} & texts
        drawn = [line.get_xydata() for line in panel.get_lines()]
        edge, squares = drawn[-2:]
        assert edge[:-1, 0].tolist() == [5, 10, 1000]
        # Beyond the last network it stays, as on the page of comparisons.
        assert edge[-1].tolist() == [panel.get_xlim()[1], edge[-2, 1]]
        (whole,) = [line for line in panel.get_lines() if line.get_marker() == "D"]
        assert whole.get_markerfacecolor() == "white"  # a square on it would be seen
        below = "" if least else ", linear below 50"
        assert panel.get_xlabel() == f"GFLOPs per image (log scale{below})"
        assert sorted(squares[:, 0]) == [5, 10, 500]
        low, high = panel.get_xlim()
        assert low < least and high > 1000
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"other static network", "static frontier"} <= set(names)


def test_a_backbone_of_several_originals_names_them():
    results = with_points([(31.2, 100.0)])
    other = table(static("cheap", 29.0, 20.0, experiment="cheap-small"))
    both = pd.concat([results, other])
    named = frontier.names(
        both[both["method"] == "original"].pipe(lambda t: t.assign(curve=tidy.labels(t)))
    )
    assert set(named) == {"carn", "bad", "cheap (cheap-original)", "cheap (cheap-small)"}
    assert len(both) == len(results) + IMAGES
