"""The PCSR release's result for an image, computed plainly and independently of the suite."""

from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional as F

StateDict = dict[str, torch.Tensor]

SCALE = 4
STRIP = 16
CARN_MEAN = np.array([0.4488, 0.4371, 0.4040])
HIDDEN = {
    "fsrcnn": {"heavy": [58] * 4, "light": [10] * 3, "classifier": []},
    "carn": {"heavy": [74] * 4, "light": [20] * 3, "classifier": [10] * 2},
}
WIDTH = {"fsrcnn": {"original": 56, "pcsr": 48}, "carn": {"original": 64, "pcsr": 52}}


def cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, any shape."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def shrink_matrix(size: int, scale: int) -> np.ndarray:
    """Weights (size / scale, size) of antialiased bicubic downscaling with a symmetric border."""
    small = size // scale
    centre = (np.arange(small) + 0.5) * scale - 0.5
    tap = np.floor(centre).astype(int)[:, None] + np.arange(-2 * scale, 2 * scale + 2)
    weight = cubic((centre[:, None] - tap) / scale)
    weight /= weight.sum(axis=1, keepdims=True)
    folded = tap % (2 * size)
    source = np.minimum(folded, 2 * size - 1 - folded)
    matrix = np.zeros((small, size))
    np.add.at(matrix, (np.arange(small)[:, None], source), weight)
    return matrix


def degrade(hr_uint8: np.ndarray, scale: int = SCALE, *, bits8: bool) -> np.ndarray:
    """MATLAB-like bicubic LR (h, w, 3), 1 is white and only 8 bits clip, of 0..255 (H, W, 3)."""
    height, width = (size // scale * scale for size in hr_uint8.shape[:2])
    hr = hr_uint8[:height, :width].astype(np.float64)
    rows, columns = shrink_matrix(height, scale), shrink_matrix(width, scale)
    lr = np.stack([rows @ hr[:, :, c] @ columns.T for c in range(3)], axis=2)
    return (np.round(lr.clip(0, 255)) if bits8 else lr) / 255


def tile_crop(h: int, w: int) -> tuple[int, int]:
    """Largest (h', w') that 32-pixel tiles at step 28 cover exactly; h and w are at least 32."""
    return (h - 32) // 28 * 28 + 32, (w - 32) // 28 * 28 + 32


def conv(sd: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Same-size convolution (1, c, h, w) -> (1, d, h, w); the weight's shape tells the groups."""
    weight = sd[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    padding = weight.shape[2] // 2
    return F.conv2d(x, weight, sd.get(f"{name}.bias"), padding=padding, groups=groups)


def fsrcnn_features(sd: StateDict, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """FSRCNN up to its transposed convolution, (1, 3, h, w) -> (1, d, h, w)."""
    head, body = f"{prefix}head_conv", f"{prefix}body_conv"
    x = F.prelu(conv(sd, f"{head}.0", x), sd[f"{head}.1.weight"])
    x = F.prelu(conv(sd, f"{body}.0.0", x), sd[f"{body}.0.1.weight"])
    for i in range(1, 5):
        x = conv(sd, f"{body}.{i}", x)
    x = F.prelu(x, sd[f"{body}.5.weight"])
    return F.prelu(conv(sd, f"{body}.6.0", x), sd[f"{body}.6.1.weight"])


def carn_unit(sd: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    """CARN's residual unit, (1, nf, h, w) -> (1, nf, h, w)."""
    y = F.relu(conv(sd, f"{name}.body.0", x))
    y = F.relu(conv(sd, f"{name}.body.2", y))
    return F.relu(conv(sd, f"{name}.body.4", y) + x)


def carn_fuse(sd: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    """1x1 convolution, BatchNorm with stored statistics and ReLU, (1, c, h, w) -> (1, nf, h, w)."""
    norm = [sd[f"{name}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
    return F.relu(F.batch_norm(conv(sd, f"{name}.0", x), *norm))


def carn_block(sd: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Three uses of one shared unit, each fused with all before, (1, nf, h, w) -> same."""
    seen = x
    for i in (1, 2, 3):
        seen = torch.cat([seen, carn_unit(sd, f"{name}.b1", x)], dim=1)
        x = carn_fuse(sd, f"{name}.c{i}", seen)
    return x


def carn_features(sd: StateDict, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """CARN up to its upsampling tail, (1, 3, h, w) without mean -> (1, nf, h, w)."""
    x = seen = conv(sd, f"{prefix}entry", x)
    for i in (1, 2, 3):
        seen = torch.cat([seen, carn_block(sd, f"{prefix}b{i}", x)], dim=1)
        x = carn_fuse(sd, f"{prefix}c{i}", seen)
    return x


def features(sd: StateDict, backbone: str, prefix: str, x: torch.Tensor) -> torch.Tensor:
    """The backbone's LR features, (1, 3, h, w) -> (1, c, h, w)."""
    return (fsrcnn_features if backbone == "fsrcnn" else carn_features)(sd, prefix, x)


def mean_of(backbone: str) -> np.ndarray:
    """The colour (3,) taken off the network's input and put back on its output."""
    return CARN_MEAN if backbone == "carn" else np.zeros(3)


def to_tensor(lr: np.ndarray, backbone: str) -> torch.Tensor:
    """Network input (1, 3, h, w) float32 of an LR image (h, w, 3) in [0, 1]."""
    return torch.from_numpy((lr - mean_of(backbone)).transpose(2, 0, 1)[None]).float()


def to_array(x: torch.Tensor, backbone: str) -> np.ndarray:
    """Image (H, W, 3) float64, not clamped, of a network output (1, 3, H, W)."""
    return x[0].double().numpy().transpose(1, 2, 0) + mean_of(backbone)


@torch.no_grad()
def original(sd: StateDict, backbone: str, lr: np.ndarray) -> np.ndarray:
    """The unchanged backbone's image (4h, 4w, 3), not clamped, of an LR image (h, w, 3)."""
    x = features(sd, backbone, "", to_tensor(lr, backbone))
    if backbone == "fsrcnn":
        weight, bias = sd["tail_conv.weight"], sd["tail_conv.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=SCALE, padding=3, output_padding=1)
    else:
        for i in (0, 3):
            x = F.pixel_shuffle(F.relu(conv(sd, f"upsample.up.body.{i}", x)), 2)
        x = conv(sd, "exit", x)
    return to_array(x, backbone)


def centres(n: int) -> torch.Tensor:
    """Centres (n,) of n pixels on [-1, 1], float64."""
    return (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1


def nearest(small: int, large: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Index (large,) of each pixel's nearest LR pixel, and the offset (large,) x LR size."""
    coordinate = centres(large)
    index = ((coordinate + 1) / 2 * small).long()
    return index, (coordinate - centres(small)[index]) * small


def mlp(sd: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    """Linear layers with ReLU between them, (n, c) -> (n, out)."""
    layers = sum(key.startswith(name) and key.endswith(".weight") for key in sd)
    for i in range(layers):
        key = f"{name}.imnet.layers.{2 * i}"
        x = F.linear(x if i == 0 else F.relu(x), sd[f"{key}.weight"], sd[f"{key}.bias"])
    return x


@torch.no_grad()
def pcsr(sd: StateDict, backbone: str, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Light and heavy images (4h, 4w, 3), not clamped, and prob_heavy (4h, 4w), of an LR."""
    h, w = lr.shape[:2]
    height, width = SCALE * h, SCALE * w
    x = to_tensor(lr, backbone)
    feature = features(sd, backbone, "encoder.", x)[0].permute(1, 2, 0)
    row, dy = nearest(h, height)
    column, dx = nearest(w, width)
    cell = torch.tensor([2 / height * h, 2 / width * w])
    strips: dict[str, list[torch.Tensor]] = {"light_sampler": [], "heavy_sampler": []}
    probability = []
    for top in range(0, height, STRIP):
        rows = slice(top, top + STRIP)
        query = feature[row[rows, None], column[None, :]].flatten(0, 1)
        offset = torch.cartesian_prod(dy[rows], dx).float()
        query = torch.cat([query, offset, cell.expand(len(query), 2)], dim=1)
        for name, strip in strips.items():
            strip.append(mlp(sd, name, query))
        probability.append(mlp(sd, "classifier", query).softmax(dim=1)[:, 1])
    base = F.interpolate(x, scale_factor=SCALE, mode="bilinear", align_corners=False)
    light, heavy = (
        to_array(torch.cat(strip).T.reshape(1, 3, height, width) + base, backbone)
        for strip in strips.values()
    )
    return light, heavy, torch.cat(probability).reshape(height, width).numpy()


def encoder_flops(backbone: str, d: int) -> int:
    """FLOPs per LR pixel of the backbone without its tail, d features wide."""
    if backbone == "fsrcnn":
        s = 12
        head = 2 * 25 * 3 * d + d
        shrink = 2 * d * s + s
        body = 4 * 2 * 9 * s * s + s
        expand = 2 * s * d + d
        return head + shrink + body + expand
    entry = 2 * 9 * 3 * d
    unit = 2 * (2 * 9 * d * d // 4) + 2 * d * d
    fuse = 2 * (2 + 3 + 4) * d * d + 3 * 2 * d
    return entry + 3 * (3 * unit + fuse) + fuse


def tail_flops(backbone: str, d: int) -> int:
    """FLOPs per LR pixel of the original's upsampling tail, d features wide."""
    if backbone == "fsrcnn":
        return 16 * 2 * 81 * d * 3
    grouped = 2 * 9 * d * 4 * d // 4
    return grouped + 4 * grouped + 16 * 2 * 9 * d * 3


def head_flops(backbone: str, head: str) -> int:
    """FLOPs per HR pixel of one MLP: heavy, light or classifier."""
    outputs = 2 if head == "classifier" else 3
    sizes = [WIDTH[backbone]["pcsr"] + 4, *HIDDEN[backbone][head], outputs]
    return sum(2 * a * b for a, b in pairwise(sizes))


def flops(backbone: str, method: str, h: int, w: int, heavy_share: float = 0.0) -> float:
    """Paper-convention FLOPs of "original" or "pcsr" on an LR image of h x w pixels."""
    d = WIDTH[backbone][method]
    encoder = h * w * encoder_flops(backbone, d)
    if method == "original":
        return float(encoder + h * w * tail_flops(backbone, d))
    pixels = SCALE * SCALE * h * w
    heavy = round(heavy_share * pixels)
    heads = {"classifier": pixels, "light": pixels - heavy, "heavy": heavy}
    return float(encoder + sum(n * head_flops(backbone, head) for head, n in heads.items()))


def cost_shares(backbone: str) -> tuple[float, float]:
    """Shares of (encoder + light) and (encoder + heavy) in the sum of both."""
    encoder = encoder_flops(backbone, WIDTH[backbone]["pcsr"])
    light, heavy = (
        encoder + SCALE * SCALE * head_flops(backbone, head) for head in ("light", "heavy")
    )
    return light / (light + heavy), heavy / (light + heavy)


def route(prob_heavy: np.ndarray, k: float, backbone: str) -> np.ndarray:
    """Heavy mask (H, W) of argmax p_j / c_j^k; a tie is light."""
    prob = prob_heavy.astype(np.float64)
    light, heavy = cost_shares(backbone)
    return prob / heavy**k > (1 - prob) / light**k


def adaptive(prob_heavy: np.ndarray) -> np.ndarray:
    """Heavy mask (H, W) by 2-means of the min-max normalised probability, without a k."""
    prob = prob_heavy.astype(np.float64)
    value = (prob - prob.min()) / (prob.max() - prob.min())
    upper, lower = value.mean(), 0.0
    for _ in range(19):
        heavy = np.abs(value - upper) <= np.abs(value - lower)
        moved_upper, moved_lower = value[heavy].mean(), value[~heavy].mean()
        movement = (moved_upper - upper) ** 2 + (moved_lower - lower) ** 2
        upper, lower = moved_upper, moved_lower
        if movement <= 1e-4:
            break
    return heavy


def around(x: np.ndarray) -> list[np.ndarray]:
    """The nine shifts (H - 2, W - 2, ...) of x (H, W, ...) that meet in each inner pixel."""
    height, width = x.shape[:2]
    return [x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]


def refine(sr: np.ndarray, heavy_mask: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) whose inner light pixels that touch a heavy one are their 3x3 mean."""
    heavy = heavy_mask.astype(bool)
    edge = ~heavy[1:-1, 1:-1] & np.any(around(heavy), axis=0)
    refined = sr.copy()
    refined[1:-1, 1:-1][edge] = np.mean(around(sr), axis=0)[edge]
    return refined


def psnr(sr: np.ndarray, hr_uint8: np.ndarray, shave: int = 4) -> float:
    """RGB PSNR in dB of (H, W, 3) images; sr is 8-bit or in [0, 1], then clamped and rounded."""
    if sr.dtype != np.uint8:
        sr = np.round(sr.clip(0, 1) * 255)
    error = sr.astype(np.float64) - hr_uint8.astype(np.float64)
    inner = error[shave:-shave, shave:-shave]
    return float(10 * np.log10(255**2 / np.mean(inner**2)))
