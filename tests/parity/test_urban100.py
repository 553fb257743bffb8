"""Released PCSR and its originals on Urban100 images, against the plain computation of plain.py.

The suite's side goes all the way through its sweep. The two sides share nothing but the released
files and the images.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import plain
import pytest
import torch

from pcsr.data import images
from pcsr.evaluation.sweep import sweep

pytestmark = pytest.mark.shared

KNOBS = (0.0, 1.0, 2.0)
COLUMNS = ["knob", "refine", "psnr_rgb", "flops_paper"]
Point = tuple[float | None, bool, float, float]  # knob (None: ADM), refined, dB, FLOPs


@torch.no_grad()
def plainly_measured(saved: Path, backbone: str, hr: np.ndarray, bits8: bool) -> list[list[Point]]:
    """Points of the original, which is never refined, and of PCSR."""
    files = [saved / f"{backbone}-{name}/iter_last.pth" for name in ("x4", "pcsr-phase1")]
    whole, routing = (
        torch.load(file, map_location="cpu", weights_only=True)["model"]["sd"] for file in files
    )
    lr = plain.degrade(hr, bits8=bits8)
    height, width = plain.tile_crop(*lr.shape[:2])
    lr, hr = lr[:height, :width], hr[: 4 * height, : 4 * width]
    sr = plain.original(whole, backbone, lr)
    flops = plain.flops(backbone, "original", height, width)
    original: list[Point] = [(None, True, plain.psnr(sr, hr), flops)]
    light, heavy, probability = plain.pcsr(routing, backbone, lr)
    masks = {k: plain.route(probability, k, backbone) for k in KNOBS}
    routed: list[Point] = []
    for knob, mask in {**masks, None: plain.adaptive(probability)}.items():
        sr = np.where(mask[..., None], heavy, light)
        flops = plain.flops(backbone, "pcsr", height, width, mask.mean())
        for refine in (True, False):
            refined = plain.refine(sr, mask) if refine else sr
            routed.append((knob, refine, plain.psnr(refined, hr), flops))
    return [original, routed]


@pytest.mark.parametrize(
    ("backbone", "lr", "names"),
    [
        ("fsrcnn", "float", ("img_008", "img_011", "img_021")),
        ("fsrcnn", "8bit", ("img_008",)),
        ("carn", "float", ("img_008",)),
        ("carn", "8bit", ("img_011",)),
    ],
)
def test_every_point_agrees(
    shared: Path, tmp_path: Path, backbone: str, lr: str, names: tuple[str, ...]
) -> None:
    saved, out = shared / "mirror/released/PCSR/save", tmp_path / "sweep.csv"
    weights = [saved / f"{backbone}-{name}/iter_last.pth" for name in ("x4", "pcsr-phase1")]
    for name in names:
        image = shared / f"mirror/Urban100/HR/{name}.png"
        sweep(
            weights=weights,
            images=image,
            out=out,
            knob=KNOBS,
            adaptive=True,
            lr=lr,  # type: ignore[arg-type]
            also=("refine=false",),
            device="cpu",
            threads=torch.get_num_threads(),
        )
        assert json.loads(out.with_suffix(".json").read_text())["released"]
        table = pd.read_csv(out)
        expected = plainly_measured(saved, backbone, images.read(image), lr == "8bit")
        for method, points in zip(("original", "pcsr"), expected, strict=True):
            rows = table[table.method == method].astype({"knob": object})
            ours = rows.where(rows.notna(), None)[COLUMNS].to_numpy().tolist()
            assert len(ours) == len(points)
            for (knob, refine, psnr, flops), point in zip(ours, points, strict=True):
                assert (knob, refine) == point[:2]
                assert psnr == pytest.approx(point[2], abs=1e-3)
                assert flops == pytest.approx(point[3], rel=1e-4)
