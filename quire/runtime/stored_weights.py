"""A checkpoint's weights as the kernels take them: floats in place, quantized matrices packed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from quire.backends.executable import LoadedWeights
from quire.models.spec import Linear, ModelSpec
from quire.ops.number_formats import STORED_AS, from_float32, to_float32
from quire.quant.formats.registry import Quantization
from quire.quant.packing import SCALE_ERROR, pack_matrix
from quire.weights.checkpoint import Checkpoint
from quire.weights.gguf.checkpoint import GgufCheckpoint, GgufMatrix
from quire.weights.loader import load_weights
from quire.weights.pack_cache import Kept, kept_or_made, pack_cache_path
from quire.weights.quantized import StoredMatrix, find_matrices
from quire.weights.tensor import RawTensor

__all__ = ["find_stored", "float_matrix", "read_weights", "serve_matrix"]

Stored: TypeAlias = StoredMatrix | GgufMatrix

logger = logging.getLogger(__name__)


def read_weights(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    quantization: Quantization,
    directory: Path,
    dtype: str,
) -> LoadedWeights:
    """Every weight of the spec, of a quantized checkpoint.

    quantization: of the checkpoint; its packed matrices are kept in the user's cache.  dtype: what
    the user wants floats in, or "auto"; it decides about matrices that no kernel takes packed.
    Raises CheckpointError, naming the layer, for what is missing or does not fit.
    """
    stored = find_stored(checkpoint, spec, quantization)
    wanted = {name: weight for name, weight in spec.weights().items() if name not in stored}
    used = [source for matrix in stored.values() for source in matrix.sources]
    plain = load_weights(checkpoint, wanted, used, spec.unused)
    if not stored:
        logger.warning(
            "config.json says %s, and %s has no matrix that is stored so: all are plain floats",
            quantization.method,
            checkpoint.origin,
        )
        return plain
    path = pack_cache_path(directory, f"{quantization.key} {dtype}")
    shapes = {name: matrix.shape for name, matrix in stored.items()}
    floats = spec.float_matrices
    matrices = kept_or_made(path, shapes, lambda: _serve_all(stored, floats, dtype))
    _report(stored, matrices)
    return {**plain, **matrices}


def find_stored(
    checkpoint: Checkpoint, spec: ModelSpec, quantization: Quantization | None
) -> Mapping[str, Stored]:
    """The quantized matrices that a checkpoint has, by the name of their weight."""
    if quantization is None:
        return {}
    if isinstance(checkpoint, GgufCheckpoint):
        return checkpoint.matrices(spec.weights())
    linears: dict[str, Linear] = {linear.weight.name: linear for linear in spec.linears()}
    return find_matrices(checkpoint, linears, quantization.scheme_of)


def serve_matrix(stored: Stored, dtype: str) -> Kept:
    """One matrix, packed for the kernels; as floats where they have no layout for it."""
    matrix = stored.read()
    packed = pack_matrix(matrix)
    if packed is not None:
        return replace(packed, name=stored.name)
    return float_matrix(stored.name, matrix.float32(), dtype)


def float_matrix(name: str, weights: npt.NDArray[np.float32], dtype: str) -> RawTensor:
    """Weights as floats: in `dtype`, or in the smallest format that keeps them.

    That is the first of bfloat16 and float16 that puts no weight of a row further off than
    SCALE_ERROR of the row's largest, else float32.
    """
    for format_ in ("bfloat16", "float16", "float32") if dtype == "auto" else (dtype,):
        narrow = from_float32(weights, format_)
        if dtype != "auto" or _is_near(to_float32(narrow, format_), weights):
            break
    return RawTensor(name, STORED_AS[format_], weights.shape, narrow)


def _is_near(narrow: npt.NDArray[np.float32], weights: npt.NDArray[np.float32]) -> bool:
    with np.errstate(invalid="ignore"):
        off = np.abs(narrow - weights).max(axis=1, initial=0)
    return bool((off <= SCALE_ERROR * np.abs(weights).max(axis=1, initial=0)).all())


def _serve_all(stored: Mapping[str, Stored], floats: Collection[str], dtype: str) -> Iterator[Kept]:
    """One at a time, so that no more than one stands unpacked in memory."""
    for name, matrix in stored.items():
        if name in floats:
            yield float_matrix(name, matrix.read().float32(), dtype)
        else:
            yield serve_matrix(matrix, dtype)


def _report(stored: Mapping[str, Stored], matrices: Mapping[str, Kept]) -> None:
    """Say once what is served as what."""
    served = Counter((stored[name].label, each.dtype) for name, each in matrices.items())
    for (label, dtype), count in served.items():
        logger.info("%d matrices stored as %s are served as %s", count, label, dtype)
    floats = {label for (label, dtype) in served if dtype in STORED_AS.values()}
    if floats:
        logger.warning(
            "no kernel multiplies %s as it is: these matrices take the memory and time of floats",
            "; ".join(sorted(floats)),
        )
