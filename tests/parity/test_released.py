"""The released weights on real photographs: the numbers that the authors and the protocol state."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import at
from reference import released

from pcsr import flops, metrics
from pcsr.backbones.carn import CARN
from pcsr.backbones.fsrcnn import FSRCNN
from pcsr.backbones.srresnet import SRResNet
from pcsr.config.models import ProtocolConfig
from pcsr.data import images
from pcsr.data.test_images import open_images
from pcsr.evaluation import measure, show
from pcsr.evaluation.measure import Pair
from pcsr.images.levels import to_uint8

FLOAT = ProtocolConfig(lr="float", crop="none", refine=False)
BOTH = [FLOAT, FLOAT.model_copy(update={"refine": True})]


@pytest.fixture(scope="module")
def pair(shared: Path) -> Pair:
    (image,) = open_images(shared / "mirror/released/PCSR/results/HR.png")
    return measure.make_pair(image, 4, FLOAT)


@pytest.mark.shared
def test_demo_numbers_of_image_1232(shared: Path, pair: Pair) -> None:
    original = show.show(released(shared, "carn-x4"), pair, 4, at())
    assert f"{original.psnr_rgb:.2f} dB {original.gflops:.2f} G" == "29.49 dB 130.91 G"
    pcsr = released(shared, "carn-pcsr-phase1")
    adaptive = show.show(pcsr, pair, 4, at("adaptive"))
    assert f"{adaptive.psnr_rgb:.2f} dB {adaptive.gflops:.2f} G" == "29.48 dB 74.03 G"
    assert adaptive.psnr_rgb == pytest.approx(29.477, abs=5e-4)
    assert adaptive.shares[1] == pytest.approx(0.1447, abs=5e-5)

    # One dense pass gives the same points as the sparse path, and the others of the protocol.
    measures = {"psnr_rgb": metrics.psnr_rgb}
    rows = list(measure.measure(pcsr, pair, 4, [at("adaptive"), at(0.0)], BOTH, measures))
    raw, refined = rows[::2], rows[1::2]
    assert [row["refine"] for row in raw + refined] == [False, False, True, True]
    assert refined[0]["psnr_rgb"] == pytest.approx(29.459, abs=5e-4)
    assert refined[0]["flops_paper"] == raw[0]["flops_paper"]
    assert raw[0]["psnr_rgb"] == pytest.approx(adaptive.psnr_rgb, abs=1e-4)
    assert raw[0]["flops_paper"] == adaptive.gflops * 1e9
    assert raw[1]["psnr_rgb"] == pytest.approx(29.489, abs=5e-4)
    assert raw[1]["flops_paper"] / 1e9 == pytest.approx(84.27, abs=5e-3)
    assert raw[1]["share_1"] == pytest.approx(0.2914, abs=5e-5)

    # The authors' own output image was made by the same weights and rule.
    theirs = images.read(shared / "mirror/released/PCSR/results/PCSR.png")
    difference = np.abs(theirs.astype(int) - adaptive.sr)
    assert (difference <= 1).mean() > 0.999


@pytest.mark.shared
def test_what_fsrcnn_pcsr_saves_depends_on_the_convention(shared: Path, pair: Pair) -> None:
    measures = {"psnr_rgb": metrics.psnr_rgb}
    (fsrcnn,) = measure.measure(released(shared, "fsrcnn-x4"), pair, 4, [at()], [FLOAT], measures)
    pcsr = released(shared, "fsrcnn-pcsr-phase1")
    (routed,) = measure.measure(pcsr, pair, 4, [at(0.0)], [FLOAT], measures)
    assert fsrcnn["psnr_rgb"] == pytest.approx(28.500, abs=5e-4)
    assert routed["psnr_rgb"] == pytest.approx(28.467, abs=5e-4)
    giga = [
        row[name] / 1e9 for name in ("flops_paper", "flops_algorithmic") for row in (fsrcnn, routed)
    ]
    assert giga == pytest.approx([52.98, 17.67, 5.66, 17.67], abs=5e-3)


@pytest.mark.shared
def test_our_lr_image_is_the_authors(shared: Path) -> None:
    results = shared / "mirror/released/PCSR/results"
    (image,) = open_images(results / "HR.png")
    ours = measure.make_pair(image, 4, ProtocolConfig(lr="8bit", crop="none")).lr
    difference = np.abs(images.read(results / "LRx4.png").astype(int) - to_uint8(ours))
    assert difference.max() <= 1 and (difference == 0).mean() > 0.999


def test_parameters_and_flops_per_tile() -> None:
    tile = torch.zeros(1, 3, 32, 32)
    expected = {  # parameters, convolution GFLOPs per tile (paper, algorithmic), extra per LR pixel
        FSRCNN: (24_515, 467.88, 49.84, 136),
        CARN: (294_915, 1154.88, 1154.88, 12 * 64 * 2),
        SRResNet: (1_517_571, 5193.99, 5193.99, 0),
    }
    for backbone, (parameters, paper, algorithmic, elementwise) in expected.items():
        network = backbone()
        assert sum(p.numel() for p in network.parameters()) == parameters
        counted = flops.count(network, tile)
        # The published per-tile numbers leave out PReLU and BatchNorm; the golden ones count them.
        extra = elementwise * 32 * 32
        assert round((counted.paper - extra) / 1e6, 2) == paper
        assert round((counted.algorithmic - extra) / 1e6, 2) == algorithmic
    without = CARN(batch_norm=False)
    # The release without BatchNorm counts its two fixed mean shifts, 24 numbers, as parameters.
    assert sum(p.numel() for p in without.parameters()) == 294_171 - 24
