"""Says what a quantized checkpoint's matrices are stored as and served as, reading few weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.models.spec import ModelSpec
from quire.quant.formats.registry import Quantization
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed import PackedDtype
from quire.quant.packed_blocks import PANEL_ROWS
from quire.quant.packing import pack_matrix
from quire.runtime.stored_weights import find_stored
from quire.weights.checkpoint import WEIGHT_FILES, open_checkpoint
from quire.weights.gguf.files import SUFFIX

__all__ = ["StoredFormats", "stored_formats"]


@dataclass(frozen=True, slots=True)
class StoredFormats:
    """stored_as: matrix → how it is stored and served, in words.  packed_as: the format of those
    that kernels read quantized.  packed_bits: what an element of these takes, its share of the
    scales included."""

    stored_as: Mapping[str, str]
    packed_as: Mapping[str, PackedDtype]
    packed_bits: Mapping[str, float]


def stored_formats(
    spec: ModelSpec, quantization: Quantization | None, directory: Path
) -> StoredFormats:
    """The formats of a checkpoint's quantized matrices, from the names of its tensors.

    Where the directory has no weights, config.json alone says which layers are quantized.
    """
    stored_as, packed_as, bits = {}, {}, {}
    floats = spec.float_matrices
    for name, (label, sample) in _samples(spec, quantization, directory).items():
        packed = None if name in floats else pack_matrix(sample)
        stored_as[name] = f"{label} → {packed.dtype if packed else 'floats'}"
        if packed is not None:
            packed_as[name] = packed.dtype
            bits[name] = packed.data.nbytes * 8 / (PANEL_ROWS * sample.shape[1])
    return StoredFormats(stored_as, packed_as, bits)


def _samples(
    spec: ModelSpec, quantization: Quantization | None, directory: Path
) -> dict[str, tuple[str, QuantizedMatrix]]:
    """Matrix → what its format is called, and a few rows in it."""
    if quantization is None:
        return {}
    is_file = directory.suffix == SUFFIX
    if is_file or any((directory / file).is_file() for file in WEIGHT_FILES):
        found = find_stored(open_checkpoint(directory), spec, quantization)
        return {name: (each.label, each.sample(PANEL_ROWS)) for name, each in found.items()}
    samples = {}
    for linear in spec.linears():
        name, cols = linear.weight.name, linear.weight.shape[1]
        names = (place.name.removesuffix(".weight") for place in linear.weight.places)
        scheme = quantization.scheme_among(names)
        if scheme is not None and name != spec.embedding.weight.name:
            samples[name] = scheme.label, scheme.blank(PANEL_ROWS, cols)
    return samples
