"""Says what a quantized checkpoint's matrices are stored as and served as, reading no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.models.spec import ModelSpec
from quire.quant.formats.registry import Quantization
from quire.quant.formats.scheme import Scheme
from quire.quant.packed import PANEL_ROWS
from quire.quant.packing import pack_matrix
from quire.runtime.stored_weights import find_stored
from quire.weights.checkpoint import WEIGHT_FILES, open_checkpoint

__all__ = ["StoredFormats", "stored_formats"]


@dataclass(frozen=True, slots=True)
class StoredFormats:
    """stored_as: matrix → how it is stored and served, in words.  integer_bits: of those served as
    integers, what an element takes, its share of the scales included."""

    stored_as: Mapping[str, str]
    integer_bits: Mapping[str, float]


def stored_formats(
    spec: ModelSpec, quantization: Quantization | None, directory: Path
) -> StoredFormats:
    """The formats of a checkpoint's quantized matrices, from the names of its tensors.

    Where the directory has no weights, config.json alone says which layers are quantized.
    """
    shapes = {each.weight.name: each.weight.shape for each in spec.linears()}
    stored_as, bits = {}, {}
    for name, scheme in _schemes(spec, quantization, directory).items():
        packed = pack_matrix(scheme.blank(PANEL_ROWS, shapes[name][1]))
        stored_as[name] = f"{scheme.label} → {packed.dtype if packed else 'floats'}"
        if packed is not None:
            bits[name] = packed.data.nbytes * 8 / (PANEL_ROWS * shapes[name][1])
    return StoredFormats(stored_as, bits)


def _schemes(
    spec: ModelSpec, quantization: Quantization | None, directory: Path
) -> dict[str, Scheme]:
    if quantization is None:
        return {}
    if any((directory / file).is_file() for file in WEIGHT_FILES):
        found = find_stored(open_checkpoint(directory), spec, quantization)
        return {name: matrix.scheme for name, matrix in found.items()}
    named = {
        linear.weight.name: quantization.scheme_of(linear.weight.name.removesuffix(".weight"))
        for linear in spec.linears()
        if linear.weight.name != spec.embedding.weight.name
    }
    return {name: scheme for name, scheme in named.items() if scheme is not None}
