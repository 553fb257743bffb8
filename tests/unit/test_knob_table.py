"""From a PSNR drop to a knob value."""

import pytest

from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.knob_table import Point


def table(*drops: float) -> list[Point]:
    """Knob values 0, 1, 2, ... that lose ``drops``."""
    shares = [1 - n / 10 for n in range(len(drops))]
    return [Point(knob=n, drop=drops[n], share=shares[n]) for n in range(len(drops))]


def test_between_two_values_the_drop_is_linear() -> None:
    points = table(0.0, 0.01, 0.05)
    assert knob_table.for_drop(points, 0.0) == 0
    assert knob_table.for_drop(points, 0.01) == pytest.approx(1)
    assert knob_table.for_drop(points, 0.02) == pytest.approx(1.25)
    assert knob_table.for_drop(points, 9.0) == 2


def test_the_first_crossing_counts() -> None:
    """A cheap point that loses little by chance is not taken beyond one that loses more."""
    assert knob_table.for_drop(table(0.0, 0.1, 0.01), 0.05) == pytest.approx(0.5)
    # The first drop is negative: routing may help.
    assert knob_table.for_drop(table(0.0, -0.01, 0.03), 0.01) == pytest.approx(1.5)


def test_a_knob_that_falls_as_it_saves() -> None:
    points = [Point(knob=5, drop=0, share=1), Point(knob=1, drop=0.04, share=0.5)]
    assert knob_table.for_drop(points, 0.01) == pytest.approx(4)


def test_impossible_drops_and_damaged_tables_are_refused() -> None:
    with pytest.raises(UserError, match=r"--psnr-drop -0\.1: give a drop of at least 0 dB"):
        knob_table.for_drop(table(0.0, 0.01), -0.1)
    with pytest.raises(UserError, match="w: has no table"):
        knob_table.read({}, "w")
    for damaged in ({}, {"points": []}, {"points": [{"knob": "x"}]}, {"points": [1]}):
        with pytest.raises(UserError, match="w: its knob table is damaged"):
            knob_table.read({"knob_table": damaged}, "w")
