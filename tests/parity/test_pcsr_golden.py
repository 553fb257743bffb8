"""Features, heads, probabilities, masks, outputs and FLOPs against the golden values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import Knob, at, restored
from reference import released, srresnet
from torch import Tensor

from pcsr.backbones.carn import MEAN_RGB
from pcsr.methods.base import Method

pytestmark = pytest.mark.shared

MODELS = {
    "carn": "pcsr_carn_released",
    "fsrcnn": "pcsr_fsrcnn_released",
    "srresnet": "pcsr_srresnet_formula",
}
KNOBS: list[Knob] = [-25, 0, 0.5, 1, 2, 25, "adaptive"]


class Golden:
    """A golden file, and the models it was made with."""

    def __init__(self, shared: Path, backbone: str) -> None:
        self.values: dict[str, Any] = dict(np.load(shared / f"golden/{MODELS[backbone]}.npz"))
        # The reference subtracts CARN's mean before the network and adds it after saving.
        mean = torch.tensor(MEAN_RGB if backbone == "carn" else (0.0, 0.0, 0.0))
        self.mean = mean.view(3, 1, 1)
        self.lr = torch.from_numpy(self.values["lr_input"])[None] + self.mean
        self.pcsr: Method
        self.original: Method
        if backbone == "srresnet":
            self.pcsr, self.original = srresnet(shared)
        else:
            self.pcsr = released(shared, f"{backbone}-pcsr-phase1")
            self.original = released(shared, f"{backbone}-x4")

    def close(self, ours: Tensor, name: str, shifted: bool = True) -> None:
        expected = self.values[name]
        ours = ours.squeeze(0) - (self.mean if shifted else 0)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module", params=list(MODELS))
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared, request.param)


@torch.no_grad()
def test_features_heads_and_probabilities(golden: Golden) -> None:
    exploration = golden.pcsr.explore(golden.lr, 4)
    golden.close(golden.pcsr.encoder(golden.lr), "features", shifted=False)
    golden.close(exploration.scores[:, 1], "prob_heavy", shifted=False)
    golden.close(exploration.candidates[0], "light")
    golden.close(exploration.candidates[1], "heavy")
    golden.close(restored(golden.original, golden.lr, 4, None, refine=False).sr, "original")


@torch.no_grad()
@pytest.mark.parametrize("knob", KNOBS)
def test_masks_and_outputs(golden: Golden, knob: Knob) -> None:
    exploration = golden.pcsr.explore(golden.lr, 4)
    labels = golden.pcsr.route(exploration.scores, at(knob), 4)
    name = "adaptive" if knob == "adaptive" else f"k{knob:g}"
    np.testing.assert_array_equal(labels[0].numpy(), golden.values[f"heavy_mask_{name}"])
    outputs = 0
    for suffix, refine in (("raw", False), ("refined", True)):
        if f"sr_{name}_{suffix}" in golden.values:
            golden.close(
                golden.pcsr.compose(exploration, labels, at(refine=refine)), f"sr_{name}_{suffix}"
            )
            outputs += 1
    assert outputs


def test_flops_and_cost_shares(golden: Golden) -> None:
    size = golden.lr.shape[-2:]
    hr_pixels = 16 * size[0] * size[1]
    costs = golden.pcsr.costs(tuple(size), 4)
    values = golden.values
    light, heavy = (branch.paper * hr_pixels for branch in costs.branch)
    assert light == values["flops_paper_light"]
    assert heavy == values["flops_paper_heavy"]
    encoder_and_classifier = values["flops_paper_encoder"] + values["flops_paper_classifier"]
    assert costs.shared.paper == encoder_and_classifier
    heavy_pixels = int(values["heavy_mask_k0"].sum())
    total = costs.total([hr_pixels - heavy_pixels, heavy_pixels])
    assert total.paper == values["flops_paper_k0"]
    original = golden.original.costs(tuple(size), 4).total([1])
    assert original.paper == values["flops_paper_original"]
    np.testing.assert_allclose(golden.pcsr.cost_shares(4), values["cost_share"], atol=1e-7)
