"""Random layers of every format, written by hand here, and what they mean by its definition.

Each writer returns the tensors of one layer by the ends of their names, as (dtype, array), and the
weights that they stand for; `CONFIGS` has the quantization_config of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.ops.number_formats import bfloat16_bits
from quire.quant.formats import awq, compressed_tensors, gptq
from quire.quant.matrix import QuantizedMatrix

Stored = tuple[str, np.ndarray]
Layer = tuple[dict[str, Stored], npt.NDArray[np.float32]]
NAMES = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
NAMES |= {"float16": "F16", "float32": "F32", "uint16": "BF16"}
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
NF4 = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
NF4 += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]


def plain(values: np.ndarray) -> Stored:
    """A tensor of the type that numpy says; uint16 are the bits of bfloat16."""
    return NAMES[str(values.dtype)], values


def random_matrix(
    random: np.random.Generator,
    shape: tuple[int, int],
    bits: int = 4,
    group_size: int = 32,
    zeros: bool = False,
    order: bool = False,
) -> QuantizedMatrix:
    """Codes and zero points of all sizes; weights of about 1 / sqrt(columns)."""
    rows, cols = shape
    groups = -(-cols // group_size)
    spread = 2.0 / (1 << bits) / cols**0.5
    scales = (random.uniform(0.5, 1.5, (rows, groups)) * spread).astype(np.float16)
    top = 1 << bits
    middle = slice(top // 4, top - top // 4)
    points = random.integers(middle.start, middle.stop, (rows, groups), np.uint8)
    return QuantizedMatrix(
        "m",
        bits,
        group_size,
        random.integers(0, top, shape, np.uint8),
        scales.astype(np.float32),
        zeros=points if zeros else None,
        order=random.permutation(cols).astype(np.int32) if order else None,
    )


def _written(write: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A writer of the package, which other tests hold to the files of other projects."""

    def layer(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
        matrix = random_matrix(random, shape, **options)
        tensors = write("m", matrix, *arguments)
        return {name[2:]: plain(data) for name, data in tensors.items()}, matrix.float32()

    return layer


def _fp8_blocks(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    rows, cols = shape
    codes, values = _float8(random, shape)
    scales = random.uniform(0.5, 1.5, (-(-rows // 32), -(-cols // 32))).astype(np.float32)
    scales /= np.float32(200 * cols**0.5)
    weights = np.empty(shape, np.float32)
    for r, c in np.ndindex(*shape):
        weights[r, c] = values[r, c] * scales[r // 32, c // 32]
    return {"weight": ("F8_E4M3", codes), "weight_scale_inv": plain(scales)}, weights


def _fp8_rows(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes, values = _float8(random, shape)
    scales = random.uniform(0.5, 1.5, (shape[0], 1)) / 200 / shape[1] ** 0.5
    stored = bfloat16_bits(scales.astype(np.float32))
    wide = (stored.astype(np.uint32) << 16).view(np.float32)
    return {"weight": ("F8_E4M3", codes), "weight_scale": plain(stored)}, values * wide


def _fp8_whole(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes, values = _float8(random, shape)
    scale = np.array(1 / 200 / shape[1] ** 0.5, np.float32)
    tensors = {"weight": ("F8_E4M3", codes), "weight_scale": plain(scale)}
    return {**tensors, "input_scale": plain(np.array(0.5, np.float32))}, values * scale


def _float8(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of float8_e4m3fn and their values: a sign, 4 bits of exponent, 3 of mantissa."""
    codes = random.integers(0, 127, shape, np.uint8) | random.choice([0, 128], shape).astype("u1")
    values = np.empty(shape, np.float32)
    for at, code in np.ndenumerate(codes):
        exponent, mantissa = int(code) >> 3 & 15, int(code) & 7
        size = mantissa / 8 * 2**-6 if exponent == 0 else (1 + mantissa / 8) * 2 ** (exponent - 7)
        values[at] = -size if code & 128 else size
    return codes, values


def _nibbles(codes: np.ndarray, low_first: bool = True) -> np.ndarray:
    even, odd = codes[..., ::2], codes[..., 1::2]
    return (even | odd << 4 if low_first else odd | even << 4).astype(np.uint8)


def _nvfp4(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes = random.integers(0, 16, shape, np.uint8)
    small, values = _float8(random, (shape[0], shape[1] // 16))
    small, values = small & 127, np.abs(values)
    whole = np.array([1 / 1000 / shape[1] ** 0.5], np.float32)
    scales = np.repeat(values * whole, 16, axis=1)
    tensors = {"weight": plain(_nibbles(codes)), "weight_scale": ("F8_E4M3", small)}
    return {**tensors, "weight_scale_2": plain(whole)}, np.float32(FP4)[codes] * scales


def _mxfp4(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes = random.integers(0, 16, shape, np.uint8)
    exponents = random.integers(119, 124, (shape[0], shape[1] // 32), np.uint8)
    scales = np.repeat(np.exp2(exponents.astype(np.float32) - 127), 32, axis=1)
    tensors = {"weight_packed": plain(_nibbles(codes)), "weight_scale": plain(exponents)}
    return tensors, np.float32(FP4)[codes] * scales


def _nf4(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    count = shape[0] * shape[1]
    codes = random.integers(0, 16, count, np.uint8)
    absmax = (random.uniform(0.5, 1.5, -(-count // 64)) * 2 / shape[1] ** 0.5).astype(np.float32)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
    weights = np.float32(NF4)[codes] * absmax[np.arange(count) // 64]
    return {
        "weight": plain(_nibbles(codes, low_first=False).reshape(-1, 1)),
        "weight.absmax": plain(absmax),
        "weight.quant_map": plain(np.float32(NF4)),
        "weight.quant_state.bitsandbytes__nf4": plain(
            np.frombuffer(json.dumps(state).encode(), np.uint8)
        ),
    }, weights.reshape(shape)


def _int8_rows(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    values = random.integers(-127, 128, shape, np.int8)
    scb = (random.uniform(0.5, 1.5, shape[0]) / shape[1] ** 0.5).astype(np.float32)
    weights = values * (scb / np.float32(127))[:, None]
    tensors = {"weight": plain(values), "SCB": plain(scb)}
    return {**tensors, "weight_format": plain(np.array(0, np.uint8))}, weights


def _hqq(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes = random.integers(0, 16, shape, np.uint8)
    groups = (shape[0] * shape[1] // 32, 1)
    scale = (random.uniform(0.5, 1.5, groups) / 8 / shape[1] ** 0.5).astype(np.float16)
    zero = random.uniform(6, 9, groups).astype(np.float16)
    grouped = codes.reshape(-1, 32)
    half = len(grouped) // 2
    weights = (grouped - zero.astype(np.float32)) * scale.astype(np.float32)
    packed = (grouped[:half] << 4 | grouped[half:]).astype(np.uint8)
    tensors = {"W_q": plain(packed), "scale": plain(scale), "zero": plain(zero)}
    return tensors, weights.reshape(shape).astype(np.float32)


def _torchao_int4(random: np.random.Generator, shape: tuple[int, int]) -> Layer:
    codes = random.integers(-8, 8, shape, np.int8)
    scale = random.uniform(0.5, 1.5, (shape[1] // 32, shape[0])) / 8 / shape[1] ** 0.5
    zero = random.normal(0, 0.1, scale.shape) / shape[1] ** 0.5
    stored = [bfloat16_bits(each.astype(np.float32)) for each in (scale, zero)]
    wide = [np.repeat((s.astype(np.uint32) << 16).view(np.float32).T, 32, axis=1) for s in stored]
    weights = (codes * wide[0] + wide[1]).astype(np.float32)
    qdata = _nibbles(codes.view(np.uint8) & 15)
    names = ("_weight_qdata", "_weight_scale", "_weight_zero_point")
    return dict(zip(names, map(plain, (qdata, *stored)), strict=True)), weights


def _group(layout: str, **weights: Any) -> dict[str, Any]:
    arguments = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, **weights}
    group = {"targets": ["Linear"], "weights": arguments, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }


AUTO_ROUND = {
    "quant_method": "auto-round",
    "autoround_version": "0.8.0",
    "bits": 4,
    "data_type": "int",
    "group_size": 32,
    "sym": False,
    "extra_config": {"lm_head": {"bits": 16, "data_type": "float"}},
    "block_name_to_quantize": "model.layers",
    "iters": 200,
}
HQQ = {"nbits": 4, "group_size": 32, "axis": 1, "view_as_float": False}
WRITERS: Mapping[str, tuple[dict[str, Any], Callable[..., Layer]]] = {
    "awq": (awq.config(32), _written(awq.write, zeros=True)),
    "gptq 4": (gptq.config(4, 32, True), _written(gptq.write)),
    "gptq 4 asymmetric": (gptq.config(4, 32, False), _written(gptq.write, zeros=True)),
    "gptq 2": (gptq.config(2, 32, True), _written(gptq.write, bits=2)),
    "gptq 3": (gptq.config(3, 32, False), _written(gptq.write, bits=3, zeros=True)),
    "gptq 8": (gptq.config(8, 32, False), _written(gptq.write, bits=8, zeros=True)),
    "gptq act-order": (gptq.config(4, 32, True, True), _written(gptq.write, order=True)),
    "auto-round gptq": (
        {**AUTO_ROUND, "packing_format": "auto_round:auto_gptq"},
        _written(gptq.write, zeros=True),
    ),
    "auto-round awq": (
        {**AUTO_ROUND, "packing_format": "auto_round:auto_awq"},
        _written(awq.write, zeros=True),
    ),
    "w4a16": (
        compressed_tensors.config(4, 32, True),
        _written(compressed_tensors.write, "pack-quantized"),
    ),
    "w4a16 asymmetric": (
        compressed_tensors.config(4, 32, False),
        _written(compressed_tensors.write, "pack-quantized", zeros=True),
    ),
    "w8a8": (
        compressed_tensors.config(8, None, True, "int-quantized", activation_bits=8),
        _written(compressed_tensors.write, "int-quantized", bits=8, group_size=4096),
    ),
    "fp8 dynamic": (_group("float-quantized", strategy="channel"), _fp8_rows),
    "fp8 static": ({"quant_method": "fp8", "activation_scheme": "static"}, _fp8_whole),
    "fp8 fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, _fp8_rows),
    "fp8 blocks": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32]},
        _fp8_blocks,
    ),
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        _nf4,
    ),
    "int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, _int8_rows),
    "mxfp4": (
        _group("mxfp4-pack-quantized", num_bits=4, strategy="group", group_size=32),
        _mxfp4,
    ),
    "nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
        _nvfp4,
    ),
    "hqq": ({"quant_method": "hqq", "quant_config": {"weight_quant_params": HQQ}}, _hqq),
    "torchao int4": (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {}}},
        },
        _torchao_int4,
    ),
}
"""Format → its quantization_config, and a writer of (random, shape)."""


def save(path: Path, tensors: Mapping[str, Stored]) -> None:
    """A safetensors file; numpy has no names for some of its types."""
    header: dict[str, Any] = {}
    at = 0
    for name, (dtype, array) in tensors.items():
        end = at + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(np.ascontiguousarray(array).tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
