"""How a model wants its images: read from preprocessor_config.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quire.errors import ModelError
from quire.models.config_reader import ConfigReader, read_json

__all__ = ["ImageRules", "read_image_rules"]

FILE = "preprocessor_config.json"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of each channel of the images that CLIP was trained with."""

MIN_PIXELS, MAX_PIXELS = 56 * 56, 28 * 28 * 1280

BICUBIC = 3
"""The number of the filter in PIL, which is what the file has."""


@dataclass(frozen=True, slots=True)
class ImageRules:
    """Images are scaled so that patches fill them, and to a number of pixels between two bounds.

    A patch is `patch` pixels wide and high, and `frames` images deep, for the sake of videos: a
    still image is there so many times.  Each `merge` x `merge` of them become one token.  mean and
    std: what is taken off a channel between 0 and 1, and what the rest is divided by.
    """

    patch: int = 14
    frames: int = 2
    merge: int = 2
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @property
    def step(self) -> int:
        """What sides of scaled images are multiples of, in pixels."""
        return self.patch * self.merge


def read_image_rules(directory: Path, patch: int, frames: int, merge: int) -> ImageRules:
    """The rules of a model whose tower was made for these patches.

    Raises ModelError for a value that is not supported, or that does not go with the tower.
    """
    path = directory / FILE
    values = ConfigReader(read_json(path) if path.is_file() else {}, FILE)
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        if not values.flag(key, True):
            raise ModelError(f"{FILE}: {key} false is not supported")
    if values.integer("resample", BICUBIC) != BICUBIC:
        raise ModelError(f"{FILE}: resample {values.get('resample')} is not supported; 3, bicubic")
    for key, made in (
        ("patch_size", patch),
        ("temporal_patch_size", frames),
        ("merge_size", merge),
    ):
        if values.positive(key, made) != made:
            raise ModelError(
                f"{FILE}: {key} is {values.get(key)} and the vision tower of config.json has {made}"
            )
    if abs(values.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ModelError(f"{FILE}: rescale_factor {values.get('rescale_factor')} is not 1/255")
    size = ConfigReader(values.section("size"), FILE)
    low = size.positive("shortest_edge", size.positive("min_pixels", MIN_PIXELS))
    high = size.positive("longest_edge", size.positive("max_pixels", MAX_PIXELS))
    low, high = values.positive("min_pixels", low), values.positive("max_pixels", high)
    if not low <= high:
        raise ModelError(f"{FILE}: min_pixels {low} is above max_pixels {high}")
    mean, std = _of_channels(values, "image_mean", MEAN), _of_channels(values, "image_std", STD)
    return ImageRules(patch, frames, merge, low, high, mean, std)


def _of_channels(values: ConfigReader, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    found = values.get(key, list(default))
    if (
        not isinstance(found, list)
        or len(found) != 3
        or not all(isinstance(each, int | float) for each in found)
    ):
        raise ModelError(f"{FILE}: {key} is {found!r}; expected three numbers")
    return tuple(float(each) for each in found)
