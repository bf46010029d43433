"""Every wanted weight arrives under its own name, or the message says what is wrong with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from quire.errors import CheckpointError
from quire.models.places import Place
from quire.models.spec import Weight
from quire.weights.dummy import DummyCheckpoint
from quire.weights.loader import load_weights
from quire.weights.safetensors import SafetensorsFile
from quire.weights.tensor import RawTensor


class Arrays:
    """A checkpoint in memory."""

    def __init__(self, **tensors: np.ndarray) -> None:
        self.origin = "memory"
        self.arrays = tensors
        self.names = tuple(self.arrays)

    def has(self, name: str) -> bool:
        return name in self.arrays

    def tensor(self, name: str) -> RawTensor:
        array = self.arrays[name]
        dtypes = {"f4": "F32", "f2": "F16", "u2": "BF16", "f8": "F64", "i4": "I32"}
        return RawTensor(name, dtypes[array.dtype.str[1:]], array.shape, array)


def ones(*shape: int, dtype: str = "<f4") -> np.ndarray:
    return np.ones(shape, dtype)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Weight]:
    """Weights with tensors of their own."""
    return {name: Weight(name, shape) for name, shape in shapes.items()}


def test_names_and_shapes_that_fit_are_loaded_in_order() -> None:
    checkpoint = Arrays(a=ones(2, 3), b=ones(4))
    loaded = load_weights(checkpoint, weights({"b": (4,), "a": (2, 3)}))
    assert list(loaded) == ["b", "a"]
    assert loaded["a"].data is checkpoint.arrays["a"]


@pytest.mark.parametrize(
    "stored",
    ["model.layers.0.w", "layers.0.w", "language_model.model.layers.0.w"]
    + ["model.language_model.layers.0.w", "language_model.layers.0.w", "transformer.layers.0.w"],
)
@pytest.mark.parametrize("wanted", ["model.layers.0.w", "layers.0.w"])
def test_prefixes_that_exports_differ_by_are_tried(stored: str, wanted: str) -> None:
    loaded = load_weights(Arrays(**{stored: ones(2)}), weights({wanted: (2,)}))
    assert loaded[wanted].name == wanted


def test_the_exact_name_comes_before_other_prefixes_and_those_before_other_places() -> None:
    checkpoint = Arrays(**{"w": ones(1) * 1, "model.w": ones(1) * 2, "other": ones(1) * 3})
    wanted = {
        "model.w": Weight("model.w", (1,), stored=(Place("other", (1,)),)),
        "w": Weight("w", (1,)),
        "lm_head": Weight(
            "lm_head", (1,), stored=(Place("absent", (1,)), Place("model.other", (1,)))
        ),
    }
    loaded = load_weights(checkpoint, wanted)
    assert [tensor.data[0] for tensor in loaded.values()] == [2, 1, 3]


def test_missing_weights_are_named_with_what_looks_like_them() -> None:
    checkpoint = Arrays(**{f"model.layers.{n}.attn.qkv.weight": ones(1) for n in range(20)})
    wanted = {f"model.layers.{n}.attn.q.weight": (1,) for n in (7, *range(10, 17))}
    with pytest.raises(CheckpointError) as error:
        load_weights(checkpoint, weights(wanted))
    message = str(error.value)
    assert "memory: has no tensor 'model.layers.7.attn.q.weight' [1], nor 7 more" in message
    assert "nearest there: 'model.layers.7.attn.qkv.weight'" in message
    assert "'model.layers.14.attn.q.weight', …" in message
    assert "'model.layers.15" not in message


def test_another_shape_is_an_error_with_both() -> None:
    with pytest.raises(CheckpointError, match=r"'w' has the shape \[2, 3\].*\[3, 2\]"):
        load_weights(Arrays(w=ones(2, 3)), weights({"w": (3, 2)}))


def test_a_type_that_is_no_plain_float_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"'w' is stored as I32.*quantization_config"):
        load_weights(Arrays(w=ones(2, dtype="<i4")), weights({"w": (2,)}))


@pytest.mark.parametrize("dtype, expected", [("<f4", "F32"), ("<f2", "F16"), ("<u2", "BF16")])
def test_plain_floats_stay_as_they_are(dtype: str, expected: str) -> None:
    assert load_weights(Arrays(w=ones(2, dtype=dtype)), weights({"w": (2,)}))["w"].dtype == expected


def test_float64_becomes_float32() -> None:
    loaded = load_weights(Arrays(w=np.array([0.1, 1e300])), weights({"w": (2,)}))["w"]
    assert loaded.dtype == "F32"
    assert loaded.data.dtype == np.float32
    assert loaded.data.tolist() == [np.float32(0.1), np.inf]


def test_what_the_kernels_could_not_address_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.arange(4, dtype=np.float32)}, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little") + 3  # three spaces more in the header
    path.write_bytes(
        size.to_bytes(8, "little") + content[8 : size + 5] + b"   " + content[size + 5 :]
    )
    file = SafetensorsFile(path)
    assert file.tensor("w").data.ctypes.data % 4
    loaded = load_weights(file, weights({"w": (4,)}))["w"]
    assert loaded.data.ctypes.data % 4 == 0
    assert loaded.data.tolist() == [0, 1, 2, 3]


def test_an_aligned_tensor_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"w": np.arange(4, dtype=np.float32)}, path)
    file = SafetensorsFile(path)
    loaded = load_weights(file, weights({"w": (4,)}))["w"]
    assert np.shares_memory(loaded.data, file.tensor("w").data)


def test_what_nobody_wanted_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Arrays(w=ones(1), **{f"vision.{n}": ones(1) for n in range(9)})
    with caplog.at_level(logging.WARNING):
        load_weights(checkpoint, weights({"w": (1,)}))
    (record,) = caplog.records
    assert "9 tensors" in record.getMessage()
    assert "'vision.0'" in record.getMessage()


@pytest.mark.parametrize(
    "harmless",
    ["model.layers.0.self_attn.rotary_emb.inv_freq", "h.3.attn.bias", "h.3.attn.masked_bias"]
    + ["gpt_neox.layers.1.attention.bias", "text_model.embeddings.position_ids"],
)
def test_constants_of_old_exports_are_not_reported(
    harmless: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_weights(Arrays(**{"w": ones(1), harmless: ones(1)}), weights({"w": (1,)}))
    assert not caplog.records


def test_another_place_that_was_used_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    load_weights(Arrays(old=ones(1)), {"new": Weight("new", (1,), stored=(Place("old", (1,)),))})
    assert not caplog.records


def test_dummy_weights_load_like_any_checkpoint() -> None:
    shapes = {"model.w": (8, 4), "model.norm.weight": (4,)}
    loaded = load_weights(DummyCheckpoint(shapes, "BF16", 1), weights(shapes))
    assert {name: tensor.shape for name, tensor in loaded.items()} == shapes
