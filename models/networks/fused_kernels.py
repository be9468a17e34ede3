"""Triton kernels for maps in channels last: instance norm with what follows it, borders, halving and doubling.

A map (B,C,H,W) in channels last is B images of H*W pixels of C numbers. A program handles a tile of BP pixels and BC
channels of one image. Gradients are gathered, not scattered: each pixel looks for all that it has a part in, so no sum
needs atomics, and each comes out the same every time.

Only models/networks/fused_layers.py imports this file, and only where Triton is installed.
"""

import triton
import triton.language as tl

# maps of other sizes are no reason to compile a kernel anew
SIZES = ["height", "width", "pixels", "per_split", "splits"]

# -- places --------------------------------------------------------------------------------------------------------


@triton.jit
def mirrored(position, size):
    """Where a position beyond an edge has its value from."""
    position = tl.abs(position)
    return tl.where(position >= size, 2 * (size - 1) - position, position)


@triton.jit
def clamped(position, size):
    """A position, or the edge that it lies beyond."""
    return tl.minimum(tl.maximum(position, 0), size - 1)


@triton.jit
def own_tile(pixels, channels, BP: tl.constexpr, BC: tl.constexpr):
    """Image, pixels (BP,), channels (BC,) of a program, and which of them (BP,BC) there are."""
    image = tl.program_id(0).to(tl.int64)
    pixel = tl.program_id(1) * BP + tl.arange(0, BP)
    channel = tl.program_id(2) * BC + tl.arange(0, BC)
    return image, pixel, channel, (pixel < pixels)[:, None] & (channel < channels)[None, :]


@triton.jit
def load(x, pixel, channel, mask, channels):
    """The values of pixels (BP,BC) in float32, 0 where there are none."""
    place = pixel[:, None] * channels + channel[None, :]
    return tl.load(x + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store(y, value, pixel, channel, mask, channels):
    """Write pixels (BP,BC) in the type of the map."""
    place = pixel[:, None] * channels + channel[None, :]
    tl.store(y + place, value.to(y.dtype.element_ty), mask=mask)


# -- instance norm, activation, border; or instance norm and what is added to it -------------------------------------


@triton.jit
def summed(
    partial, image, kind: tl.constexpr, channel, inside, channels, splits, SPLITS: tl.constexpr
):  # fmt: skip
    """One of the two sums of an image, over its parts: (BC,)."""
    split = tl.arange(0, SPLITS)
    row = ((image * splits + split) * 2 + kind) * channels
    there = (split < splits)[:, None] & inside[None, :]
    return tl.sum(tl.load(partial + row[:, None] + channel[None, :], mask=there, other=0.0), 0)


@triton.jit
def image_of(position, size, which: tl.constexpr, PAD: tl.constexpr):
    """Along one axis, where in the padded map a pixel (0) or its mirror image beyond either edge (1, 2) is, and whether
    there is one."""
    if which == 0:
        place, there = position + PAD, position >= 0
    elif which == 1:
        place, there = PAD - position, (position >= 1) & (position <= PAD)
    else:
        place = 2 * (size - 1) - position + PAD
        there = (position <= size - 2) & (position >= size - 1 - PAD)
    return place, there


@triton.jit
def unpadded_gradient(
    grad, pixel, channel, mask, height, width, channels,
    PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of pixels (BP,BC) before the border: their own, and those of their mirror images."""
    row, column = pixel // width, pixel % width
    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(3):
        y, there_y = image_of(row, height, i, PAD)
        for j in tl.static_range(3):
            x, there_x = image_of(column, width, j, PAD)
            if PAD > 0 or i + j == 0:
                there = mask & (there_y & there_x)[:, None]
                total += load(grad, y * (width + 2 * PAD) + x, channel, there, channels)
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
def normal_and_gradient(
    grad, x, mean, scale, slope, pixel, channel, mask, height, width, channels,
    PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The normalised map, and its gradient, at pixels (BP,BC); what the mask leaves out has no meaning."""
    normal = (load(x, pixel, channel, mask, channels) - mean[None, :]) * scale[None, :]
    gradient = unpadded_gradient(grad, pixel, channel, mask, height, width, channels, PAD, BP, BC)
    return normal, tl.where(normal > 0, gradient, slope * gradient)


@triton.jit(do_not_specialize=SIZES)
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
        value = load(x, pixel, channel, mask, channels)
        value = tl.where(mask, value - first[None, :], 0.0)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)

    place = partial + (image * splits + split) * 2 * channels + channel
    tl.store(place, total, mask=inside)
    tl.store(place + channels, squares, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def normalize(
    x, residual, partial, y, moments, height, width, channels, splits, eps, slope,
    PAD: tl.constexpr, ADDS: tl.constexpr, SPLITS: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes a tile of the result, border included; the first tile also the image's mean and scale."""
    pixels, columns = height * width, width + 2 * PAD
    padded = (height + 2 * PAD) * columns
    image, target, channel, mask = own_tile(padded, channels, BP, BC)
    inside = channel < channels
    x += image * pixels * channels

    # mean and 1 / standard deviation
    first = tl.load(x + channel, mask=inside, other=0.0).to(tl.float32)
    offset = summed(partial, image, 0, channel, inside, channels, splits, SPLITS) / pixels
    squares = summed(partial, image, 1, channel, inside, channels, splits, SPLITS) / pixels
    mean = first + offset
    scale = 1.0 / tl.sqrt(tl.maximum(squares - offset * offset, 0.0) + eps)
    place = moments + image * 2 * channels + channel
    writes = inside & (tl.program_id(1) == 0)
    tl.store(place, mean, mask=writes)
    tl.store(place + channels, scale, mask=writes)

    # the tile
    row = mirrored(target // columns - PAD, height)
    column = mirrored(target % columns - PAD, width)
    value = load(x, row * width + column, channel, mask, channels)
    value = (value - mean[None, :]) * scale[None, :]
    value = tl.where(value < 0, slope * value, value)  # what is not a number stays so
    if ADDS:
        value += load(residual + image * pixels * channels, target, channel, mask, channels)
    store(y + image * padded * channels, value, target, channel, mask, channels)


@triton.jit(do_not_specialize=SIZES)
def sum_gradient(
    grad, x, moments, partial, height, width, channels, per_split, splits, slope,
    PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
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
        normal, gradient = normal_and_gradient(
            grad, x, mean, scale, slope, pixel, channel, mask, height, width, channels, PAD, BP, BC
        )
        total += tl.sum(gradient, 0)
        products += tl.sum(tl.where(mask, gradient * normal, 0.0), 0)

    place = partial + (image * splits + split) * 2 * channels + channel
    tl.store(place, total, mask=inside)
    tl.store(place + channels, products, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def differentiate(
    grad, x, moments, partial, out, height, width, channels, splits, slope,
    PAD: tl.constexpr, SPLITS: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Writes a tile of the gradient of x: scale (g - mean g - n mean(g n)), n the normalised map."""
    pixels = height * width
    image, pixel, channel, mask = own_tile(pixels, channels, BP, BC)
    inside = channel < channels
    grad, x, mean, scale = of_image(
        grad, x, moments, image, channel, inside, height, width, channels, PAD
    )
    mean_gradient = summed(partial, image, 0, channel, inside, channels, splits, SPLITS) / pixels
    mean_product = summed(partial, image, 1, channel, inside, channels, splits, SPLITS) / pixels

    normal, gradient = normal_and_gradient(
        grad, x, mean, scale, slope, pixel, channel, mask, height, width, channels, PAD, BP, BC
    )
    centred = gradient - mean_gradient[None, :] - normal * mean_product[None, :]
    place = out + image * pixels * channels
    store(place, centred * scale[None, :], pixel, channel, mask, channels)


# -- a border alone ----------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def add_border(
    x, y, height, width, channels, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """Writes a tile of a map with a mirrored border."""
    columns = width + 2 * PAD
    padded = (height + 2 * PAD) * columns
    image, target, channel, mask = own_tile(padded, channels, BP, BC)
    row = mirrored(target // columns - PAD, height)
    column = mirrored(target % columns - PAD, width)
    value = load(
        x + image * height * width * channels, row * width + column, channel, mask, channels
    )
    store(y + image * padded * channels, value, target, channel, mask, channels)


@triton.jit(do_not_specialize=SIZES)
def fold_border(
    grad, out, height, width, channels, PAD: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """The adjoint of `add_border`."""
    pixels = height * width
    image, pixel, channel, mask = own_tile(pixels, channels, BP, BC)
    grad += image * (height + 2 * PAD) * (width + 2 * PAD) * channels
    total = unpadded_gradient(grad, pixel, channel, mask, height, width, channels, PAD, BP, BC)
    store(out + image * pixels * channels, total, pixel, channel, mask, channels)


# -- halving: [1,2,1] x [1,2,1] / 16 on the mirrored map, every second pixel -------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def halve(x, y, height, width, channels, BP: tl.constexpr, BC: tl.constexpr):
    """Writes a tile of the halved map."""
    columns = (width + 1) // 2
    halved = ((height + 1) // 2) * columns
    image, target, channel, mask = own_tile(halved, channels, BP, BC)
    x += image * height * width * channels

    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(3):
        row = mirrored(2 * (target // columns) + i - 1, height)
        for j in tl.static_range(3):
            column = mirrored(2 * (target % columns) + j - 1, width)
            taps = (1 + (i == 1)) * (1 + (j == 1))
            total += taps * load(x, row * width + column, channel, mask, channels)
    store(y + image * halved * channels, total * 0.0625, target, channel, mask, channels)


@triton.jit
def share_of_halves(position, size):
    """What a pixel gives, along one axis, to the halved one at position // 2 and to the next, in quarters.

    An even pixel is the middle of one; an odd one lies between two, and its mirror image beyond an edge counts too.
    """
    odd = position % 2
    here = 2 - odd + tl.where(position == 1, 1, 0)
    last = (position == size - 2) & (size % 2 == 1)
    there = tl.where(position // 2 + 1 < (size + 1) // 2, odd + tl.where(last, 1, 0), 0)
    return here, there


@triton.jit(do_not_specialize=SIZES)
def spread_halves(grad, out, height, width, channels, BP: tl.constexpr, BC: tl.constexpr):
    """The adjoint of `halve`."""
    pixels, columns = height * width, (width + 1) // 2
    image, pixel, channel, mask = own_tile(pixels, channels, BP, BC)
    grad += image * ((height + 1) // 2) * columns * channels
    row, column = pixel // width, pixel % width
    up, down = share_of_halves(row, height)
    left, right = share_of_halves(column, width)

    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            share = (up if i == 0 else down) * (left if j == 0 else right)
            place = (row // 2 + i) * columns + column // 2 + j
            there = mask & (share > 0)[:, None]
            total += share[:, None] * load(grad, place, channel, there, channels)
    store(out + image * pixels * channels, total * 0.0625, pixel, channel, mask, channels)


# -- doubling: bilinear interpolation ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
def double(x, y, height, width, channels, BP: tl.constexpr, BC: tl.constexpr):
    """Writes a tile of the doubled map: three quarters of the nearest pixel, one of the next, along each axis."""
    columns = 2 * width
    doubled = 2 * height * columns
    image, target, channel, mask = own_tile(doubled, channels, BP, BC)
    x += image * height * width * channels
    row, column = target // columns, target % columns

    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(2):
        source_row = clamped(row // 2 + i * (2 * (row % 2) - 1), height)
        for j in tl.static_range(2):
            source_column = clamped(column // 2 + j * (2 * (column % 2) - 1), width)
            taps = (3 - 2 * i) * (3 - 2 * j)
            total += taps * load(x, source_row * width + source_column, channel, mask, channels)
    store(y + image * doubled * channels, total * 0.0625, target, channel, mask, channels)


@triton.jit(do_not_specialize=SIZES)
def gather_doubles(grad, out, height, width, channels, BP: tl.constexpr, BC: tl.constexpr):
    """The adjoint of `double`: [1,3,3,1] x [1,3,3,1] / 16 on the gradient, its edges repeated."""
    pixels, columns = height * width, 2 * width
    image, pixel, channel, mask = own_tile(pixels, channels, BP, BC)
    grad += image * 4 * pixels * channels
    row, column = pixel // width, pixel % width

    total = tl.zeros([BP, BC], tl.float32)
    for i in tl.static_range(4):
        y = clamped(2 * row - 1 + i, 2 * height)
        for j in tl.static_range(4):
            x = clamped(2 * column - 1 + j, columns)
            taps = (1 + 2 * (i == 1 or i == 2)) * (1 + 2 * (j == 1 or j == 2))
            total += taps * load(grad, y * columns + x, channel, mask, channels)
    store(out + image * pixels * channels, total * 0.0625, pixel, channel, mask, channels)
