"""A quantized matrix as tensors of a checkpoint format, and what config.json says of the format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quire.convert.recipe import CheckpointFormat, module_of
from quire.convert.scheme import Scheme
from quire.errors import ConfigError
from quire.ops.number_formats import from_float32
from quire.quant.formats import awq, compressed_tensors, gptq
from quire.quant.matrix import QuantizedMatrix
from quire.weights.tensor import RawTensor

__all__ = ["check_format", "quantization_config", "tensors_of"]

DTYPES = {
    "int8": "I8",
    "uint8": "U8",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "float32": "F32",
}


def check_format(format: CheckpointFormat, schemes: Mapping[str, Scheme]) -> None:
    """Raise ConfigError for schemes that a checkpoint format cannot hold."""
    distinct = set(schemes.values())
    if format in ("awq", "gptq") and len(distinct) > 1:
        raise ConfigError(
            f"format {format!r} holds one scheme for all matrices, not "
            f"{', '.join(sorted(each.name for each in distinct))}; use compressed-tensors"
        )
    for scheme in distinct:
        if scheme.activations is not None and format != "compressed-tensors":
            raise ConfigError(f"{scheme.name} rounds activations, which {format!r} does not say")
        if format == "gguf" and (scheme.numbers != "integer" or scheme.bits not in (4, 8)):
            raise ConfigError(f"format 'gguf' holds integers of 4 and 8 bits, not {scheme.name}")
        if format == "awq" and (scheme.numbers != "integer" or scheme.bits != 4):
            raise ConfigError(f"format 'awq' holds w4a16 and w4a16_asym, not {scheme.name}")
        if format == "gptq" and (scheme.numbers != "integer" or scheme.bits not in (2, 3, 4, 8)):
            raise ConfigError(f"format 'gptq' holds integers of 3, 4 and 8 bits, not {scheme.name}")


def tensors_of(
    format: CheckpointFormat, name: str, matrix: QuantizedMatrix, scheme: Scheme
) -> list[RawTensor]:
    """The tensors of the layer whose weight has this name.

    Raises ConfigError for a matrix that the format cannot hold.
    """
    module = module_of(name)
    try:
        if format == "awq":
            return _raw(awq.write(module, matrix))
        if format == "gptq":
            return _raw(gptq.write(module, matrix))
        if scheme.numbers == "float8":
            return _float8(module, matrix)
        if scheme.numbers == "float4":
            return _mxfp4(module, matrix)
        return _raw(compressed_tensors.write(module, matrix, _layout(scheme)))
    except ValueError as error:
        raise ConfigError(f"format {format!r} cannot hold {module}: {error}") from error


def quantization_config(
    format: CheckpointFormat,
    schemes: Mapping[str, Scheme],
    unquantized: list[str],
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """What config.json says of a checkpoint; unquantized: layers that stay floats.

    beside: parts that do as a whole, whatever their names begin with elsewhere.
    """
    first = next(iter(schemes.values()))
    if format == "awq":
        return awq.config(first.group_size, [*unquantized, *beside])
    if format == "gptq":
        return _gptq_config(first, unquantized)
    by_scheme: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        by_scheme.setdefault(scheme, []).append(module_of(name))
    groups = {}
    for i, (scheme, modules) in enumerate(by_scheme.items()):
        targets = ["Linear"] if len(by_scheme) == 1 else modules
        groups[f"group_{i}"] = _group(scheme, targets)
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [*unquantized, *(rf"re:(.*\.)?{re.escape(each)}\..*" for each in beside)],
    }


def _gptq_config(scheme: Scheme, unquantized: list[str]) -> dict[str, Any]:
    return gptq.config(scheme.bits, scheme.group_size, scheme.symmetric)


def _layout(scheme: Scheme) -> Any:
    return "int-quantized" if scheme.bits == 8 and scheme.activations else "pack-quantized"


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    """One config group of compressed-tensors."""
    integer = scheme.numbers == "integer"
    formats = {"float8": "float-quantized", "float4": "mxfp4-pack-quantized"}
    inputs = None
    if scheme.activations is not None:
        inputs = {
            "num_bits": 8,
            "type": "int" if scheme.activations == "int8" else "float",
            "strategy": "token",
            "symmetric": True,
            "dynamic": True,
        }
    weights = {
        "num_bits": scheme.bits,
        "type": "int" if integer else "float",
        "strategy": "channel" if scheme.group_size is None else "group",
        "symmetric": scheme.symmetric,
        "group_size": scheme.group_size,
        "dynamic": False,
    }
    if scheme.power_of_two:
        weights["scale_dtype"] = "torch.uint8"
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
        "format": _layout(scheme) if integer else formats[scheme.numbers],
    }


def _float8(module: str, matrix: QuantizedMatrix) -> list[RawTensor]:
    codes = RawTensor(f"{module}.weight", "F8_E4M3", matrix.shape, matrix.codes)
    scales = matrix.scales
    narrow = from_float32(scales, "bfloat16")
    exact = np.array_equal(narrow.astype(np.uint32) << 16, scales.view(np.uint32))
    stored = narrow if exact else scales
    return [
        codes,
        RawTensor(f"{module}.weight_scale", "BF16" if exact else "F32", scales.shape, stored),
    ]


def _mxfp4(module: str, matrix: QuantizedMatrix) -> list[RawTensor]:
    """Two codes a byte, the first in the low half; scales as exponents moved up by 127."""
    codes = matrix.codes[:, 0::2] | (matrix.codes[:, 1::2] << 4)
    exponents = (np.log2(matrix.scales) + 127).astype(np.uint8)
    return [
        RawTensor(f"{module}.weight_packed", "U8", codes.shape, codes),
        RawTensor(f"{module}.weight_scale", "U8", exponents.shape, exponents),
    ]


def _raw(tensors: Mapping[str, np.ndarray]) -> list[RawTensor]:
    return [
        RawTensor(name, DTYPES[str(values.dtype)], values.shape, values)
        for name, values in tensors.items()
    ]
