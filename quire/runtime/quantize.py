"""Rounds a float checkpoint's matrices to integers while it is loaded, once for each checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from quire.backends.executable import Backend, LoadedWeights
from quire.backends.native.library import ThreadPool
from quire.backends.native.pack import pack_to_nearest
from quire.errors import ConfigError
from quire.models.spec import LatentAttention, ModelSpec, parts
from quire.ops.number_formats import STORED_AS
from quire.ops.quantize import RowFormat
from quire.quant.packed import BITS, PackedDtype, PackedMatrix
from quire.quant.packed_blocks import PANEL_ROWS
from quire.weights.pack_cache import kept_or_made, pack_cache_path
from quire.weights.tensor import RawTensor

__all__ = ["SCHEMES", "packed_bits", "packed_formats", "quantize_weights", "row_formats"]

SCHEMES: dict[str, tuple[PackedDtype, int]] = {"int4": ("INT4", 32), "int8": ("INT8", 128)}
"""--quantization → the format of every matrix and how many columns share a scale."""


def packed_bits(spec: ModelSpec, scheme: str, cuts_latents: bool = False) -> dict[str, float]:
    """What an element of each matrix takes in a scheme, its share of a float16 scale included.

    cuts_latents: see quantize_weights.
    """
    dtype, group_size = SCHEMES[scheme]
    bits = BITS[dtype] + 16 / group_size
    cut = (each.key_value.weight.name for each in _cut(spec, cuts_latents))
    return dict.fromkeys((*_whole_matrices(spec), *cut), bits)


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
    weights: LoadedWeights,
    spec: ModelSpec,
    scheme: str,
    directory: Path | None,
    threads: int,
    cuts_latents: bool = False,
) -> LoadedWeights:
    """The weights with the linear layers' matrices in integers, the head's among them.

    directory: of the checkpoint, whose packed matrices are kept in the user's cache; None: not.
    cuts_latents: where kernels read the halves of latent attention's matrices in integers; in
    place of each matrix that heads cut at panels there are its halves then.
    Raises ConfigError for a weight that is not a plain float.
    """
    cut = _cut(spec, cuts_latents)
    wanted = _whole_matrices(spec) | {n: shape for each in cut for n, shape in each.halves.items()}
    path = pack_cache_path(directory, f"{scheme} cut" if cut else scheme) if directory else None
    packed = kept_or_made(path, wanted, lambda: _pack(weights, wanted, cut, scheme, threads))
    cut_names = {each.key_value.weight.name for each in cut}
    return {**{n: weight for n, weight in weights.items() if n not in cut_names}, **packed}


def _cut(spec: ModelSpec, cuts_latents: bool) -> list[LatentAttention]:
    """Those whose heads begin at panels of both halves."""
    latents = parts(spec, LatentAttention) if cuts_latents else ()
    return [
        each for each in latents if not (each.rank % PANEL_ROWS or each.value_dims % PANEL_ROWS)
    ]


def _halves(weights: LoadedWeights, cut: Iterable[LatentAttention]) -> dict[str, RawTensor]:
    """Views of keys, turned, and of values, by the halves' names."""
    found = {}
    for each in cut:
        weight = weights[each.key_value.weight.name]
        heads = weight.data.reshape(each.heads, -1, each.rank)
        halves = heads[:, : each.key_dims].swapaxes(1, 2), heads[:, each.key_dims :]
        for (name, shape), half in zip(each.halves.items(), halves, strict=True):
            found[name] = RawTensor(name, weight.dtype, shape, half)
    return found


def _whole_matrices(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The linear layers' matrices that kernels read as integers, and their shapes."""
    floats = spec.float_matrices  # a walk through the whole spec
    found = {linear.weight.name: linear.weight.shape for linear in spec.linears()}
    return {name: shape for name, shape in found.items() if name not in floats}


def _pack(
    weights: LoadedWeights,
    wanted: Iterable[str],
    cut: Iterable[LatentAttention],
    scheme: str,
    threads: int,
) -> Iterator[PackedMatrix]:
    dtype, group_size = SCHEMES[scheme]
    halves = _halves(weights, cut)
    with ThreadPool(threads) as pool:
        for name in wanted:
            weight = halves[name] if name in halves else weights[name]
            if weight.dtype not in ("F32", "F16", "BF16"):
                raise ConfigError(
                    f"quantization {scheme!r} needs plain floats and {name!r} is {weight.dtype}; "
                    "leave the option out"
                )
            yield pack_to_nearest(pool, name, weight, dtype, group_size)
