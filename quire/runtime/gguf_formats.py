"""Says what the matrices of a GGUF file are stored as and will be served as, reading little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.models.spec import ModelSpec
from quire.quant.packed import PANEL_ROWS
from quire.quant.packing import pack_matrix
from quire.weights.gguf.checkpoint import GgufCheckpoint
from quire.weights.gguf.model import open_gguf

__all__ = ["GgufFormats", "gguf_formats"]


@dataclass(frozen=True, slots=True)
class GgufFormats:
    """stored_as: matrix → its format in the file.  integer_bits: of those served as integers, what
    an element takes, its share of the scales included."""

    stored_as: Mapping[str, str]
    integer_bits: Mapping[str, float]


def gguf_formats(path: Path, spec: ModelSpec) -> GgufFormats:
    """The formats of a spec's matrices; the first rows of each are packed to see how."""
    checkpoint = GgufCheckpoint(open_gguf(path))
    matrices = checkpoint.matrices({name: w.shape for name, w in spec.weights().items()})
    bits = {}
    for name in matrices:
        packed = pack_matrix(checkpoint.matrix(name, PANEL_ROWS))
        if packed is not None:
            rows, cols = packed.shape
            bits[name] = 8 * packed.data.nbytes / (-(-rows // PANEL_ROWS) * PANEL_ROWS * cols)
    return GgufFormats({name: each.label for name, each in matrices.items()}, bits)
