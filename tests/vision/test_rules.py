"""preprocessor_config.json is honoured or refused, and sizes keep within its bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError, RequestError
from quire.models.registry import build_spec, load_families
from quire.vision.image_rules import ImageRules, read_image_rules
from quire.vision.patches import scaled_size

NAME = "Qwen2VLForConditionalGeneration"


def read(directory: Path, **values: Any) -> ImageRules:
    (directory / "preprocessor_config.json").write_text(json.dumps(values))
    return read_image_rules(directory, 14, 2, 2)


def test_every_spelling_of_the_bounds(tmp_path: Path) -> None:
    for values in (
        {"min_pixels": 3136, "max_pixels": 50000},
        {"size": {"shortest_edge": 3136, "longest_edge": 50000}},
        {"size": {"min_pixels": 3136, "max_pixels": 50000}},
        {"min_pixels": 3136, "max_pixels": 50000, "size": {"longest_edge": 9999999}},
    ):
        assert read(tmp_path, **values) == ImageRules(min_pixels=3136, max_pixels=50000)
    (tmp_path / "preprocessor_config.json").unlink()
    assert read_image_rules(tmp_path, 14, 2, 2) == ImageRules()


@pytest.mark.parametrize(
    "values",
    [
        {"patch_size": 16},
        {"merge_size": 3},
        {"temporal_patch_size": 1},
        {"resample": 2},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1.0},
        {"image_mean": [0.5]},
        {"image_std": 0.5},
        {"min_pixels": 5000, "max_pixels": 4000},
    ],
)
def test_what_is_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(ModelError, match=next(iter(values))):
        read(tmp_path, **values)


def test_sides_are_steps_and_areas_in_bounds() -> None:
    rules = ImageRules(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 64)
    for height in range(5, 900, 61):
        for width in range(5, 900, 53):
            rows, columns = (side / 28 for side in scaled_size(height, width, rules))
            assert rows == int(rows) >= 1
            assert columns == int(columns) >= 1
            assert rows * columns >= 4
            assert rows * columns <= 64 or min(rows, columns) == 1
    with pytest.raises(RequestError, match="factor of 200"):
        scaled_size(5, 1001, rules)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 4]}}, "mrope_section"),
        ({"rope_scaling": None}, "mrope_section"),
        ({"vision_config": {"hidden_size": 32, "embed_dim": 32, "num_heads": 2}}, "hidden_size"),
        ({"vision_config": {"hidden_size": 64, "embed_dim": 32, "num_heads": 5}}, "embed_dim"),
        ({"vision_config": {"hidden_size": 64, "hidden_act": "swoosh"}}, "hidden_act"),
        ({"vision_config": None}, "hidden_size"),
    ],
)
def test_configs_that_are_refused(changed: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build_spec({"architectures": [NAME], **load_families()[NAME].tiny, **changed})
