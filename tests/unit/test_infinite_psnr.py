"""Images that are restored exactly: kept in the results, left out of every mean, and named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from models import build
from test_fairness import IMAGES, results

from pcsr.config.published import load_claims
from pcsr.errors import UserError
from pcsr.evaluation import measure
from pcsr.metrics import comparable, psnr_rgb
from pcsr.report import curves, tables, tidy
from pcsr.report.claims import page as claim
from pcsr.report.fairness import page as fairness
from pcsr.report.figures.psnr_flops import figure, psnr_flops

CLAIMS = Path(__file__).parents[2] / "configs" / "claims.yaml"
Change = Callable[[pd.DataFrame], pd.Series]
#: Which rows of the image "03" are infinite.
EXACT: dict[str, Change] = {
    "everywhere": lambda rows: rows["psnr_rgb"] > 0,
    "by one method": lambda rows: rows["method"] == "arm",
    "by the original": lambda rows: rows["method"] == "original",
    "at one knob": lambda rows: rows["knob"] == 3,
    "under another protocol": lambda rows: ~rows["main"] & (rows["lr"] == "float"),
}
PAGES: dict[str, Callable[[pd.DataFrame], str]] = {
    "fairness": fairness.fairness_markdown,
    "claims": lambda table: claim.claims_markdown(table, load_claims(CLAIMS)),
}


@pytest.fixture(autouse=True)
def no_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples take seconds, and say nothing about the rule."""
    monkeypatch.setattr(curves, "LEAST_IMAGES", 1 + IMAGES)


def measured() -> pd.DataFrame:
    """Twelve images by three methods, each other protocol too."""
    return results().replace({"test_set": {"set": "urban100"}})


def with_exact(where: Change, *images: str) -> pd.DataFrame:
    table = measured()
    table.loc[table["image"].isin(images or ["03"]) & where(table), "psnr_rgb"] = np.inf
    return table


@pytest.fixture(scope="module")
def without() -> dict[str, str]:
    """The pages of the other images alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "LEAST_IMAGES", 1 + IMAGES)
        return {name: page(measured().query("image != '03'")) for name, page in PAGES.items()}


@pytest.mark.parametrize("where", EXACT)
def test_every_mean_is_over_the_other_images(where: str, without: dict[str, str]) -> None:
    table = with_exact(EXACT[where])
    others = measured().query("image != '03'")
    assert tidy.comparable(table).equals(others)
    assert tidy.comparable(others).equals(others)
    summary = tidy.summarise(table)
    assert set(summary["images"]) == {IMAGES - 1} and set(summary["exact"]) == {1}
    expected = tidy.summarise(others)
    pd.testing.assert_frame_equal(summary.drop(columns="exact"), expected.drop(columns="exact"))
    note = (
        "Left out of all means of carn on urban100, x4, because some point restores them exactly "
        "(infinite PSNR): 03.\n"
    )
    for name, page in PAGES.items():
        text = page(table)
        assert note in text and note not in without[name]
        assert text.replace(f"{note}\n", "") == without[name]
    points = tables.operating_points(summary).drop(columns="vs original (dB)")
    assert np.isfinite(points.select_dtypes("float")).all(axis=None)


def test_the_commands_take_a_file_with_infinite_rows(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    table = with_exact(EXACT["at one knob"]).assign(lpips=0.1)
    for image, metric in (("04", "psnr_y"), ("05", "lpips")):
        table.loc[table["image"] == image, metric] = np.inf
    tidy.write_csv(tidy._ordered(table), path)
    loaded = tidy.load(path)
    assert len(loaded) == len(table) and np.isinf(loaded["psnr_y"]).any()  # the file keeps them
    drawn = psnr_flops(loaded, "urban100", "carn")
    assert "mean of 9 images, without 3 restored exactly" in drawn.get_suptitle()
    figure(path, test_set="urban100", backbone="carn", out=tmp_path / "figure.png")
    tables.table(path, out=tmp_path / "points.md")
    fairness.fairness(path, out=tmp_path / "fairness.md")
    claim.claims(path, out=tmp_path / "claims.md", published=CLAIMS)
    for name in ("points", "fairness", "claims"):
        page = (tmp_path / f"{name}.md").read_text()
        assert "(infinite PSNR): 03, 04, 05." in page
        assert "nan" not in page and "inf " not in page
        assert (tmp_path / f"{name}.html").exists()
    assert set(pd.read_csv(tmp_path / "points.csv")["Images"]) == {IMAGES - 3}


def test_a_test_set_of_which_nothing_is_left_is_named() -> None:
    table = with_exact(EXACT["by one method"], *(f"{n:02}" for n in range(IMAGES)))
    for consumer in (tidy.summarise, *PAGES.values()):
        with pytest.raises(UserError, match="every image of urban100 is restored exactly"):
            consumer(table)


def test_other_places_keep_the_image() -> None:
    other = measured().assign(backbone="fsrcnn")
    both = pd.concat([with_exact(EXACT["everywhere"]), other], ignore_index=True)
    summary = tidy.summarise(both).set_index("backbone")
    assert set(summary.loc["fsrcnn", "images"]) == {IMAGES}
    assert set(summary.loc["carn", "images"]) == {IMAGES - 1}


def test_the_rule_for_arrays() -> None:
    psnr = np.array([[30, 31], [np.inf, 40], [np.nan, 32], [50, np.inf], [np.inf, np.inf]])
    assert comparable(psnr).tolist() == [True, False, True, False, False]


@torch.no_grad()
def test_validation_leaves_out_what_is_restored_exactly() -> None:
    method = build("fsrcnn", "pcsr")
    for head in method.heads:  # type: ignore[union-attr]
        head[-1].weight.zero_()
        head[-1].bias.zero_()
    random = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    lr = torch.rand(1, 3, 32, 32)
    black = measure.Pair("black", 0 * lr, 0 * random)
    noise = measure.Pair("noise", lr, random)
    stage = method.stages[0]
    found = measure.validate(method, stage, [noise, black], 4, refine=True)
    assert found["psnr_rgb"] == measure.validate(method, stage, [noise], 4, True)["psnr_rgb"] < 20
    assert psnr_rgb(black.hr, black.hr, 4) == np.inf
    assert measure.validate(method, stage, [black], 4, True)["psnr_rgb"] == np.inf
