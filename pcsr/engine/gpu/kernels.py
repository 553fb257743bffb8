"""Triton kernels of the routed path on a GPU. Importing this module needs triton.

With ``TRITON_INTERPRET=1`` they run slowly on a CPU, as they do in the tests.
"""

import triton
import triton.language as tl

# A kernel's compile-time constants are in capitals, as in Triton's documentation; the tensors among
# its arguments are pointers.
# ruff: noqa: N803, PLR0917
# mypy: allow-untyped-defs


@triton.jit
def compact(labels, pixels, count, total, branch: tl.constexpr, BLOCK: tl.constexpr):
    """Write the numbers of a branch's pixels contiguously, in no particular order.

    Args:
        labels: (total,) uint8 branch numbers.
        pixels: (total,) int32, of which the first ``count`` are written.
        count: (1,) int32; must be zero before, and holds the number of pixels afterwards.
        total: number of pixels.
        branch: the branch whose pixels are written.
        BLOCK: pixels per program.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    selected = (tl.load(labels + at, mask=inside, other=255) == branch) & inside
    ones = selected.to(tl.int32)
    first = tl.atomic_add(count, tl.sum(ones, axis=0))
    tl.store(pixels + first + tl.cumsum(ones, axis=0) - ones, at, mask=selected)


@triton.jit
def _placed(values, place, row, column, at, WIDTH: tl.constexpr):
    """Return the first layer before its ReLU: (pixels, len(at)), float32.

    Args:
        values: (pixels,) pointers to what the feature of each pixel adds.
        place: (3, WIDTH) weights of the row offset and the column offset, and a constant.
        row, column: (pixels,) offsets of the pixels.
        at: columns of the layer to return.
        WIDTH: width of the layer.
    """
    x = tl.load(values[:, None] + at[None, :]).to(tl.float32)
    x += row[:, None] * tl.load(place + at)[None, :]
    x += column[:, None] * tl.load(place + WIDTH + at)[None, :]
    return x + tl.load(place + 2 * WIDTH + at)[None, :]


@triton.jit
def _product(a, b, weight, at_a, at_b, to, stride: tl.constexpr):
    """Return a @ weight[at_a, to] + b @ weight[at_b, to], float32."""
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
    """Run a head on all pixels of an image or on routed ones: gather, all layers, output.

    Each program takes a block of pixels at a time and strides over the image by the number of
    programs. Layers are A + B wide, because sizes in Triton are powers of two and a sum of two
    wastes less than one. Hidden values never leave the multiprocessor.

    Args:
        projected: what the features add to the first layer, one row per LR pixel, ``stride`` apart.
        nearest_rows, nearest_columns: int32, the LR row and column of each HR row and column.
        row_offsets, column_offsets: float32, offsets of HR rows and columns from these.
        place: (3, A + B) float32, see ``_placed``.
        hidden: (LAYERS - 1, A + B, A + B), inputs first.
        hidden_bias: (LAYERS - 1, A + B) float32.
        last: (A + B, LAST), inputs first.
        last_bias: (LAST,) float32.
        pixels: int32 numbers of the routed pixels (row * hr_width + column), ``count`` of them.
        count: (1,) int32.
        base: (OUTPUTS, total) float32, added to the output.
        out: (OUTPUTS, total) float32.
        total: number of HR pixels.
        hr_width: number of HR columns.
        lr_width: number of LR columns.
        stride: distance between rows of ``projected`` in elements.
        LAYERS: layers after the first; if 0, the first layer's outputs are the head's.
        A, B: powers of two of at least 16, the two parts of a layer's width.
        LAST: a power of two of at least 16 and at least OUTPUTS.
        OUTPUTS: values written per pixel.
        ROUTED: whether to run on ``pixels`` only; else on all pixels.
        ADDED: whether to add ``base``.
        BLOCK: pixels that a program takes at a time.
    """
    WIDTH: tl.constexpr = A + B
    at_a = tl.arange(0, A)
    at_b = A + tl.arange(0, B)
    to = tl.arange(0, LAST)
    end = total
    if ROUTED:
        end = tl.load(count)
    for start in range(tl.program_id(0) * BLOCK, end, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
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
        valid = inside[:, None] & (to < OUTPUTS)[None, :]
        if ADDED:
            y += tl.load(base + where, mask=valid, other=0.0)
        tl.store(out + where, y, mask=valid)


@triton.jit
def smooth(sr, labels, out, total, height, width, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Replace pixels that touch a more expensive one by the mean of their 3x3 neighbourhood.

    Args:
        sr: (CHANNELS, height, width) float32.
        labels: (height, width) uint8 branch numbers.
        out: like ``sr``; must not overlap it.
        total: height * width.
        height, width: size of the image; its outermost ring is left unchanged.
        CHANNELS: number of channels.
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
