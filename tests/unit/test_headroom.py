"""What is left to save: the oracle's choices, what it saves, and where backbones spend FLOPs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from models import KNOBS, at, build, photograph_like, saved
from PIL import Image
from workspace import ROOT

from pcsr import metrics
from pcsr.errors import UserError
from pcsr.evaluation import headroom
from pcsr.evaluation.headroom import Choice, decided, errors, oracle, routers
from pcsr.evaluation.measure import DensePass, Pair
from pcsr.images.levels import to_tensor, to_uint8
from pcsr.methods.original import Original

COST = [0.0, 1.0, 4.0]


def pair(side: int = 64) -> Pair:
    hr = to_uint8(photograph_like(4 * side, 4 * side))
    lr = torch.nn.functional.avg_pool2d(to_tensor(hr), 4)
    return Pair("a", lr, hr)


def test_the_oracle_weighs_error_and_cost() -> None:
    error = torch.tensor([[9.0, 1.0], [3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    # The first unit loses 8 and 2 of the total of 2, in dB: 17.4, 4.3; its cost is 1/8 and 1/2.
    choices = {0.0: [2, 0], 11.0: [2, 0], 12.0: [1, 0], 104.0: [1, 0], 105.0: [0, 0]}
    for price, expected in choices.items():
        assert oracle(error, COST, price).tolist() == expected


@torch.no_grad()
@pytest.mark.parametrize("method", sorted(set(KNOBS) - {"original"}))
def test_errors_of_units_are_those_of_the_image(method: str) -> None:
    """Summed over units they give each branch's PSNR; a decision by tiles or pixels, its own."""
    made, one = build("fsrcnn", method), pair()
    dense = DensePass(made, one, 4)
    error = errors(dense)
    count = (4 * 64 - 8) ** 2 * 3
    for branch in range(made.branches):
        sr = to_uint8(made.compose(dense.exploration, dense.everywhere(branch), at()))
        psnr = 10 * np.log10(255**2 / (float(error[branch].sum()) / count))
        assert psnr == pytest.approx(metrics.psnr_rgb(sr, one.hr, 4))
    assert error.shape[1] == dense.scores[:, 0].numel()


@pytest.mark.parametrize("method", ["pcsr", "enaf"])
def test_no_router_beats_the_oracle(method: str) -> None:
    original, made = build("fsrcnn", "original"), build("fsrcnn", method)
    rows = pd.DataFrame([row for one in (original, made) for row in decided(one, pair())])
    of = rows[rows["method"] == method].groupby("by")
    best = {by: group["psnr_rgb"].max() for by, group in of}
    assert best["an oracle"] >= best["its router"] - 1e-3 >= best["full"] - 2e-3
    free = of.get_group("an oracle").set_index("knob")
    assert free.loc[1000.0, "share_0"] == 1
    assert free["flops_engine"].is_monotonic_decreasing
    table = headroom.savings(rows)
    less = ["its router, per LR pixel", "its router, by place alone"] if method == "pcsr" else []
    assert list(table["Decided by"]) == ["its router", *less, "an oracle"] * 3
    assert set(table["FLOPs"]) == {"paper", "executed", "executed, no pixel twice"}


@torch.no_grad()
def test_a_router_that_sees_less() -> None:
    """What LR pixels share, and what places share, is all that two patterns in one leave."""
    made = build("fsrcnn", "pcsr")
    exploration = DensePass(made, pair(16), 4).exploration
    content, place = torch.rand(1, 2, 16, 16), torch.rand(1, 2, 4, 4)
    spread = content.repeat_interleave(4, -2).repeat_interleave(4, -1)
    both = replace(exploration, scores=spread + place.tile(1, 1, 16, 16))
    seen = dict(routers(made, both))
    assert torch.equal(seen.pop("its router"), both.scores)
    per_lr_pixel, by_place = seen.values()
    mean_place, mean_content = (part.mean((-2, -1), keepdim=True) for part in (place, content))
    torch.testing.assert_close(per_lr_pixel, spread + mean_place)
    torch.testing.assert_close(by_place, place.tile(1, 1, 16, 16) + mean_content)


@torch.no_grad()
def test_a_choice_of_originals_is_each_of_them_on_tiles() -> None:
    """Cheapest first, whatever the order they are given in; bicubic is free."""
    large, small = (build("fsrcnn", "original", options={"width": width}) for width in (16, 8))
    assert isinstance(large, Original) and isinstance(small, Original)
    choice, lr = Choice([large, small]), torch.rand(1, 3, 32, 32)
    outputs = list(choice.outputs(lr))
    torch.testing.assert_close(outputs[1:], [small.network(lr), large.network(lr)])
    costs = [cost.engine for cost in choice.tile_costs()[1]]
    assert costs == [0, *(one.costs((32, 32), 4).branch[0].engine for one in (small, large))]
    rows = pd.DataFrame(decided(choice, pair()))
    assert set(rows["by"]) == {"full", "an oracle"}
    assert rows.loc[rows["by"] == "full", "share_2"].tolist() == [1]


def test_shares_of_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a modern backbone no head can save a tenth where CARN has a third to save."""
    monkeypatch.chdir(ROOT)
    table = headroom.shares(4.0).set_index(["Backbone", "FLOPs"]).astype(float)
    parts = table["Encoder (%)"] + table["Tail (%)"]
    assert parts.to_numpy() == pytest.approx(100, abs=0.11)
    executed = table.xs("executed", level="FLOPs")["All light (%)"]
    assert executed["carn"] < 67 and executed["srresnet"] < 50
    assert executed[["span", "efdn", "safmnv3"]].min() > 90


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    Image.fromarray(pair().hr).save(tmp_path / "a.png")
    weights = [
        saved(build("fsrcnn", method), tmp_path / f"{method}.safetensors")
        for method in ("original", "enaf")
    ]
    page = tmp_path / "headroom.md"
    headroom.headroom(weights=weights, images=tmp_path / "a.png", out=page, device="cpu", threads=1)
    text = page.read_text()
    assert "| enaf | an oracle | executed |" in text and "| span | paper |" in text
    assert page.with_suffix(".html").exists()
    with pytest.raises(UserError, match="give an original first"):
        headroom.headroom(weights=weights[1:], images=tmp_path / "a.png", out=page)
