"""The latency page and its figure: a panel for each backbone and image, looks as in all figures."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pcsr.benchmarks import latency_page
from pcsr.errors import UserError
from pcsr.report.figures import style

LATENCY = Path(__file__).parents[2] / "reports" / "latency"
FILES = [LATENCY / "cpu-1232.json", LATENCY / "cpu-lake-4k.json"]


@pytest.fixture(scope="module")
def drawn():
    return latency_page.figure([latency_page.read(path) for path in FILES])


def test_there_is_a_panel_for_each_backbone_and_image(drawn):
    assert [panel.get_title() for panel in drawn.axes] == [
        "CARN: image 1232 (LR 420x276)",
        "CARN: image lake-4k (LR 960x540)",
        "FSRCNN: image 1232 (LR 420x276)",
        "SRResNet, untrained weights: image 1232 (LR 420x276)",
    ]
    assert {panel.get_subplotspec().get_geometry()[:2] for panel in drawn.axes} == {(2, 2)}
    for panel in drawn.axes:
        assert panel.get_xlabel() == "algorithmic FLOPs, relative to the original"
        assert panel.get_ylabel() == "time, relative to the original"


def test_the_legend_tells_how_methods_were_run(drawn):
    (legend,) = drawn.legends
    faces = {
        text.get_text(): line.get_markerfacecolor()
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    assert list(faces) == [
        "ARM, as defined",
        "ClassSR, as defined",
        "PCSR",
        "reference PCSR",
        "time = FLOPs",
        "1.15 times the FLOPs",
    ]
    assert faces["reference PCSR"] == "white" != faces["PCSR"]


def test_every_case_is_a_marker_of_its_method(drawn):
    rows = pd.concat(latency_page.cases(latency_page.read(path)) for path in FILES)
    looks = style.styles(rows["method"])
    shown = rows[rows["path"].isin(latency_page.DRAWN) & (rows["precision"] == "float32")]
    fresh = shown["backbone"] == "srresnet"  # whose decisions at a value of the knob mean nothing
    assert set(shown[fresh]["knob"]) == {"0", "1", "budget 0.6"}
    shown = shown[~fresh | (shown["knob"] == "budget 0.6")]
    expected = {
        (looks[row.method].colour, looks[row.method].marker, row.flops_ratio, row.time_ratio)
        for row in shown.itertuples()
    }
    found = {
        (
            line.get_color(),
            line.get_marker(),
            float(line.get_xdata()[0]),
            float(line.get_ydata()[0]),
        )
        for panel in drawn.axes
        for line in panel.get_lines()
        if line.get_marker() != "None"
    }
    assert found == expected


def test_panels_of_a_backbone_can_be_compared_and_hold_all(drawn):
    one, other, *_ = drawn.axes  # both of CARN
    assert one.get_xlim() == other.get_xlim() == one.get_ylim() == other.get_ylim()
    for panel in drawn.axes:
        low, high = panel.get_xlim()
        markers = [line for line in panel.get_lines() if line.get_marker() != "None"]
        values = [float(v) for line in markers for v in (*line.get_xdata(), *line.get_ydata())]
        assert low < min(values)
        assert max(values) < high


def test_texts_do_not_cover_each_other(drawn):
    drawn.draw_without_rendering()
    for panel in drawn.axes:
        boxes = [text.get_window_extent() for text in panel.texts]
        for number, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:number]), panel.texts[number].get_text()
            for line in panel.get_lines():
                path = line.get_path().transformed(line.get_transform())
                assert not path.intersects_bbox(box, filled=False), panel.texts[number].get_text()


@pytest.fixture
def two_images(tmp_path):
    """Both files as one, as `pcsr bench --images A B` writes it."""
    first, second = (json.loads(path.read_text()) for path in FILES)
    first["cases"] += second["cases"]
    path = tmp_path / "two.json"
    path.write_text(json.dumps(first))
    return path


def test_images_of_one_file_are_told_apart(two_images):
    both = latency_page.read(two_images)
    titles = [panel.get_title() for panel in latency_page.figure([both]).axes]
    assert [title.partition(" (")[0] for title in titles[:2]] == [
        "CARN: image 1232",
        "CARN: image lake-4k",
    ]
    together = latency_page.cases(both).query("precision == 'float32'")
    each = [latency_page.cases(latency_page.read(path)) for path in FILES]
    apart = pd.concat(each).query("precision == 'float32'")
    assert together["loss"].tolist() == pytest.approx(apart["loss"].tolist())
    assert len(together) < len(both["cases"])
    text = latency_page.markdown([both])
    assert "| Time ratio | Its quartiles | Seconds | Image |" in text
    assert f"ratios as the median of {both['provenance']['rounds']} rounds or more" in text
    assert "| carn-pcsr | reference PCSR | float32 |" in text
    assert "| carn-arm | as defined | float32 |" in text and "| definition |" not in text


def test_without_float32_there_is_no_figure(two_images):
    measured = json.loads(two_images.read_text())
    measured["cases"] = [case for case in measured["cases"] if case.get("precision") == "bf16"]
    two_images.write_text(json.dumps(measured))
    with pytest.raises(UserError, match="in float32"):
        latency_page.figure([latency_page.read(two_images)])


def test_the_page_in_git_is_that_of_its_files():
    measured = sorted(LATENCY.glob("cpu-*.json"))
    made = latency_page.markdown([latency_page.read(path) for path in measured])
    assert made == (LATENCY / "cpu.md").read_text()
