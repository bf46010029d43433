"""Rounds a float checkpoint's matrices to integers while it is loaded, once for each checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from quire.backends.executable import LoadedWeights
from quire.backends.native.library import ThreadPool
from quire.backends.native.pack import pack_to_nearest
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.ops.column_order import ColumnOrder
from quire.quant.packed import BITS, INTEGER_DTYPES, PackedDtype, PackedMatrix
from quire.weights.pack_cache import pack_cache_path, read_packed, write_packed

__all__ = ["SCHEMES", "column_orders", "integer_bits", "integer_weights", "quantize_weights"]

logger = logging.getLogger(__name__)

SCHEMES: dict[str, tuple[PackedDtype, int]] = {"int4": ("INT4", 32), "int8": ("INT8", 128)}
"""--quantization → the format of every matrix and how many columns share a scale."""


def integer_weights(weights: LoadedWeights) -> frozenset[str]:
    """The names of the weights that integer kernels multiply."""
    return frozenset(name for name, weight in weights.items() if weight.dtype in INTEGER_DTYPES)


def column_orders(weights: LoadedWeights) -> dict[str, ColumnOrder]:
    """The orders of the columns of those matrices that have one."""
    return {
        name: weight.order
        for name, weight in weights.items()
        if isinstance(weight, PackedMatrix) and weight.order is not None
    }


def integer_bits(spec: ModelSpec, scheme: str) -> dict[str, float]:
    """What an element of each matrix takes in a scheme, its share of a float16 scale included."""
    dtype, group_size = SCHEMES[scheme]
    bits = BITS[dtype] + 16 / group_size
    return {linear.weight.name: bits for linear in spec.linears()}


def quantize_weights(
    weights: LoadedWeights, spec: ModelSpec, scheme: str, directory: Path | None, threads: int
) -> LoadedWeights:
    """The weights with every linear layer's matrix in integers, the head's among them.

    directory: of the checkpoint, whose packed matrices are kept in the user's cache; None: not.
    Raises ConfigError for a weight that is not a plain float.
    """
    wanted = {linear.weight.name: linear.weight.shape for linear in spec.linears()}
    path = pack_cache_path(directory, scheme) if directory else None
    packed = read_packed(path, wanted) if path else None
    if packed is None:
        packed = _pack(weights, wanted, scheme, threads)
        if path and write_packed(path, packed.values()):
            logger.info("packed weights are kept in %s", path)
            # Mapped pages can be dropped and read again; what was packed in memory cannot.
            packed = read_packed(path, wanted) or packed
    return {**weights, **packed}


def _pack(
    weights: LoadedWeights, wanted: dict[str, tuple[int, ...]], scheme: str, threads: int
) -> dict[str, PackedMatrix]:
    dtype, group_size = SCHEMES[scheme]
    packed = {}
    with ThreadPool(threads) as pool:
        for name in wanted:
            weight = weights[name]
            if weight.dtype not in ("F32", "F16", "BF16"):
                raise ConfigError(
                    f"quantization {scheme!r} needs plain floats and {name!r} is {weight.dtype}; "
                    "leave the option out"
                )
            packed[name] = pack_to_nearest(pool, name, weight, dtype, group_size)
    return packed
