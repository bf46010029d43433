"""Made-up weights are repeatable, well scaled and quick."""

from __future__ import annotations

import os

import numpy as np
import pytest

from quire.errors import CheckpointError, ConfigError
from quire.weights.dummy import BLOCK, DummyCheckpoint

SHAPES = {
    "embed.weight": (5000, 64),
    "up.weight": (512, 256),
    "experts.weight": (4, 96, 128),
    "norm.weight": (4096,),
    "up.bias": (4096,),
    "scalar": (),
    "empty": (0, 8),
}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_shapes_and_scales(dtype: str) -> None:
    checkpoint = DummyCheckpoint(SHAPES, dtype, seed=3)
    assert checkpoint.names == tuple(SHAPES)
    for name, shape in SHAPES.items():
        tensor = checkpoint.tensor(name)
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, dtype, shape)
        assert tensor.data.shape == shape
    for name in ("embed.weight", "up.weight", "experts.weight"):
        values = checkpoint.tensor(name).float32()
        assert values.std() * np.sqrt(SHAPES[name][-1]) == pytest.approx(1, abs=0.02)
        assert abs(values.mean()) < 0.01
    assert checkpoint.tensor("norm.weight").float32().mean() == pytest.approx(1, abs=0.01)
    assert checkpoint.tensor("norm.weight").float32().std() == pytest.approx(0.02, rel=0.1)
    assert abs(checkpoint.tensor("up.bias").float32().mean()) < 0.01


def test_a_seed_decides_every_bit_whatever_else_is_read() -> None:
    everything = DummyCheckpoint(SHAPES, "BF16", seed=1)
    read = {name: everything.tensor(name).data.tobytes() for name in reversed(SHAPES)}
    alone = DummyCheckpoint({"up.weight": SHAPES["up.weight"]}, "BF16", seed=1)
    assert alone.tensor("up.weight").data.tobytes() == read["up.weight"]
    other = DummyCheckpoint(SHAPES, "BF16", seed=2)
    assert other.tensor("up.weight").data.tobytes() != read["up.weight"]


def test_two_tensors_of_one_shape_differ() -> None:
    checkpoint = DummyCheckpoint({"a": (64, 64), "b": (64, 64)}, "F32")
    assert not np.array_equal(checkpoint.tensor("a").data, checkpoint.tensor("b").data)


def test_a_tensor_longer_than_the_block_repeats_it_but_no_row() -> None:
    rows = BLOCK // 1024 + 500
    data = DummyCheckpoint({"w": (rows, 1024)}, "F32").tensor("w").data
    assert np.array_equal(data.ravel()[:1000], data.ravel()[BLOCK : BLOCK + 1000])
    assert len(np.unique(data[:, 0])) > 0.99 * rows


def test_other_types_and_unknown_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="'int4'"):
        DummyCheckpoint(SHAPES, "int4")
    with pytest.raises(CheckpointError, match="'absent'"):
        DummyCheckpoint(SHAPES).tensor("absent")


def test_a_hundred_million_weights_are_not_drawn_one_by_one() -> None:
    checkpoint = DummyCheckpoint({"w": (100_000, 1000)}, "BF16")
    start = os.times().user
    checkpoint.tensor("w")
    assert os.times().user - start < 0.7  # measured: 0.05 s, and over 1 s for drawing them all
