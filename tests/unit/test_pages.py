"""Tables of HTML pages: what a head and a cell say, and how they behave in a browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import chromium
import pandas as pd
import pytest
from chromium import Page

from pcsr.report import pages, tables
from pcsr.report.pages.tables import kind_of

REPORTS = Path(__file__).resolve().parents[2] / "reports"
PAGES = sorted(path for path in REPORTS.glob("*/*.html") if path.name != "index.html")
WIDE = "[...document.querySelectorAll('.table')].filter((box) => box.scrollWidth > box.clientWidth)"
TABLE = """# Page

## Place

| Method | Knob | PSNR (dB) | GFLOPs (paper) | GFLOPs (engine) | vs original (dB) | Verdict |
| :-- | --: | --: | --: | --: | --: | :-- |
| b | 1 | 27.10 | 3.00 | **2.00** | 0.10 [0.05, 0.20] | reproduced |
| a | ADM | **27.30** | - | 4.00 | -0.10 [-0.30, 0.10] | differs |
| c | -25 | 9.50 | 20.00 | 10.00 | -0.10 [-0.30, -0.05] | partial: 2 of 3 images |
"""


@pytest.mark.parametrize(
    ("heading", "text", "kind"),
    [
        ("vs original (dB)", "0.041", "good"),
        ("vs original (dB)", "-0.041", "bad"),
        ("vs original (dB)", "0.000", ""),
        ("vs original at 75 % (dB)", "0.07 [-0.11, 0.26]", ""),
        ("vs original, dB (same LR)", "-0.10 [-0.14, -0.07]", "bad"),
        ("BD-FLOPs (%)", "-40.5", "good"),
        ("BD-FLOPs (%)", "3.4 [-4.3, 9.9]", ""),
        ("BD-PSNR (dB)", "1.56 [1.02, 2.07]", "good"),
        ("Saved in total (%)", "-19.2", "bad"),
        ("Verdict", "reproduced (short training: 9 iterations)", "good"),
        ("Verdict", "not run", "open"),
        ("Verdict", "-", ""),
        ("PSNR-RGB (dB)", "27.1", ""),
        ("vs original (dB)", "-", ""),
        ("vs original (dB)", "<b>", ""),
    ],
)
def test_a_difference_says_something_where_its_interval_does(
    heading: str, text: str, kind: str
) -> None:
    assert kind_of(heading, text) == kind


def test_neighbours_share_what_their_headings_have_in_common() -> None:
    html = pages.html(TABLE)
    above, below = re.findall(r"<tr>(.*?)</tr>", html.partition("</thead>")[0], re.DOTALL)
    assert re.findall(r">([^<]+)</th>", above) == [
        *("Method", "Knob", "PSNR (dB)", "GFLOPs", "vs original (dB)", "Verdict")
    ]
    assert above.count('rowspan="2"') == 5 and '<th colspan="2" scope="colgroup">GFLOPs' in above
    assert re.findall(r">([^<]+)</th>", below) == ["paper", "engine"]
    one = pages.html("| a (x) | b (x) |\n| :-- | :-- |\n| 1 | 2 |\n")
    assert "rowspan=" not in one and "colspan=" not in one


def test_the_best_of_each_column_is_marked() -> None:
    text = pd.DataFrame(
        {
            "Of": ["a", "a", "b", "b"],
            "PSNR": ["27.1", "27.3 at 1", "9.0", "-"],
            "Cost": ["3.00", "3.00", "2.00", "4.00"],
            "Same": ["1", "1", "1", "1"],
        }
    )
    best = tables.best_cells(text, {"PSNR": 1, "Cost": -1, "Same": -1, "Absent": 1})
    assert best["PSNR"].tolist() == [False, True, False, False]
    assert best["Cost"].tolist() == [False, False, True, False]
    assert not best[["Of", "Same"]].any(axis=None)
    grouped = tables.best_cells(text, {"PSNR": 1, "Cost": -1}, by=["Of"])
    assert grouped["PSNR"].tolist() == [False, True, False, False]  # nothing to compare with in b
    assert grouped["Cost"].tolist() == [False, False, True, False]
    among = tables.best_cells(text, {"Cost": -1}, among=pd.Series([True, False, False, True]))
    assert among["Cost"].tolist() == [True, False, False, False]
    assert "| **27.3 at 1** |" in tables.markdown(text, ["PSNR"], best)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium.page(tmp_path_factory.mktemp("pages")) as page:
        yield page


def show(tab: Page, path: Path, width: int = 1440) -> None:
    tab.size(width, 900, touch=width < 800)
    tab.call("Page.navigate", url="about:blank")
    tab.call("Page.navigate", url=path.as_uri())
    tab.until(f"location.href === '{path.as_uri()}' && document.readyState === 'complete'")


def column(tab: Page, number: int) -> list[str]:
    rows = "[...document.querySelectorAll('tbody tr')]"
    found: list[str] = tab.run(f"{rows}.map((row) => row.cells[{number}].textContent)")
    return found


def test_a_click_on_a_heading_sorts(tab: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(pages.html(TABLE))
    show(tab, path)
    button = "[...document.querySelectorAll('th button')].find((one) => one.textContent === '{}')"

    def click(name: str) -> None:
        tab.run(f"{button.format(name)}.click()")

    click("PSNR (dB)")
    assert column(tab, 2) == ["9.50", "27.10", "27.30"]
    click("PSNR (dB)")
    assert column(tab, 2) == ["27.30", "27.10", "9.50"]
    assert tab.run(f"{button.format('PSNR (dB)')}.parentElement.ariaSort") == "descending"
    click("PSNR (dB)")
    assert column(tab, 0) == ["b", "a", "c"]  # as it was
    click("paper")  # a heading of the second row; what has no number goes last
    assert column(tab, 3) == ["3.00", "20.00", "-"]
    click("engine")
    assert column(tab, 4) == ["2.00", "4.00", "10.00"]
    click("Method")
    assert column(tab, 0) == ["a", "b", "c"]
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1
    tab.run(f"{button.format('Knob')}.focus()")
    assert tab.run("document.activeElement.textContent") == "Knob"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_pages_fit_a_phone_and_a_desk(tab: Page, path: Path) -> None:
    for width in (390, 1440):
        show(tab, path, width)
        assert tab.run("document.documentElement.scrollWidth") <= width
    # Of a table that scrolls, the first column and the knob stay.
    show(tab, path, 390)
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    moved = tab.run(
        f"""{WIDE}.map((box) => {{
          const kept = box.querySelectorAll('tbody tr:first-child > :is(:first-child, .pinned)');
          const left = (cell) => Math.round(cell.getBoundingClientRect().left);
          const place = () => [...kept].map(left);
          const before = place();
          box.scrollLeft = 60;
          return [before.length, String(before) === String(place()), box.scrollLeft > 0];
        }})"""
    )
    assert all(count and same and scrolled for count, same, scrolled in moved), moved


def test_the_leaderboard_fits_a_desk_without_scrolling(tab: Page) -> None:
    show(tab, REPORTS / "released" / "leaderboard.html")
    assert tab.run(f"{WIDE}.length") == 0


def test_nothing_is_logged_and_nothing_is_loaded(tab: Page) -> None:
    """Runs last: covers everything that the tests above did."""
    assert tab.complaints() == []
    assert tab.requests() <= {"file", "about"}


def test_the_pages_in_git_are_those_that_their_markdown_makes() -> None:
    assert len(PAGES) > 12
    for path in PAGES:
        made = pages.html(path.with_suffix(".md").read_text(encoding="utf-8"))
        assert path.read_text(encoding="utf-8") == made, path
