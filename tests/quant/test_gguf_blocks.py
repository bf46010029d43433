"""Block formats of GGUF: the bits of gguf-py's own decoder, and back."""

from __future__ import annotations

import numpy as np
import pytest

from quire.quant.gguf_blocks.encode import block_format_of, encode
from quire.quant.gguf_blocks.types import BLOCK_FORMATS, NUMBERS, tensor_type
from quire.quant.matrix import QuantizedMatrix

ROWS, BLOCKS = 500, 2


def random_rows(name: str) -> np.ndarray:
    """Rows of random bytes: every scale that float16 has may be among them."""
    nbytes = BLOCK_FORMATS[name].nbytes
    return np.random.default_rng(0).integers(0, 256, (ROWS, BLOCKS * nbytes)).astype(np.uint8)


@pytest.mark.oracle
@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_decoded_to_the_bit_as_the_format_says(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType(NUMBERS[name])
    assert (BLOCK_FORMATS[name].columns, BLOCK_FORMATS[name].nbytes) == gguf.GGML_QUANT_SIZES[kind]
    raw = random_rows(name)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind)
        ours = BLOCK_FORMATS[name].matrix("w", raw).float32()
    assert np.array_equal(ours, expected, equal_nan=True)
    assert np.array_equal(np.signbit(ours[ours == 0]), np.signbit(expected[expected == 0]))


@pytest.mark.oracle
def test_numbers_are_those_of_ggml() -> None:
    gguf = pytest.importorskip("gguf")
    assert {name: gguf.GGMLQuantizationType[name].value for name in NUMBERS} == NUMBERS


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q8_0"])
def test_encoding_undoes_decoding(name: str) -> None:
    raw = random_rows(name)
    matrix = BLOCK_FORMATS[name].matrix("w", raw)
    assert block_format_of(matrix) == name
    finite = np.isfinite(matrix.scales).all(axis=1)
    if matrix.minimums is not None:
        finite &= np.isfinite(matrix.minimums).all(axis=1)
    assert finite.any()
    np.testing.assert_array_equal(encode(matrix)[finite], raw[finite])


@pytest.mark.parametrize("zeros", [False, True])
def test_wide_groups_repeat_their_scales(zeros: bool) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 16, (4, 256)).astype(np.uint8)
    scales = random.integers(1, 9, (4, 2)).astype(np.float32) / 8
    points = random.integers(0, 16, (4, 2)).astype(np.uint8) if zeros else None
    matrix = QuantizedMatrix("w", 4, 128, codes, scales, points)
    decoded = BLOCK_FORMATS[block_format_of(matrix)].matrix("w", encode(matrix))
    np.testing.assert_array_equal(decoded.float32(), matrix.float32())


@pytest.mark.parametrize(
    "change", [{"bits": 5}, {"group_size": 16}, {"table": np.zeros(16, np.float32)}]
)
def test_what_fits_no_block_is_refused(change: dict) -> None:
    facts = {"bits": 4, "group_size": 32, **change}
    scales = np.ones((1, 64 // facts["group_size"]), np.float32)
    matrix = QuantizedMatrix("w", codes=np.zeros((1, 64), np.uint8), scales=scales, **facts)
    with pytest.raises(ValueError, match="fits none of"):
        encode(matrix)


@pytest.mark.parametrize(("number", "named"), [(16, "IQ2_XXS"), (35, "TQ2_0"), (99, "number 99")])
def test_other_types_are_refused_by_name(number: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tensor_type(number)
