"""Dummy weights that a device makes up by itself: floats, or codes of any layout that is read."""

from __future__ import annotations

import numpy as np

from quire.backends.executable import LoadedWeights
from quire.models.spec import ModelSpec
from quire.quant.dummy import DummyMatrix
from quire.quant.formats.registry import Quantization
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed import PackedMatrix
from quire.quant.packed_blocks import PANEL_ROWS
from quire.quant.packing import pack_matrix
from quire.runtime.quantize import SCHEMES
from quire.weights.dummy import DummyCheckpoint

__all__ = ["dummy_weights"]


def dummy_weights(
    checkpoint: DummyCheckpoint, spec: ModelSpec, quantization: Quantization | None, scheme: str
) -> LoadedWeights:
    """Every weight of a spec.

    quantization: as which the checkpoint is meant to be stored, if it is.  scheme: of
    --quantization, or "auto".  Codes are random by themselves, no rounded floats.
    """
    layouts = _stored_layouts(spec, quantization) if quantization else _layouts(spec, scheme)
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    return {
        name: DummyMatrix(name, shape, layouts[name]) if name in layouts else checkpoint.drawn(name)
        for name, shape in shapes.items()
    }


def _layouts(spec: ModelSpec, scheme: str) -> dict[str, PackedMatrix]:
    """Some rows of each matrix that --quantization rounds."""
    if scheme == "auto":
        return {}
    dtype, size = SCHEMES[scheme]
    bits = 4 if dtype == "INT4" else 8
    names = {linear.weight.name: linear.weight.shape[1] for linear in spec.linears()}
    found = {name: pack_matrix(_blank(bits, size, cols)) for name, cols in names.items()}
    return {name: each for name, each in found.items() if each and name not in spec.float_matrices}


def _stored_layouts(spec: ModelSpec, quantization: Quantization) -> dict[str, PackedMatrix]:
    """Some rows of each matrix that a checkpoint would have quantized, as kernels read them."""
    layouts = {}
    for linear in spec.linears():
        name, cols = linear.weight.name, linear.weight.shape[1]
        names = (place.name.removesuffix(".weight") for place in linear.weight.places)
        scheme = quantization.scheme_among(names)
        if scheme is None or name in (spec.embedding.weight.name, *spec.float_matrices):
            continue
        packed = pack_matrix(scheme.blank(PANEL_ROWS, cols))
        if packed is not None:
            layouts[name] = packed
    return layouts


def _blank(bits: int, group_size: int, cols: int) -> QuantizedMatrix:
    codes = np.zeros((PANEL_ROWS, cols), np.uint8)
    scales = np.ones((PANEL_ROWS, -(-cols // group_size)), np.float32)
    return QuantizedMatrix("blank", bits, group_size, codes, scales)
