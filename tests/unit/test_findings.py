"""The findings quote the committed reports."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INTERVAL = re.compile(r"\[-?[0-9.]+, -?[0-9.]+\]")


@pytest.mark.parametrize("page", ["docs/findings.md", "README.md"])
def test_every_interval_stands_in_a_report(page: str) -> None:
    suites = ("released", "weights", "degradation", "modern", "widths")
    pages = [f"reports/{name}" for name in suites]
    reports = [path.read_text() for name in pages for path in (ROOT / name).glob("*.md")]
    quoted = INTERVAL.findall((ROOT / page).read_text())
    missing = [interval for interval in quoted if not any(interval in one for one in reports)]
    assert not missing
    assert len(quoted) > {"docs/findings.md": 20, "README.md": 0}[page]


def test_every_finding_names_a_command() -> None:
    text = (ROOT / "docs/findings.md").read_text()
    for finding in text.split("\n## ")[1:]:
        title, _, body = finding.partition("\n")
        shown = body.partition("Shown by ")[2]
        assert re.search(r"`(make|pcsr) ", shown), title
