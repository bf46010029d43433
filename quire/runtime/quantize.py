"""Rounds a float checkpoint's matrices to integers while it is loaded, once for each checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from quire.backends.executable import Backend, LoadedWeights
from quire.backends.native.library import ThreadPool
from quire.backends.native.pack import pack_to_nearest
from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.ops.quantize import RowFormat
from quire.quant.packed import BITS, PackedDtype, PackedMatrix
from quire.weights.pack_cache import kept_or_made, pack_cache_path
from quire.weights.tensor import STORED_AS

__all__ = ["SCHEMES", "packed_bits", "packed_formats", "quantize_weights", "row_formats"]

SCHEMES: dict[str, tuple[PackedDtype, int]] = {"int4": ("INT4", 32), "int8": ("INT8", 128)}
"""--quantization → the format of every matrix and how many columns share a scale."""


def packed_bits(spec: ModelSpec, scheme: str) -> dict[str, float]:
    """What an element of each matrix takes in a scheme, its share of a float16 scale included."""
    dtype, group_size = SCHEMES[scheme]
    bits = BITS[dtype] + 16 / group_size
    return dict.fromkeys(_integer_matrices(spec), bits)


def packed_formats(spec: ModelSpec, scheme: str) -> dict[str, PackedDtype]:
    """The format of each matrix in a scheme."""
    return {linear.weight.name: SCHEMES[scheme][0] for linear in spec.linears()}


def row_formats(
    backend: Backend, spec: ModelSpec, weight_format: str, packed: Mapping[str, PackedDtype]
) -> dict[str, RowFormat]:
    """Each linear layer's matrix → what its inputs are rounded to.

    packed: the format of those that are quantized.  weight_format: of the others.
    """
    stored = STORED_AS[weight_format]
    names = [linear.weight.name for linear in spec.linears()]
    floats = spec.float_matrices
    return {
        name: backend.row_format(stored if name in floats else packed.get(name, stored))
        for name in names
    }


def quantize_weights(
    weights: LoadedWeights, spec: ModelSpec, scheme: str, directory: Path | None, threads: int
) -> LoadedWeights:
    """The weights with the linear layers' matrices in integers, the head's among them.

    directory: of the checkpoint, whose packed matrices are kept in the user's cache; None: not.
    Raises ConfigError for a weight that is not a plain float.
    """
    wanted = _integer_matrices(spec)
    path = pack_cache_path(directory, scheme) if directory else None
    packed = kept_or_made(path, wanted, lambda: _pack(weights, wanted, scheme, threads))
    return {**weights, **packed}


def _integer_matrices(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The linear layers' matrices that kernels read as integers, and their shapes."""
    floats = spec.float_matrices  # a walk through the whole spec
    found = {linear.weight.name: linear.weight.shape for linear in spec.linears()}
    return {name: shape for name, shape in found.items() if name not in floats}


def _pack(
    weights: LoadedWeights, wanted: dict[str, tuple[int, ...]], scheme: str, threads: int
) -> Iterator[PackedMatrix]:
    dtype, group_size = SCHEMES[scheme]
    with ThreadPool(threads) as pool:
        for name in wanted:
            weight = weights[name]
            if weight.dtype not in ("F32", "F16", "BF16"):
                raise ConfigError(
                    f"quantization {scheme!r} needs plain floats and {name!r} is {weight.dtype}; "
                    "leave the option out"
                )
            yield pack_to_nearest(pool, name, weight, dtype, group_size)
