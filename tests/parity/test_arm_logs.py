"""The suite's copies of ARM's test logs and of the two Test8K curves are what was published."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pcsr.config.published import Claims, load_claims
from pcsr.report.claims import logs

pytestmark = pytest.mark.shared

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims(ROOT / "configs/claims.yaml")


def test_every_logged_number_is_that_of_the_release(shared: Path, claims: Claims) -> None:
    known = claims.at_knobs[0]
    golden = pd.read_csv(shared / "golden/arm_log_pictures.csv", dtype={"picture": "str"})
    totals = pd.read_csv(shared / "golden/arm_log_totals.csv")
    places = ["backbone", "test_set", "eta_over_cost"]
    for table in (golden, totals):
        table["test_set"] = table["test_set"].str.lower()
    runs = {
        (log.backbone, log.test_set, knob): tiles for log in known.logs for knob, tiles in log.runs
    }
    total = totals.set_index(places)
    assert len(golden) == 3600 and set(total.index) == set(runs)
    for place, logged in golden.groupby(places):
        backbone, test_set, knob = place
        lines = logs.read_lines(Path(known.lines[test_set]), backbone, knob)
        assert lines.index.tolist() == logged["picture"].tolist()
        assert lines["psnr_rgb"].tolist() == logged["psnr_rgb_db"].tolist()
        assert lines["mflops_per_tile"].tolist() == logged["mflops_per_tile"].tolist()
        whole, tiles, costs = total.loc[place], runs[place], np.array(known.costs[backbone])
        assert tiles == tuple(whole[["tiles_bicubic", *(f"tiles_width{j}" for j in (1, 2, 3))]])
        assert (1e6 * costs[1:]).tolist() == pytest.approx(whole[6:9].tolist(), abs=0.5)
        assert tiles @ costs / sum(tiles) == pytest.approx(whole["mflops_per_tile"], abs=1e-4)
        assert lines["psnr_rgb"].mean() == pytest.approx(whole["mean_psnr_rgb_db"], abs=5e-5)


@pytest.mark.parametrize(("number", "file"), [(0, "arm"), (1, "enaf")])
def test_every_point_of_the_curves_is_that_of_the_release(
    shared: Path, claims: Claims, number: int, file: str
) -> None:
    golden = pd.read_csv(shared / f"golden/{file}_test8k_eta_curve.csv")
    found = [
        (curve.backbone, *(*values, np.nan)[:3])
        for curve in claims.at_knobs[number].curves
        for values in curve.points
    ]
    table = pd.DataFrame(found).sort_values(0, kind="stable").to_numpy()
    expected = golden.sort_values("backbone", kind="stable").to_numpy()
    assert table[:, 0].tolist() == expected[:, 0].tolist()
    numbers, published = (rows[:, 1:].astype(float) for rows in (table, expected))
    assert np.isclose(numbers, published, rtol=5e-6, equal_nan=True).all()
