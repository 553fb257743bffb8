"""What knob values cost in PSNR, and from a PSNR drop to a knob value."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from models import build, photograph_like
from PIL import Image

from pcsr.data.test_images import TestImages, open_images
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.knob_table import Point
from pcsr.images.levels import to_uint8


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


#: Measured against the most expensive of the values given.
OLD = {"points": [{"knob": 25, "drop": 0, "share": 1}]}


def test_impossible_drops_and_damaged_tables_are_refused() -> None:
    for drop in (-0.1, math.nan, math.inf):
        with pytest.raises(UserError, match=rf"--psnr-drop {drop}: give a drop of at least 0 dB"):
            knob_table.for_drop(table(0.0, 0.01), drop)
    with pytest.raises(UserError, match=r"at least 0\.3 dB, or measure more expensive values"):
        knob_table.for_drop(table(0.3, 0.4), 0.0)
    with pytest.raises(UserError, match="w: has no table"):
        knob_table.read({}, "w")
    for damaged in ({}, {"points": []}, {"points": [{"knob": "x"}]}, {"points": [1]}, OLD):
        with pytest.raises(UserError, match="w: its knob table is damaged"):
            knob_table.read({"knob_table": damaged}, "w")


@dataclass(frozen=True)
class Photographs:
    """Test images, some of which a method restores exactly."""

    path: Path

    def write(self, name: str, image: np.ndarray) -> None:
        Image.fromarray(image).save(self.path / f"{name}.png")

    def opened(self) -> TestImages:
        return open_images(self.path)


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    made = Photographs(tmp_path)
    made.write("photograph", to_uint8(photograph_like(256, 384)))
    return made


@pytest.mark.parametrize("name", ["pcsr", "classsr", "arm"])
def test_the_reference_is_the_full_computation(name: str, photographs: Photographs) -> None:
    """A value measured alone, among others, and the cheapest one: the same drop each time."""
    method, images = build("fsrcnn", name), photographs.opened()
    cheap, costly = (0.0, 50.0) if name == "arm" else (25.0, -25.0)
    several = {point.knob: point for point in knob_table.measure(method, images, [cheap, costly])}
    (alone,) = knob_table.measure(method, images, [cheap])
    assert alone == several[cheap]
    assert alone.drop != 0 and alone.share < 0.9
    if name != "arm":  # whose table may prefer a narrower width at any eta
        assert several[costly] == Point(knob=costly, drop=0, share=1)
    if alone.drop > 0:
        with pytest.raises(UserError, match="--psnr-drop 0: give a drop of at least"):
            knob_table.for_drop([alone], 0.0)


def test_images_restored_exactly_do_not_count(photographs: Photographs) -> None:
    method = build("fsrcnn", "pcsr")
    before = knob_table.measure(method, photographs.opened(), [-25.0, 25.0])
    with torch.no_grad():  # black in, black out
        for head in method.heads:
            head[-1].weight.zero_()
            head[-1].bias.zero_()
    photographs.write("black", np.zeros((256, 384, 3), np.uint8))
    flat = knob_table.measure(method, photographs.opened(), [-25.0, 25.0])
    (photographs.path / "black.png").unlink()
    assert flat == knob_table.measure(method, photographs.opened(), [-25.0, 25.0]) != before
    for path in photographs.path.iterdir():
        path.unlink()
    photographs.write("black", np.zeros((256, 384, 3), np.uint8))
    with pytest.raises(UserError, match="every image is restored exactly"):
        knob_table.measure(method, photographs.opened(), [-25.0, 25.0])
