"""Triton kernels of the routed path on a GPU. Importing this module needs triton.

Under ``TRITON_INTERPRET=1`` they run on a CPU, slowly, and their tests do so.
"""

import triton
import triton.language as tl

# Constants of a kernel are in capitals, as in Triton's documentation; its arguments are pointers.
# ruff: noqa: N803, PLR0917
# mypy: allow-untyped-defs


@triton.jit
def compact(labels, pixels, count, total, branch: tl.constexpr, BLOCK: tl.constexpr):
    """Write the numbers of the pixels of a branch one after another, in no certain order.

    Args:
        labels: (total,) uint8.
        pixels: (total,) int32, of which the first ``count`` are written.
        count: (1,) int32, zero before.
        total: number of pixels.
        branch: whose pixels.
        BLOCK: pixels per program.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    mine = (tl.load(labels + at, mask=inside, other=255) == branch) & inside
    one = mine.to(tl.int32)
    first = tl.atomic_add(count, tl.sum(one, axis=0))
    tl.store(pixels + first + tl.cumsum(one, axis=0) - one, at, mask=mine)


@triton.jit
def _placed(values, place, row, column, at, WIDTH: tl.constexpr):
    """Return the first layer before its ReLU: (pixels, len(at)), float32.

    Args:
        values: pointers to the features' part of each pixel, (pixels,).
        place: (3, WIDTH): what a row offset, a column offset and any pixel add.
        row, column: offsets of the pixels, (pixels,).
        at: columns of the layer.
        WIDTH: of the layer.
    """
    x = tl.load(values[:, None] + at[None, :]).to(tl.float32)
    x += row[:, None] * tl.load(place + at)[None, :]
    x += column[:, None] * tl.load(place + WIDTH + at)[None, :]
    return x + tl.load(place + 2 * WIDTH + at)[None, :]


@triton.jit
def _product(a, b, weight, at_a, at_b, to, stride: tl.constexpr):
    """Return [a, b] @ weight[:, to], float32; ``a`` and ``b`` are columns at_a and at_b."""
    of_a = tl.load(weight + at_a[:, None] * stride + to[None, :])
    of_b = tl.load(weight + at_b[:, None] * stride + to[None, :])
    return tl.dot(b, of_b, tl.dot(a, of_a, input_precision="ieee"), input_precision="ieee")


@triton.jit
def head(
    projected,
    nearest_rows,
    nearest_columns,
    row_offsets,
    column_offsets,
    place,
    hidden,
    hidden_bias,
    last,
    last_bias,
    pixels,
    count,
    base,
    out,
    total,
    hr_width,
    lr_width,
    stride,
    LAYERS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    LAST: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROUTED: tl.constexpr,
    ADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Run a head on all pixels of an image, or on chosen ones: gather, all layers, output.

    Programs go round: each takes a block of pixels, and the next that no other takes. Layers are
    A + B wide, because widths here are powers of two and a sum of two wastes less. What is
    between the layers never leaves the processor.

    Args:
        projected: the features' part of the first layer, a row for each LR pixel, ``stride`` apart.
        nearest_rows, nearest_columns: int32, in which LR row and column an HR row and column lie.
        row_offsets, column_offsets: float32, their places within these.
        place: (3, A + B) float32, see ``_placed``.
        hidden: (LAYERS - 1, A + B, A + B), input first; with biases (LAYERS - 1, A + B) float32.
        last: (A + B, LAST), with biases (LAST,) float32.
        pixels: int32 numbers of the chosen pixels (row * hr_width + column), the first ``count``.
        count: (1,) int32.
        base: (OUTPUTS, total) float32, what is added to the output.
        out: (OUTPUTS, total) float32.
        total: number of HR pixels.
        hr_width: HR columns.
        lr_width: LR columns.
        stride: between rows of ``projected``.
        LAYERS: layers after the first; without any, the first one's outputs are the head's.
        A, B: powers of two of at least 16; the first layer's columns and their halves.
        LAST: a power of two of at least 16, OUTPUTS or more.
        OUTPUTS: numbers per pixel that are written.
        ROUTED: whether ``pixels`` are taken; else all are.
        ADDED: whether there is a base.
        BLOCK: pixels that a program takes at once.
    """
    WIDTH: tl.constexpr = A + B
    at_a = tl.arange(0, A)
    at_b = A + tl.arange(0, B)
    to = tl.arange(0, LAST)
    todo = total
    if ROUTED:
        todo = tl.load(count)
    for start in range(tl.program_id(0) * BLOCK, todo, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < todo
        pixel = at
        if ROUTED:
            pixel = tl.load(pixels + at, mask=inside, other=0)
        pixel = tl.where(inside, pixel, 0)
        row = pixel // hr_width
        column = pixel - row * hr_width
        nearest = tl.load(nearest_rows + row) * lr_width + tl.load(nearest_columns + column)
        values = projected + nearest.to(tl.int64) * stride
        down = tl.load(row_offsets + row)
        across = tl.load(column_offsets + column)
        a = _placed(values, place, down, across, at_a, WIDTH)
        if LAYERS == 0:
            y = a
        else:
            b = _placed(values, place, down, across, at_b, WIDTH)
            a = tl.maximum(a, 0.0).to(hidden.dtype.element_ty)
            b = tl.maximum(b, 0.0).to(hidden.dtype.element_ty)
            for layer in tl.static_range(LAYERS - 1):
                weight = hidden + layer * WIDTH * WIDTH
                bias = hidden_bias + layer * WIDTH
                next_a = _product(a, b, weight, at_a, at_b, at_a, WIDTH)
                next_b = _product(a, b, weight, at_a, at_b, at_b, WIDTH)
                next_a += tl.load(bias + at_a)[None, :]
                next_b += tl.load(bias + at_b)[None, :]
                a = tl.maximum(next_a, 0.0).to(hidden.dtype.element_ty)
                b = tl.maximum(next_b, 0.0).to(hidden.dtype.element_ty)
            y = _product(a, b, last, at_a, at_b, to, LAST)
            y += tl.load(last_bias + to)[None, :]
        where = to[None, :].to(tl.int64) * total + pixel[:, None]
        wanted = inside[:, None] & (to < OUTPUTS)[None, :]
        if ADDED:
            y += tl.load(base + where, mask=wanted, other=0.0)
        tl.store(out + where, y, mask=wanted)


@triton.jit
def smooth(sr, labels, out, total, height, width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Give pixels beside a more expensive one the mean of their 3x3 neighbourhood.

    Args:
        sr: (CHANNELS, height, width) float32.
        labels: (height, width) uint8.
        out: of the form of ``sr``; another memory.
        total: height * width.
        height, width: of the image; its outermost ring is left alone.
        CHANNELS: of the image.
        BLOCK: pixels per program.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    row = at // width
    column = at - row * width
    inner = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1) & inside
    own = tl.load(labels + at, mask=inside, other=0)
    costliest = own
    for down in tl.static_range(-1, 2):
        for across in tl.static_range(-1, 2):
            near = tl.load(labels + at + down * width + across, mask=inner, other=0)
            costliest = tl.maximum(costliest, near)
    seam = inner & (costliest > own)
    for channel in tl.static_range(CHANNELS):
        here = channel * total + at.to(tl.int64)
        value = tl.load(sr + here, mask=inside, other=0.0)
        around = tl.zeros_like(value)
        for down in tl.static_range(-1, 2):
            for across in tl.static_range(-1, 2):
                around += tl.load(sr + here + down * width + across, mask=seam, other=0.0)
        tl.store(out + here, tl.where(seam, around / 9, value), mask=inside)
