"""Decoded pixels of any kind as 8-bit grey or RGB: deep and floating-point values, colour profiles, transparency."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from util.errors import UserError

Levels = tuple[float, float]  # the values that show as black and as white
DEEP = 65535  # the largest value of 16 bits
GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
PROFILES = 16  # as many transforms are kept


def is_grey(image: Image.Image) -> bool:
    """Whether the pixels are single numbers, to which --value_range applies."""
    return image.mode in GREY


def to_8_bit(image: Image.Image, path: str, levels: Levels | None) -> Image.Image:
    """Grey, RGB or a mode that Pillow converts to them; 16-bit grey is scaled with rounding.

    Args:
        image: decoded.
        path: for messages.
        levels: the values of grey pixels that become 0 and 255; what lies beyond is clipped. None: 0 and the largest
            that the file can hold.

    Raises:
        UserError: the range of values is not known.
    """
    if is_grey(image) and levels:
        low, high = levels
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=low)
        scaled = ((values - low) / (high - low)).clip(0, 1) * 255
        return with_hidden_white(np.floor(scaled + 0.5).astype(np.uint8), image)

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > DEEP:
            raise UserError(
                f"{path}: 32-bit values outside 0..65535 ({values.min()}..{values.max()}); say with "
                "--value_range LOW,HIGH which are black and white, or convert it to 8 or 16 bits per channel"
            )
        return with_hidden_white(((values + 128) // 257).astype(np.uint8), image)

    if image.mode == "F":
        values = np.asarray(image)
        raise UserError(
            f"{path}: floating-point pixels have no known range ({np.nanmin(values):g}..{np.nanmax(values):g} here); "
            "say with --value_range LOW,HIGH which are black and white, or convert it to 8 or 16 bits per channel"
        )
    return on_white(in_srgb(image))


def with_hidden_white(grey: np.ndarray, image: Image.Image) -> Image.Image:
    """The (height, width) bytes made of a grey image, white where it has the value that its file calls transparent."""
    hidden = image.info.get("transparency")
    if isinstance(hidden, int):
        grey[np.asarray(image) == hidden] = 255
    return Image.fromarray(grey)


def on_white(image: Image.Image) -> Image.Image:
    """Transparent pixels show white, as on a page: the colours that a file stores beneath them are arbitrary."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(page, rgba).convert("RGB")


def in_srgb(image: Image.Image) -> Image.Image:
    """The colours as sRGB, where the file has another profile; one that is damaged or does not fit is passed over.

    CIELAB is one without a profile.
    """
    if image.mode == "LAB":  # of which Pillow makes RGB, but no grey
        return image.convert("RGB")

    profile = image.info.get("icc_profile")
    if profile and image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image

    out_mode = "RGBA" if image.mode == "RGBA" else "RGB"
    transform = _transform(profile, image.mode, out_mode)
    if not transform:
        return image

    colours = ImageCms.applyTransform(image, transform)
    if image.mode != "RGBA" and image.has_transparency_data:
        colours.putalpha(image.convert("RGBA").getchannel("A"))  # of one colour that is transparent
    return colours


@lru_cache(PROFILES)
def _transform(profile: bytes, mode: str, out_mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where nothing is to do or the profile is not for such pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, _srgb(), mode, out_mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


@lru_cache(1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.createProfile("sRGB")
