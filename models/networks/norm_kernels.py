"""Triton kernels: instance norm, ReLU and reflection border in channels last, two launches forward and two backward.

A map (B,C,H,W) in channels last is B images of H*W pixels of C numbers. Sums over pixels are taken in parts, one a
program, and added up by every program that needs them: in the same order each time, without atomics.

Only models/networks/fused_norm.py imports this file, and only where Triton is installed.
"""

import triton
import triton.language as tl


@triton.jit
def mirrored(position, size):
    """Where a position beyond an edge has its value from."""
    position = tl.abs(position)
    return tl.where(position >= size, 2 * (size - 1) - position, position)


@triton.jit
def summed(partial, image, kind, channel, inside, channels, splits, BC: tl.constexpr):
    """One of the two sums of an image, over its parts: (BC,)."""
    total = tl.zeros([BC], tl.float32)
    for split in range(splits):
        place = ((image * splits + split) * 2 + kind) * channels + channel
        total += tl.load(partial + place, mask=inside, other=0.0)
    return total


@triton.jit
def unpadded_gradient(
    grad, row, column, channel, mask, height, width, channels,
    PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of pixels (BP,BC) before the border: their own, and those of their mirror images."""
    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(3):
        if i == 0:
            y, there_y = row + PAD, row >= 0
        elif i == 1:
            y, there_y = PAD - row, (row >= 1) & (row <= PAD)
        else:
            y = 2 * (height - 1) - row + PAD
            there_y = (row <= height - 2) & (row >= height - 1 - PAD)

        for j in tl.static_range(3):
            if j == 0:
                x, there_x = column + PAD, column >= 0
            elif j == 1:
                x, there_x = PAD - column, (column >= 1) & (column <= PAD)
            else:
                x = 2 * (width - 1) - column + PAD
                there_x = (column <= width - 2) & (column >= width - 1 - PAD)

            if PAD > 0 or i + j == 0:
                place = (y * (width + 2 * PAD) + x)[:, None] * channels + channel[None, :]
                there = mask & (there_y & there_x)[:, None]
                total += tl.load(grad + place, mask=there, other=0.0).to(tl.float32)
    return total


@triton.jit
def of_image(
    grad, x, moments, image, channel, inside, height, width, channels, PAD: tl.constexpr
):  # fmt: skip
    """Where an image's gradient and map begin, and its mean and scale."""
    grad += image * (height + 2 * PAD) * (width + 2 * PAD) * channels
    x += image * height * width * channels
    mean = tl.load(moments + image * 2 * channels + channel, mask=inside, other=0.0)
    scale = tl.load(moments + (image * 2 + 1) * channels + channel, mask=inside, other=0.0)
    return grad, x, mean, scale


@triton.jit
def normal_and_slope(
    grad, x, mean, scale, pixel, channel, mask, height, width, channels,
    RELU: tl.constexpr, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The normalised map, and its gradient, at pixels (BP,BC); what the mask leaves out has no meaning."""
    value = tl.load(x + pixel[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    normal = (value.to(tl.float32) - mean[None, :]) * scale[None, :]
    slope = unpadded_gradient(
        grad, pixel // width, pixel % width, channel, mask, height, width, channels, PAD, BP, BC
    )
    if RELU:
        slope = tl.where(normal > 0, slope, 0.0)
    return normal, slope


@triton.jit
def sum_map(x, partial, pixels, channels, per_split, splits, BP: tl.constexpr, BC: tl.constexpr):
    """Sums of an image's values and of their squares, both less its first pixel's, over one part of its pixels."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BC + tl.arange(0, BC)
    inside = channel < channels

    x += image * pixels * channels
    first = tl.load(x + channel, mask=inside, other=0.0).to(tl.float32)
    total, squares = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    end = tl.minimum((split + 1) * per_split, pixels)
    for start in range(split * per_split, end, BP):
        pixel = start + tl.arange(0, BP)
        mask = (pixel < end)[:, None] & inside[None, :]
        value = tl.load(x + pixel[:, None] * channels + channel[None, :], mask=mask, other=0.0)
        value = tl.where(mask, value.to(tl.float32) - first[None, :], 0.0)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)

    place = partial + (image * splits + split) * 2 * channels + channel
    tl.store(place, total, mask=inside)
    tl.store(place + channels, squares, mask=inside)


@triton.jit
def normalize(
    x, partial, y, moments, height, width, channels, splits, eps,
    RELU: tl.constexpr, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes a tile of the result, border included; the first tile also the image's mean and scale."""
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BC + tl.arange(0, BC)
    inside = channel < channels
    pixels, columns = height * width, width + 2 * PAD
    padded = (height + 2 * PAD) * columns

    # mean and 1 / standard deviation
    x += image * pixels * channels
    first = tl.load(x + channel, mask=inside, other=0.0).to(tl.float32)
    offset = summed(partial, image, 0, channel, inside, channels, splits, BC) / pixels
    squares = summed(partial, image, 1, channel, inside, channels, splits, BC) / pixels
    mean = first + offset
    scale = 1.0 / tl.sqrt(tl.maximum(squares - offset * offset, 0.0) + eps)
    place = moments + image * 2 * channels + channel
    tl.store(place, mean, mask=inside & (tile == 0))
    tl.store(place + channels, scale, mask=inside & (tile == 0))

    # the tile
    target = tile * BP + tl.arange(0, BP)
    mask = (target < padded)[:, None] & inside[None, :]
    row = mirrored(target // columns - PAD, height)
    column = mirrored(target % columns - PAD, width)
    source = (row * width + column)[:, None] * channels + channel[None, :]
    value = tl.load(x + source, mask=mask, other=0.0).to(tl.float32)
    value = (value - mean[None, :]) * scale[None, :]
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # what is not a number stays so

    y += image * padded * channels
    tl.store(
        y + target[:, None] * channels + channel[None, :], value.to(y.dtype.element_ty), mask=mask
    )


@triton.jit
def sum_gradient(
    grad, x, moments, partial, height, width, channels, per_split, splits,
    RELU: tl.constexpr, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums of the normalised map's gradient, and of it times the map, over one part of an image's pixels."""
    image, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BC + tl.arange(0, BC)
    inside = channel < channels
    pixels = height * width
    grad, x, mean, scale = of_image(
        grad, x, moments, image, channel, inside, height, width, channels, PAD
    )

    total, products = tl.zeros([BC], tl.float32), tl.zeros([BC], tl.float32)
    end = tl.minimum((split + 1) * per_split, pixels)
    for start in range(split * per_split, end, BP):
        pixel = start + tl.arange(0, BP)
        mask = (pixel < end)[:, None] & inside[None, :]
        normal, slope = normal_and_slope(
            grad, x, mean, scale, pixel, channel, mask, height, width, channels, RELU, PAD, BP, BC
        )
        total += tl.sum(slope, 0)
        products += tl.sum(tl.where(mask, slope * normal, 0.0), 0)

    place = partial + (image * splits + split) * 2 * channels + channel
    tl.store(place, total, mask=inside)
    tl.store(place + channels, products, mask=inside)


@triton.jit
def differentiate(
    grad, x, moments, partial, out, height, width, channels, splits,
    RELU: tl.constexpr, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes a tile of the gradient of x: scale (g - mean g - n mean(g n)), n the normalised map."""
    image, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(2) * BC + tl.arange(0, BC)
    inside = channel < channels
    pixels = height * width
    grad, x, mean, scale = of_image(
        grad, x, moments, image, channel, inside, height, width, channels, PAD
    )
    mean_slope = summed(partial, image, 0, channel, inside, channels, splits, BC) / pixels
    mean_product = summed(partial, image, 1, channel, inside, channels, splits, BC) / pixels

    pixel = tile * BP + tl.arange(0, BP)
    mask = (pixel < pixels)[:, None] & inside[None, :]
    normal, slope = normal_and_slope(
        grad, x, mean, scale, pixel, channel, mask, height, width, channels, RELU, PAD, BP, BC
    )

    slope = (slope - mean_slope[None, :] - normal * mean_product[None, :]) * scale[None, :]
    out += image * pixels * channels
    place = pixel[:, None] * channels + channel[None, :]
    tl.store(out + place, slope.to(out.dtype.element_ty), mask=mask)
