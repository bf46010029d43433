"""A weight that is a part of a stored tensor is that part, of floats and of quantized matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from quire.errors import CheckpointError
from quire.models.places import Layout, Place, Rows
from quire.models.registry import build_spec, load_families
from quire.models.spec import Weight
from quire.models.stored_as import stored_as
from quire.quant.matrix import QuantizedMatrix
from quire.weights.dummy import DummyCheckpoint
from quire.weights.loader import load_weights
from quire.weights.part_of_tensor import part_of_matrix, refuse_part
from quire.weights.safetensors import SafetensorsFile
from tests.weights.test_loader import Arrays

RANDOM = np.random.default_rng(3)
STACK = RANDOM.standard_normal((3, 12, 4)).astype(np.float32)
MATRIX = STACK[1]


def load(tensor: np.ndarray, **how: Any) -> np.ndarray:
    """A part of a tensor called "whole", loaded as a weight called "w"."""
    place = Place("whole", tensor.shape, **how)
    weight = Weight("w", place.part_shape, stored=(place,))
    loaded = load_weights(Arrays(whole=tensor), {"w": weight})["w"]
    assert loaded.name == "w"
    assert loaded.shape == loaded.data.shape == place.part_shape
    return loaded.data


def test_rows() -> None:
    np.testing.assert_array_equal(load(MATRIX, rows=Rows(2, 5)), MATRIX[2:7])
    np.testing.assert_array_equal(load(MATRIX[:, 0].copy(), rows=Rows(2, 5)), MATRIX[2:7, 0])


def test_rows_of_every_group() -> None:
    expected = MATRIX[[2, 3, 8, 9]]
    np.testing.assert_array_equal(load(MATRIX, rows=Rows(2, 2, every=6)), expected)
    np.testing.assert_array_equal(load(MATRIX, rows=Rows(1, 1, every=2)), MATRIX[1::2])


def test_an_expert_a_transpose_and_columns() -> None:
    np.testing.assert_array_equal(load(STACK, expert=2), STACK[2])
    np.testing.assert_array_equal(load(STACK, expert=2, transposed=True), STACK[2].T)
    interleaved = load(STACK, expert=0, transposed=True, rows=Rows(1, 1, every=2))
    np.testing.assert_array_equal(interleaved, STACK[0, :, 1::2].T)
    assert interleaved.flags.c_contiguous


def test_times() -> None:
    expected = MATRIX[2:7] * np.float32(0.3)
    np.testing.assert_array_equal(load(MATRIX, rows=Rows(2, 5), times=0.3), expected)


def test_a_stack_of_tensors() -> None:
    place = Place("{}.w", (4,), stack=3)
    weight = Weight("w", place.part_shape, stored=(place,))
    rows = {f"{i}.w": MATRIX[i] for i in range(3)}
    loaded = load_weights(Arrays(**rows), {"w": weight})["w"]
    np.testing.assert_array_equal(loaded.data, MATRIX[:3])
    with pytest.raises(CheckpointError, match="has no tensor"):
        load_weights(Arrays(**{"0.w": MATRIX[0], "2.w": MATRIX[2]}), {"w": weight})


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2"])
def test_unit_rows(dtype: str) -> None:
    loaded = load(MATRIX.astype(dtype), unit_rows=True)
    expected = MATRIX / np.sqrt((MATRIX.astype(np.float64) ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(loaded, expected, rtol=2e-3 if dtype == "<f2" else 1e-6)
    assert np.isfinite(load(np.zeros((2, 4), dtype), unit_rows=True)).all()


def test_a_run_of_rows_is_a_view_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"whole": STACK}, path)
    file = SafetensorsFile(path)
    for how in ({"expert": 1}, {"expert": 1, "rows": Rows(4, 4)}):
        place = Place("whole", STACK.shape, **how)
        loaded = load_weights(file, {"w": Weight("w", place.part_shape, stored=(place,))})["w"]
        assert np.shares_memory(loaded.data, file.tensor("whole").data)


def test_messages_name_the_stored_tensor() -> None:
    halves = {
        name: Weight(name, (4, 2), stored=(Place("both", (8, 2), rows=Rows(at, 4)),))
        for name, at in (("a", 0), ("b", 4))
    }
    with pytest.raises(CheckpointError, match=r"no tensor 'both' \[8, 2\]; nearest there: 'bath'"):
        load_weights(Arrays(bath=np.ones((8, 2), np.float32)), halves)
    with pytest.raises(CheckpointError, match=r"'both' has the shape \[4, 2\].* says \[8, 2\]"):
        load_weights(Arrays(both=np.ones((4, 2), np.float32)), halves)


def test_a_place_of_the_same_name_is_not_passed_over() -> None:
    place = Place("w", MATRIX.shape, unit_rows=True)
    weight = Weight("w", MATRIX.shape, stored=(place,))
    loaded = load_weights(Arrays(w=MATRIX), {"w": weight})["w"]
    np.testing.assert_allclose((loaded.data**2).sum(1), 1, rtol=1e-6)


# --- quantized


def quantized(meaning: str) -> QuantizedMatrix:
    codes = RANDOM.integers(0, 16, (12, 8)).astype(np.uint8)
    scales = RANDOM.uniform(0.5, 2, (12, 2)).astype(np.float32)
    more: dict[str, Any] = {
        "zeros": {"zeros": RANDOM.integers(0, 16, (12, 2)).astype(np.uint8)},
        "minimums": {"minimums": RANDOM.uniform(-1, 1, (12, 2)).astype(np.float32)},
        "table": {"table": RANDOM.standard_normal(16).astype(np.float32)},
        "order": {"order": RANDOM.permutation(8).astype(np.int32)},
    }.get(meaning, {})
    return QuantizedMatrix("w", 4, 4, codes, scales, **more)


@pytest.mark.parametrize("meaning", ["symmetric", "zeros", "minimums", "table", "order"])
def test_rows_of_a_quantized_matrix(meaning: str) -> None:
    whole = quantized(meaning)
    for rows, index in ((Rows(3, 5), range(3, 8)), (Rows(1, 2, every=4), [1, 2, 5, 6, 9, 10])):
        part = part_of_matrix(whole, Place("w", (12, 8), rows=rows))
        np.testing.assert_array_equal(part.float32(), whole.float32()[list(index)])
    unit = part_of_matrix(whole, Place("w", (12, 8), unit_rows=True)).float32()
    np.testing.assert_allclose((unit**2).sum(1), 1, rtol=1e-5)
    twice = part_of_matrix(whole, Place("w", (12, 8), times=2.0)).float32()
    np.testing.assert_array_equal(twice, whole.float32() * 2)


@pytest.mark.parametrize("how", [{"expert": 1}, {"transposed": True}])
def test_other_parts_of_a_quantized_matrix_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"'w' is in blocks, and the weight is .*: use a"):
        refuse_part(Place("w", (3, 4, 4), **how), "'w' is in blocks")


# --- layouts

FUSED = Layout(
    layer="transformer.h.{}.",
    names={"model.norm": "transformer.ln_f", "self_attn.o_proj": "attn.c_proj"},
    fused={
        "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    },
    unit_rows=("lm_head",),
)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_layout_gives_every_weight_its_place(groups: int) -> None:
    config = {
        **load_families()["Qwen2ForCausalLM"].tiny,
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": False,
    }
    plain = build_spec(config)
    layout = Layout(FUSED.layer, FUSED.names, FUSED.fused, {"attn.c_attn": groups}, ("lm_head",))
    spec = stored_as(plain, layout)
    weights = spec.weights()
    assert {name: weight.shape for name, weight in weights.items()} == {
        name: weight.shape for name, weight in plain.weights().items()
    }
    places = {name: weight.places[-1] for name, weight in weights.items()}
    assert all(places[name].part_shape == weights[name].shape for name in weights)
    assert places["model.layers.1.mlp.up_proj.weight"] == Place(
        "transformer.h.1.mlp.gate_up.weight", (192, 64), rows=Rows(96, 96)
    )
    key = places["model.layers.0.self_attn.k_proj.bias"]
    assert (key.name, key.shape) == ("transformer.h.0.attn.c_attn.bias", (128,))
    assert key.rows == (Rows(64, 32) if groups == 1 else Rows(32, 16, every=64))
    assert places["model.norm.weight"].name == "transformer.ln_f.weight"
    assert places["lm_head.weight"].unit_rows
    # What the places take out of stored tensors covers each of them, no number twice.
    stored = {place.name: place.shape for place in places.values()}
    dummy = DummyCheckpoint(stored, "F32")
    loaded = load_weights(dummy, {n: w for n, w in weights.items() if n != "lm_head.weight"})
    taken = np.sort(np.concatenate([each.data.reshape(-1) for each in loaded.values()]))
    whole = [dummy.tensor(name).data.reshape(-1) for name in stored if name != "lm_head.weight"]
    np.testing.assert_array_equal(taken, np.sort(np.concatenate(whole)))


def test_every_family_places_parts_of_the_right_shape() -> None:
    for architecture, family in load_families().items():
        spec = build_spec({**family.tiny, "architectures": [architecture]})
        for weight in spec.weights().values():
            assert all(place.part_shape == weight.shape for place in weight.places), weight.name
