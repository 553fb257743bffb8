"""The sentences of a suite: the cheapest point as good as the original, and what it costs."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pcsr.errors import UserError
from pcsr.report.summary import GATE_DB, Timed, sentences, summary
from pcsr.report.tidy import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """FSRCNN's original and PCSR at three values of the knob, two images; 1 is as good."""
    rows = load(ROOT / "reports/quick/results.csv")
    rows = rows[rows["main"] & (rows["backbone"] == "fsrcnn") & ~rows["adaptive"]]
    rows = rows[rows["image"].isin(sorted(set(rows["image"]))[:2])]
    original = rows[rows["method"] == "original"]
    routed = rows[(rows["method"] == "pcsr") & rows["knob"].isin([0, 1, 2])]
    psnr = routed["knob"].map({0.0: 30.5, 1.0: 30 - GATE_DB + 0.001, 2.0: 29.9})
    cost = routed["knob"].map({0.0: 8e9, 1.0: 5e9, 2.0: 3e9})
    return pd.concat(
        [
            original.assign(psnr_rgb=30.0, flops_engine=1e10),
            routed.assign(psnr_rgb=psnr, flops_engine=cost),
        ]
    )


def timed(**ratios: float) -> tuple[Timed, ...]:
    return tuple(
        Timed(backbone="fsrcnn", method="pcsr", path=path, knob=knob, time_ratio=ratio)
        for knob, ratio in ((name.removeprefix("k"), ratio) for name, ratio in ratios.items())
        for path in ("engine", "definition")
    )


def test_the_cheapest_point_within_the_gate_is_named(results: pd.DataFrame) -> None:
    (line,) = sentences(results)
    assert line == (
        "fsrcnn on embedded-photos, x4: pcsr at knob 1 gives 29.95 dB (-0.05 dB against the "
        "original) with 50% of the original's executed FLOPs."
    )


def test_the_time_of_that_point_is_told(results: pd.DataFrame) -> None:
    (line,) = sentences(results, timed(k0=0.9, k1=0.612, k2=0.3))
    assert line.endswith("with 50% of the original's executed FLOPs and 61% of its time.")


def test_times_in_half_precision_are_not_mixed_in(results: pd.DataFrame) -> None:
    times = timed(k1=0.612)
    half = [case.model_copy(update={"precision": "bf16", "time_ratio": 0.2}) for case in times]
    assert [*sentences(results, (*times, *half))] == [*sentences(results, times)]


def test_the_spread_of_a_time_is_told(results: pd.DataFrame) -> None:
    (case, *_) = timed(k1=0.612)
    (line,) = sentences(results, (case.model_copy(update={"time_ratio_quartiles": (0.6, 0.64)}),))
    assert line.endswith("61% of its time (half of the rounds between 60% and 64%).")


def test_where_times_are_known_a_timed_point_is_named(results: pd.DataFrame) -> None:
    (line,) = sentences(results, timed(k0=0.9))
    assert "pcsr at knob 0 gives 30.50 dB (+0.50 dB" in line
    assert line.endswith("with 80% of the original's executed FLOPs and 90% of its time.")


def test_nothing_is_claimed_of_worse_points(results: pd.DataFrame) -> None:
    (line,) = sentences(results[results["knob"].isna() | (results["knob"] == 2)])
    assert line == "fsrcnn on embedded-photos, x4: no method is within 0.05 dB of the original."


def test_originals_alone_are_no_result(results: pd.DataFrame) -> None:
    assert not list(sentences(results[results["method"] == "original"]))
    assert not list(sentences(results[results["method"] != "original"]))


def test_the_command_reads_what_bench_writes(tmp_path: Path) -> None:
    out, times = tmp_path / "summary.txt", ROOT / "reports/latency/cpu-1232.json"
    summary(ROOT / "reports/released/results.csv", out=out, times=times)
    (carn,) = [line for line in out.read_text().splitlines() if line.startswith("carn on urban100")]
    assert "pcsr at knob" in carn
    assert re.search(r"% of its time \(half of the rounds between .*\)\.$", carn)
    broken = tmp_path / "times.json"
    broken.write_text(json.dumps({"cases": [{"backbone": "carn"}]}))
    with pytest.raises(UserError, match=r"times\.json"):
        summary(ROOT / "reports/released/results.csv", out=out, times=broken)
