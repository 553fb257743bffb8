"""The FLOP meter: products however they are written, what is free, and what it refuses."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from models import photograph_like
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pcsr import flops, registry
from pcsr.config.models import ModelConfig
from pcsr.errors import UserError

N, C, H, W = 2, 6, 5, 7


class Calls(nn.Module):
    """A module whose forward pass is a function of its input."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


PRODUCTS: dict[str, tuple[Callable[[Tensor], object], int]] = {
    "matmul": (lambda x: x @ x.mT, 2 * N * C * H * H * W),
    "bmm": (lambda x: x[0].bmm(x[0].mT), 2 * C * H * H * W),
    "matrix and vector": (lambda x: x @ x[0, 0, 0], 2 * N * C * H * W),
    "dot": (lambda x: x[0, 0, 0].dot(x[0, 0, 1]), 2 * W),
    "inner": (lambda x: torch.inner(x[0, 0], x[0, 1]), 2 * H * H * W),
    "einsum": (lambda x: torch.einsum("nchw,ncdw->nchd", x, x), 2 * N * C * H * H * W),
    "tensordot": (lambda x: torch.tensordot(x[0], x[0], ([2], [2])), 2 * C * H * C * H * W),
    "baddbmm": (lambda x: torch.baddbmm(x[0], x[1][:, :, :H], x[1]), 2 * C * H * H * W),
    "addbmm": (lambda x: torch.addbmm(x[0, 0], x[1][:, :, :H], x[1]), 2 * C * H * H * W),
    "in place": (lambda x: x[0, 0].clone().addmm_(x[1, 0][:, :H], x[1, 0]), 2 * H * H * W),
    "linear": (lambda x: F.linear(x, torch.ones(9, W), torch.ones(9)), 2 * N * C * H * W * 9),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), 4 * N * C * H * H * W),
    "grouped": (
        lambda x: F.conv2d(x, torch.ones(C, 1, 3, 3), groups=C, padding=1),
        18 * N * C * H * W,
    ),
    "conv1d": (lambda x: F.conv1d(x[0], torch.ones(4, H, 3)), 2 * C * 4 * H * 3 * (W - 2)),
}
ACTIVATIONS = {  # of what torch runs as layers
    "matrix and vector": N * C * H,
    "inner": H * H,
    "tensordot": C * H * C * H,
    "in place": H * W,
    "linear": N * C * H * 9,
    "grouped": N * C * H * W,
    "conv1d": C * 4 * (W - 2),
}
FREE: dict[str, Callable[[Tensor], object]] = {
    **{
        mode: lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode)
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
    },
    "smoothed": lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
    "activations": lambda x: F.gelu(F.silu(x.relu().sigmoid().tanh())) + F.hardswish(x),
    "arithmetic": lambda x: ((1 - x) * 2 + x.square().sqrt() / 3).clamp(0, 1).where(x > 0, x),
    "shuffles": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x[:, :4], 2), 2).roll(1, -1).flip(-2),
    "windows": lambda x: F.fold(F.unfold(x, 3), (H, W), 3),
    "padding": lambda x: F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (1, 1)),
    "pooling": lambda x: F.avg_pool2d(F.max_pool2d(F.adaptive_avg_pool2d(x, 4), 2), 2),
    "statistics": lambda x: x.softmax(1).mean((2, 3)) - x.amax((2, 3)) + F.normalize(x).sum(),
    "choices": lambda x: x[:, x[0, :, 0, 0].argsort()].gather(1, x.argmax(1, keepdim=True)),
    "grids": lambda x: F.grid_sample(x, torch.zeros(N, 3, 3, 2), align_corners=False),
}
REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "Fourier": (torch.fft.fft2, "aten._fft_c2c"),
    "distances": (lambda x: torch.cdist(x, x), "aten._cdist_forward"),
    "decomposition": (torch.linalg.svd, "aten._linalg_svd"),
    "inverse": (lambda x: torch.linalg.inv(x[..., :H]), "aten.linalg_inv_ex"),
    "cumulative": (lambda x: x.cumsum(-1), "aten.cumsum"),
    "bilinear form": (lambda x: F.bilinear(x, x, torch.ones(4, W, W)), "aten._trilinear"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "quantize"),
}


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_products_are_counted_however_they_are_written(mode: Callable[[], object]) -> None:
    with mode():  # type: ignore[attr-defined]
        x = torch.rand(N, C, H, W)
        for name, (function, expected) in PRODUCTS.items():
            counted = flops.count(Calls(function), x)
            of_layers = ACTIVATIONS.get(name, 0)
            assert counted == flops.Flops(expected, expected, expected, of_layers), name
        for name, free in FREE.items():
            assert flops.count(Calls(free), x) == flops.Flops(), name


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_what_cannot_be_counted_is_refused_by_name(mode: Callable[[], object]) -> None:
    with mode():  # type: ignore[attr-defined]
        x = torch.rand(N, C, H, W)
        for name, (function, operation) in REFUSED.items():
            parent = nn.Sequential(nn.Identity(), Calls(function)).train()
            with pytest.raises(UserError, match=r"^Sequential\.1.*: cannot count the FLOPs") as no:
                flops.count(parent, x)
            assert operation in str(no.value), (name, str(no.value))
            assert parent.training
    assert torch.backends.mha.get_fastpath_enabled()


def test_operations_from_outside_torch_are_refused() -> None:
    with torch.library._scoped_library("pcsr_test", "FRAGMENT") as library:
        library.define("mystery(Tensor x) -> Tensor")
        library.impl("mystery", lambda x: x @ x.mT, "CPU")
        with pytest.raises(UserError, match=r"pcsr_test\.mystery"):
            flops.count(Calls(torch.ops.pcsr_test.mystery), torch.rand(N, C, H, W))


def test_attention_as_modules() -> None:
    tokens, width, hidden = 10, 8, 32
    x = torch.rand(1, tokens, width)
    products = 8 * tokens * width**2 + 4 * tokens**2 * width
    attention = nn.MultiheadAttention(width, 2, batch_first=True)
    assert flops.count(attention, x, x, x).paper == products
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    norms = 2 * 5 * tokens * width
    assert flops.count(layer, x).paper == products + 4 * tokens * width * hidden + norms


def test_norms_and_prelu_by_hand() -> None:
    x = torch.rand(N, C, H, W)
    elements = x.numel()
    each = {
        nn.PReLU(C): 1,
        nn.BatchNorm2d(C): 2,
        nn.InstanceNorm2d(C): 4,
        nn.InstanceNorm2d(C, affine=True): 5,
        nn.GroupNorm(2, C): 5,
        nn.LayerNorm(W): 5,
        nn.LayerNorm(W, elementwise_affine=False): 4,
    }
    for module, times in each.items():
        assert flops.count(module, x).paper == times * elements, module
    norm = nn.BatchNorm2d(C)
    assert flops.count(norm, x, folded=True) == flops.Flops(2 * elements, 2 * elements, 0)


@pytest.mark.parametrize("backbone", sorted(registry.BACKBONES))
def test_other_counters_agree(backbone: str) -> None:
    """On convolutions and linear layers, which they know; torch's own and fvcore's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

        network = registry.build(ModelConfig(backbone=backbone, method="original")).network.eval()
        lr = photograph_like(15, 18)
        analysis = FlopCountAnalysis(network, lr)
        analysis.unsupported_ops_warnings(False).tracer_warnings("none")
        multiply_adds = analysis.by_operator()
        outputs = ActivationCountAnalysis(network, lr)
        outputs.unsupported_ops_warnings(False).tracer_warnings("none")
        assert flops.count(network, lr).activations == outputs.total()
    known = 2 * (multiply_adds["conv"] + multiply_adds["linear"] + multiply_adds["addmm"])
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        network(lr)
    ours = flops.count(network, lr).algorithmic
    elementwise: list[int] = []
    for module in network.modules():
        each = {nn.PReLU: 1, nn.BatchNorm2d: 2}.get(type(module), 0)  # type: ignore[call-overload]
        if each:
            module.register_forward_hook(
                lambda *io, each=each: elementwise.append(each * io[2].numel())
            )
    with torch.no_grad():
        network(lr)
    assert theirs.get_total_flops() == known == ours - sum(elementwise)


@pytest.mark.parametrize(("backbone", "millions"), [("efdn", 111.12), ("safmnv3", 76.69)])
def test_activations_are_those_of_the_challenge(backbone: str, millions: float) -> None:
    """NTIRE 2025, 256x256 LR, as SAFMNv3's authors list them."""
    method = registry.build(ModelConfig(backbone=backbone, method="original"))
    counted = method.costs((256, 256), 4).total([1])
    assert counted.activations / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("backbone", sorted(registry.BACKBONES))
def test_the_count_depends_on_neither_device_nor_determinism(backbone: str) -> None:
    """Commands ask torch for deterministic algorithms, which are other operations off the CPU."""
    network = registry.build(ModelConfig(backbone=backbone, method="original")).network.eval()
    size = (1, 3, 16, 18)
    expected = flops.count(network, torch.zeros(size))
    before = torch.get_deterministic_debug_mode()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        assert flops.count(network.to("meta"), torch.zeros(size, device="meta")) == expected
        assert torch.get_deterministic_debug_mode() == 1
    finally:
        torch.set_deterministic_debug_mode(before)


def test_the_free_operations_exist() -> None:
    missing = [n for n in flops.FREE if not hasattr(torch.ops.aten, n.removeprefix("aten."))]
    assert not missing
    assert not flops.FREE & set(flops.RULES)


def test_a_cost_per_pixel_needs_one_that_does_not_depend_on_the_size() -> None:
    class Network(nn.Module):
        def __init__(self, function: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.extract = nn.Conv2d(3, 4, 3, padding=1)
            self.then = Calls(function)

        def forward(self, lr: Tensor) -> object:
            return self.then(self.extract(lr))

    def attention(x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return F.scaled_dot_product_attention(tokens, tokens, tokens)

    def excite(x: Tensor) -> Tensor:
        return x * F.linear(x.mean((2, 3)), torch.ones(4, 4))[..., None, None]

    def windows(x: Tensor) -> Tensor:
        tokens = x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).flatten(2, 3).permute(0, 2, 3, 1)
        return tokens @ tokens.mT

    for function in (attention, excite, lambda x: F.conv2d(x, torch.ones(4, 4, 3, 3))):
        with pytest.raises(UserError, match="not proportional to the size of the image"):
            flops.per_lr_pixel(Network(function))
    assert flops.per_lr_pixel(Network(windows)).paper == 2 * 3 * 4 * 9 + 2 * 4 * 64
