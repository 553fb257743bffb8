"""ENAF: what each stage trains by, and what flat tiles, costs and unknown backbones do."""

import pytest
import torch
from models import at, build, photograph_like, stage_of, tiles_of
from torch import Tensor

from pcsr.baselines.enaf import ENAF
from pcsr.errors import UserError
from pcsr.training.loop import Step


@pytest.fixture
def enaf() -> ENAF:
    built = build("fsrcnn", "enaf")
    assert isinstance(built, ENAF)
    return built


@pytest.fixture
def crops() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(3, 3, 16, 16), torch.rand(3, 3, 64, 64)


@torch.no_grad()
def test_the_network_and_its_exits_train_by_l1(enaf: ENAF, crops: tuple[Tensor, Tensor]) -> None:
    lr, hr = crops
    l1 = [(enaf.upscale(branch, lr) - hr).abs().mean() for branch in range(4)]
    network, exits = (Step(enaf, stage_of(enaf, name)) for name in ("network", "exits"))
    torch.testing.assert_close(network(lr, hr, None)["loss"], l1[3])
    torch.testing.assert_close(exits(lr, hr, None)["loss"], l1[1] + l1[2])


@torch.no_grad()
def test_the_estimator_trains_towards_negative_psnr(
    enaf: ENAF, crops: tuple[Tensor, Tensor]
) -> None:
    lr, hr = crops
    hr[0] = enaf.upscale(2, lr)[0]  # exact: it has no PSNR, and does not count
    estimate, distances = enaf.estimator(lr), []
    for branch in range(4):
        apart = (enaf.upscale(branch, lr) - hr)[:, :, 4:-4, 4:-4]
        psnr = -10 * apart.square().mean(dim=(1, 2, 3)).log10()
        counted = psnr.isfinite()
        assert counted.sum() == (2 if branch == 2 else 3)
        distances.append((estimate[:, branch] + psnr)[counted].abs().mean())
    loss = Step(enaf, stage_of(enaf, "estimator"))(lr, hr, None)["loss"]
    torch.testing.assert_close(loss, torch.stack(distances).mean())


@torch.no_grad()
def test_exits_of_span_leave_along_the_way() -> None:
    """After two and four of its six blocks, and an exit runs none behind it."""
    enaf = build("span", "enaf", widths=(4, 6, 8))
    assert isinstance(enaf, ENAF)
    network, lr = enaf.network.network, torch.rand(1, 3, 8, 8)
    ran: list[int] = []
    for number, block in enumerate(network.blocks):  # type: ignore[arg-type]
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    for branch, blocks in ((1, 2), (2, 4), (3, 6)):
        ran.clear()
        one = enaf.upscale(branch, lr)
        assert ran == list(range(blocks))
        torch.testing.assert_close(one, list(enaf.outputs(lr))[branch])
    torch.testing.assert_close(enaf.upscale(3, lr), network(lr))
    costs = [cost.paper for cost in enaf.tile_costs()[1]]
    assert costs == sorted(set(costs))


@torch.no_grad()
def test_bicubic_of_a_flat_tile_is_worth_a_decibel_more(enaf: ENAF) -> None:
    flat = torch.full((1, 3, 32, 32), 0.3)
    busy = tiles_of(photograph_like(60, 60))[-1:]
    for tile, bonus in ((flat, 1.0), (busy, 0.0)):
        gain = enaf.score(tile) + enaf.estimator(tile)
        torch.testing.assert_close(gain, torch.tensor([[bonus, 0, 0, 0]]), rtol=0, atol=1e-5)


def test_eta_is_what_the_whole_networks_cost_has_to_gain() -> None:
    """Costs are shares as counted, or as the options say."""
    psnr = torch.tensor([20.0, 21.0, 21.4, 21.5]).view(1, 4, 1, 1)
    given = build("fsrcnn", "enaf", options={"cost_shares": (0.0, 0.1, 0.9, 1.0)})
    assert [int(given.route(psnr, at(eta), 4)) for eta in (0, 0.4, 0.6, 5, 11)] == [3, 3, 1, 1, 0]
    counted = build("fsrcnn", "enaf")
    assert isinstance(counted, ENAF)
    costs = [cost.paper for cost in counted.tile_costs()[1]]
    turn = 0.1 * costs[3] / (costs[3] - costs[2])  # where exit 2 begins to beat the network
    assert [int(counted.route(psnr, at(turn * x), 4)) for x in (0.99, 1.01)] == [3, 2]
    with pytest.raises(UserError, match="eta"):
        counted.route(psnr, at(-1.0), 4)


@pytest.mark.parametrize(
    "options",
    [{"widths": (8, 16)}, {"options": {"cost_shares": (0, 1)}}, {"options": {"exits": 3}}],
)
def test_options_that_make_no_network(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"model\.options"):
        build("fsrcnn", "enaf", **options)
