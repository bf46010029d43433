"""The paged KV cache: where each number stands, and that reading gives back what was written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.ops.kv_cache import (
    KV_FORMATS,
    KvCache,
    KvLayerShape,
    KvLayout,
    rounded_to_cache,
)
from quire.ops.kv_codes import NUM_FACTS, to_codes
from quire.ops.number_formats import E4M3, FORMATS, e4m3_codes, from_float32, to_float32

TWO_LAYERS = (KvLayerShape(2, 4), KvLayerShape(3, 8))
each_format = pytest.mark.parametrize("name", FORMATS)


def cache(name: str = "float32", block_tokens: int = 16, num_blocks: int = 5) -> KvCache:
    return KvCache(KvLayout(TWO_LAYERS, block_tokens, name), num_blocks)


def random_rows(length: int, shape: KvLayerShape, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (length, shape.kv_heads, shape.head_dim)).astype(np.float32)


# --- the layout


@pytest.mark.parametrize(("name", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
@pytest.mark.parametrize("block_tokens", [16, 32])
def test_sizes(name: str, size: int, block_tokens: int) -> None:
    layout = KvLayout(TWO_LAYERS, block_tokens, name)
    first, second = 2 * 2 * 4 * block_tokens * size, 2 * 3 * 8 * block_tokens * size
    assert layout.block_bytes == (first, second)
    assert layout.bytes_per_block == first + second
    assert layout.layer_offsets(7) == (0, 7 * first)
    assert KvCache(layout, 7).arena.nbytes == 7 * (first + second)


def test_no_layers_take_no_bytes() -> None:
    layout = KvLayout((), 16, "float32")
    assert (layout.bytes_per_block, layout.layer_offsets(3)) == (0, ())


@each_format
def test_each_number_stands_where_the_layout_says(name: str) -> None:
    """Layer, block, then keys [K, D, B] and values [K, B, D]."""
    each, size = cache(name), FORMATS[name].itemsize
    layer, block, offset = 1, 3, 11
    shape = TWO_LAYERS[layer]
    keys, values = random_rows(2, shape)
    each.write(layer, block, offset, keys, values)
    start = each.layer_offsets[layer] + block * each.layout.block_bytes[layer]
    half = each.layout.block_bytes[layer] // 2
    for head, dim in itertools.product(range(shape.kv_heads), range(shape.head_dim)):
        key_at = start + ((head * shape.head_dim + dim) * 16 + offset) * size
        value_at = start + half + ((head * 16 + offset) * shape.head_dim + dim) * size
        for at, expected in ((key_at, keys[head, dim]), (value_at, values[head, dim])):
            number = each.arena[at : at + size].view(FORMATS[name])
            assert number == from_float32(np.float32([expected]), name)


@each_format
def test_a_write_touches_its_own_place_only(name: str) -> None:
    each = cache(name)
    shape = TWO_LAYERS[0]
    each.write(0, 2, 5, np.ones((2, 4), np.float32), np.ones((2, 4), np.float32))
    assert np.count_nonzero(each.arena.view(FORMATS[name])) == 2 * shape.kv_heads * shape.head_dim


def test_every_token_has_bytes_of_its_own() -> None:
    each = cache(num_blocks=3)
    for layer, block, offset in itertools.product(range(2), range(3), range(16)):
        shape = TWO_LAYERS[layer]
        ones = np.ones((shape.kv_heads, shape.head_dim), np.float32)
        each.write(layer, block, offset, ones, ones)
        total = np.count_nonzero(each.arena.view(np.float32))
        per_token = [2 * each.kv_heads * each.head_dim for each in TWO_LAYERS]
        tokens = block * 16 + offset + 1
        assert total == (48 * per_token[0] if layer else 0) + tokens * per_token[layer]


# --- reading back


@pytest.mark.parametrize("name", KV_FORMATS)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 48])
def test_reading_gives_back_what_was_written_rounded(name: str, length: int) -> None:
    each = cache(name)
    table = np.int32([4, 0, 2])
    written = []
    for layer, shape in enumerate(TWO_LAYERS):
        keys, values = random_rows(length, shape, 1), random_rows(length, shape, 2)
        written.append((keys, values))
        for position in range(length):
            block = int(table[position // 16])
            each.write(layer, block, position % 16, keys[position], values[position])
    for layer, (keys, values) in enumerate(written):
        found_keys, found_values = each.read(layer, table, length)
        np.testing.assert_array_equal(found_keys, rounded_to_cache(keys, name))
        np.testing.assert_array_equal(found_values, rounded_to_cache(values, name))
        tail = each.read(layer, table, length, start=length - 1)
        np.testing.assert_array_equal(tail[0], found_keys[-1:])
        np.testing.assert_array_equal(tail[1], found_values[-1:])


def test_two_requests_share_a_block() -> None:
    each = cache()
    keys, values = random_rows(2, TWO_LAYERS[0])
    each.write(0, 1, 0, keys, values)
    for table in ([1, 0], [1, 3]):
        np.testing.assert_array_equal(each.read(0, np.int32(table), 1)[0][0], keys)


@settings(max_examples=30, deadline=None)
@given(
    block_tokens=st.sampled_from([8, 16, 32]),
    name=st.sampled_from(sorted(FORMATS)),
    writes=st.lists(st.integers(0, 4 * 8 - 1), max_size=40),
)
def test_the_last_write_to_a_place_is_what_is_read(
    block_tokens: int, name: str, writes: list[int]
) -> None:
    each = cache(name, block_tokens, num_blocks=4)
    expected: dict[int, np.ndarray] = {}
    for seed, position in enumerate(writes):
        keys, values = random_rows(2, TWO_LAYERS[1], seed)
        each.write(1, position // block_tokens, position % block_tokens, keys, values)
        expected[position] = keys
    found, _ = each.read(1, np.arange(4, dtype=np.int32), 4 * 8)
    for position, keys in expected.items():
        rounded = to_float32(from_float32(keys, name), name)
        np.testing.assert_array_equal(found[position], rounded)


# --- int8


def test_int8_blocks_hold_codes_then_scales() -> None:
    """Keys [K, D / 2, B, 2] padded to even D, values [K, B, D], scales of keys and of values."""
    layout = KvLayout((KvLayerShape(2, 3),), 8, "int8")
    each = KvCache(layout, 2)
    keys, values = np.float32([[1, -2, 0.5], [0, 0, 0]]), np.float32([[4, 1, 1], [-127, 0.5, 1.5]])
    each.write(0, 1, 5, keys, values)
    block = each.arena[layout.block_bytes[0] :]
    codes = block[: 2 * 4 * 8].view(np.int8).reshape(2, 2, 8, 2)[:, :, 5]
    assert codes.reshape(2, 4).tolist() == [[64, -127, 32, 0], [0, 0, 0, 0]]  # 63.5 is a tie
    codes = block[64 : 64 + 2 * 8 * 3].view(np.int8).reshape(2, 8, 3)[:, 5]
    assert codes.tolist() == [[127, 32, 32], [-127, 0, 2]]  # so are 0.5 and 1.5
    scales = block[112:].view(np.float32).reshape(2, 2, 8)[:, :, 5]
    np.testing.assert_array_equal(scales, np.float32([[2, 0], [4, 127]]) / np.float32(127))


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e38])
def test_int8_is_within_half_a_step(scale: float) -> None:
    x = (np.random.default_rng(3).normal(0, 0.5, (50, 64)) * scale).astype(np.float32)
    step = np.abs(x).max(-1, keepdims=True).astype(np.float64) / 127
    tiny = 2.0**-149 * 128  # a scale that is a subnormal number is rounded itself
    assert (np.abs(rounded_to_cache(x, "int8") - x.astype(np.float64)) <= 0.501 * step + tiny).all()


@pytest.mark.parametrize("format", NUM_FACTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_codes_do_not_hide_what_is_not_finite(bad: float, format: str) -> None:
    x = np.float32([[1, 2, bad, 4], [1, 2, 3, 4]])
    codes, facts = to_codes(x, format)
    assert (codes[0] == 0).all() and np.isnan(facts[0, 0])
    found = rounded_to_cache(x, format)
    assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()


# --- fp8


def test_the_nearest_float8_is_taken_and_the_even_one_of_two() -> None:
    """Against a search through all codes, at every number, every middle and what is beside it."""
    numbers = np.unique(np.concatenate([E4M3[:127], -E4M3[:127]]))
    middles = (numbers[1:] + numbers[:-1]) / 2
    beside = [np.nextafter(middles, np.float32(to)) for to in (-np.inf, np.inf)]
    values = np.concatenate([numbers, *beside]).astype(np.float32)
    found = E4M3[e4m3_codes(values)]
    np.testing.assert_array_equal(found, numbers[np.abs(values[:, None] - numbers).argmin(1)])
    codes = e4m3_codes(middles.astype(np.float32))
    assert not (codes & 1).any()
    assert (np.abs(E4M3[codes] - middles) == np.abs(middles[:, None] - numbers).min(1)).all()
    assert E4M3[e4m3_codes(np.float32([1e30, -500, np.inf]))].tolist() == [448, -448, 448]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e38])
def test_fp8_keeps_four_bits_of_each_number(scale: float) -> None:
    x = (np.random.default_rng(3).normal(0, 0.5, (50, 64)) * scale).astype(np.float32)
    off = np.abs(rounded_to_cache(x, "fp8") - x.astype(np.float64))
    least = np.abs(x).max(-1, keepdims=True) / 448 * 2**-10
    assert (off <= np.maximum(np.abs(x) / 16, least) * 1.001).all()


# --- int4


def test_int4_blocks_hold_pairs_then_scales_then_minimums() -> None:
    """Keys [K, D / 2, B] and values [K, B, D / 2], D rounded up to even."""
    layout = KvLayout((KvLayerShape(2, 3),), 8, "int4")
    each = KvCache(layout, 2)
    keys, values = np.float32([[1, 16, 3], [7, 7, 7]]), np.float32([[-15, 15, 1], [0, 0, 30]])
    each.write(0, 1, 5, keys, values)
    block = each.arena[layout.block_bytes[0] :]
    pairs = block[: 2 * 2 * 8].reshape(2, 2, 8)[:, :, 5]
    assert pairs.tolist() == [[0xF0, 0x02], [0, 0]]
    pairs = block[32:64].reshape(2, 8, 2)[:, 5]
    assert pairs.tolist() == [[0xF0, 0x08], [0, 0x0F]]
    facts = block[64:].view(np.float32).reshape(2, 2, 2, 8)[..., 5]
    assert facts.tolist() == [[[1, 0], [2, 2]], [[1, 7], [-15, 0]]]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e38])
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_int4_is_within_half_a_step(scale: float, shift: float) -> None:
    x = (np.random.default_rng(3).uniform(shift - 1, shift + 1, (50, 64)) * scale).astype("f4")
    wide = x.astype(np.float64)
    step = (wide.max(-1, keepdims=True) - wide.min(-1, keepdims=True)) / 15
    assert (np.abs(rounded_to_cache(x, "int4") - wide) <= 0.501 * step).all()
