"""What the formats' files hold, beside definitions and code that are not ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.quant.formats import (
    awq,
    compressed_tensors,
    fp8,
    gptq,
    mxfp4,
)
from quire.quant.formats.scheme import ModuleSchemes, Tensors
from quire.quant.formats.small_floats import E2M1, E4M3, E5M2, E8M0
from quire.quant.formats.words import pack_words, unpack_words, words_for
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor
from tests.quant.layers import plain, random_matrix

SHAPE = (64, 96)


def tensors_of(arrays: dict[str, np.ndarray], shape: tuple[int, int]) -> Tensors:
    """What a reader gets of arrays by their full names in the layer "m"."""
    found = {}
    for name, array in arrays.items():
        dtype, data = plain(array)
        found[name.removeprefix("m.")] = RawTensor(name, dtype, data.shape, data)
    return Tensors("m", shape, found)


def read_back(scheme_of: ModuleSchemes, arrays: dict[str, np.ndarray]) -> QuantizedMatrix:
    scheme = scheme_of("m")
    assert scheme is not None
    return scheme.read(tensors_of(arrays, SHAPE))


# --- words


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), count=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_words_hold_a_stream_of_bits(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, count), np.uint8)
    words = pack_words(codes, bits)
    assert words.shape == (3, words_for(count, bits))
    for row, line in zip(codes, words, strict=True):
        stream = sum(int(code) << bits * i for i, code in enumerate(row))
        assert stream == sum((int(w) & 0xFFFFFFFF) << 32 * i for i, w in enumerate(line))
    np.testing.assert_array_equal(unpack_words(words, bits, count), codes)


# --- round trips


Writer = Callable[[QuantizedMatrix], QuantizedMatrix]


def through_awq(m: QuantizedMatrix) -> QuantizedMatrix:
    config = awq.config(None if m.group_size >= SHAPE[1] else m.group_size)
    return read_back(awq.schemes(config), awq.write("m", m))


def through_gptq(m: QuantizedMatrix) -> QuantizedMatrix:
    config = gptq.config(m.bits, m.group_size, m.zeros is None, m.order is not None)
    return read_back(gptq.schemes(config), gptq.write("m", m))


def through_packed(m: QuantizedMatrix) -> QuantizedMatrix:
    config = compressed_tensors.config(m.bits, m.group_size, m.zeros is None)
    return read_back(compressed_tensors.schemes(config), compressed_tensors.write("m", m))


def through_bytes(m: QuantizedMatrix) -> QuantizedMatrix:
    layout: Any = "int-quantized"
    config = compressed_tensors.config(m.bits, m.group_size, m.zeros is None, layout)
    return read_back(compressed_tensors.schemes(config), compressed_tensors.write("m", m, layout))


@pytest.mark.parametrize(
    ("through", "all_bits", "orders"),
    [
        (through_awq, (4,), (False,)),
        (through_gptq, (2, 3, 4, 8), (False, True)),
        (through_packed, (1, 2, 3, 4, 5, 6, 7, 8), (False, True)),
        (through_bytes, (2, 4, 8), (False,)),
    ],
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read(through: Writer, all_bits: Any, orders: Any, data: Any) -> None:
    matrix = random_matrix(
        np.random.default_rng(data.draw(st.integers(0, 2**32))),
        SHAPE,
        data.draw(st.sampled_from(all_bits)),
        data.draw(st.sampled_from((16, 32, 96))),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(orders)),
    )
    found = through(matrix)
    assert found.bits == matrix.bits and found.group_size == matrix.group_size
    np.testing.assert_array_equal(found.float32(), matrix.float32())


@pytest.mark.parametrize("write", [awq.write, gptq.write, compressed_tensors.write])
def test_what_a_format_cannot_hold_is_refused(write: Any) -> None:
    codes, scales = np.zeros((32, 64), np.uint8), np.ones((32, 2), np.float32)
    with pytest.raises(ValueError, match="minimums"):
        write("m", QuantizedMatrix("m", 4, 32, codes, scales, minimums=scales))
    if write is not compressed_tensors.write:
        with pytest.raises(ValueError, match="float16"):
            write("m", QuantizedMatrix("m", 4, 32, codes, scales + np.float32(1e-7)))
        with pytest.raises(ValueError, match="5 bits"):
            write("m", QuantizedMatrix("m", 5, 32, codes, scales))


def test_gptq_stores_zero_points_less_one() -> None:
    matrix = random_matrix(np.random.default_rng(0), SHAPE, zeros=True)
    zeros = matrix.zeros
    assert zeros is not None
    zeros[:] = np.arange(64)[:, None] % 16
    stored = gptq.write("m", matrix)
    nibbles = unpack_words(stored["m.qzeros"], 4, 64)
    np.testing.assert_array_equal(nibbles, (np.arange(64)[None] % 16 - 1) % 16 + 0 * nibbles)
    config = gptq.config(4, 32, False)
    newer = {**config, "checkpoint_format": "gptq_v2"}
    found = read_back(gptq.schemes(newer), stored)
    assert found.zeros is not None
    np.testing.assert_array_equal(found.zeros, (zeros - 1) % 16)


def test_older_compressed_tensors_left_bits_of_words_unused() -> None:
    """Three-bit codes, ten of them in a word."""
    codes = np.random.default_rng(0).integers(0, 8, SHAPE, np.uint8)
    words = np.zeros((64, 10), np.uint32)
    for i in range(96):
        words[:, i // 10] |= codes[:, i].astype(np.uint32) << np.uint32(3 * (i % 10))
    arrays = {"weight_packed": words.view(np.int32), "weight_scale": np.ones((64, 3), np.float32)}
    found = read_back(compressed_tensors.schemes(compressed_tensors.config(3, 32, True)), arrays)
    np.testing.assert_array_equal(found.codes, codes)


# --- other people's decoders


@pytest.mark.oracle
def test_small_floats_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8)
    for table, name in ((E4M3, "e4m3fn"), (E5M2, "e5m2"), (E8M0, "e8m0fnu")):
        expected = codes.view(getattr(torch, f"float8_{name}")).float().numpy()
        np.testing.assert_array_equal(table, expected)
    assert E2M1.tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    np.testing.assert_array_equal(E2M1[8:], -E2M1[:8])


def _expert(shape: tuple[int, int], blocks: np.ndarray, scales: np.ndarray) -> Tensors:
    found = {"blocks": RawTensor("b", "U8", blocks.shape, blocks)}
    return Tensors("m", shape, {**found, "scales": RawTensor("s", "U8", scales.shape, scales)})


@pytest.mark.oracle
def test_experts_of_gpt_oss_as_transformers_decodes_them() -> None:
    torch = pytest.importorskip("torch")
    integration = pytest.importorskip("transformers.integrations.mxfp4")
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (2, 24, 3, 16), np.uint8)
    scales = random.integers(110, 130, (2, 24, 3), np.uint8)
    expected = integration.convert_moe_packed_tensors(
        torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32
    )
    for each in range(2):
        found = mxfp4.read_expert(_expert((24, 96), blocks[each], scales[each])).float32()
        np.testing.assert_array_equal(found.T, expected[each].numpy())


@pytest.mark.oracle
def test_blocks_of_deepseek_as_transformers_decodes_them() -> None:
    shape = (256, 384)
    torch = pytest.importorskip("torch")
    integration = pytest.importorskip("transformers.integrations.finegrained_fp8")
    random = np.random.default_rng(0)
    codes = random.integers(0, 127, shape, np.uint8) | random.choice([0, 128], shape).astype("u1")
    scales = random.uniform(0.001, 0.01, (2, 3)).astype(np.float32)
    found = fp8.read_blocks(
        Tensors(
            "m",
            shape,
            {
                "weight": RawTensor("w", "F8_E4M3", shape, codes),
                "weight_scale_inv": RawTensor("s", "F32", scales.shape, scales),
            },
        ),
        (128, 128),
    ).float32()
    weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    decode = integration.Fp8Dequantize(None)._dequantize_one
    expected = decode(weight, torch.from_numpy(scales), torch.float32)
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("blocks", [(2, 3, 15), (2, 16), (2, 3, 17)])
def test_experts_of_another_shape(blocks: tuple[int, ...]) -> None:
    tensors = _expert((2, 96), np.zeros(blocks, np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(CheckpointError, match="blocks"):
        mxfp4.read_expert(tensors)


def test_a_scale_that_is_no_number() -> None:
    scales = np.full((2, 3), 255, np.uint8)
    with pytest.raises(CheckpointError, match="not finite"):
        mxfp4.read_expert(_expert((2, 96), np.zeros((2, 3, 16), np.uint8), scales))
