"""Writes a model as GGUF: what the spec says as metadata, its weights under GGUF's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.errors import ModelError
from quire.models.registry import build_spec, load_families
from quire.models.rope import Rope
from quire.models.spec import ModelSpec
from quire.models.walk import each_weight
from quire.quant.gguf_blocks.encode import block_format_of, encode
from quire.quant.matrix import QuantizedMatrix
from quire.weights.gguf.architectures import ARCHITECTURES, Architecture
from quire.weights.gguf.config import gguf_config
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.settings import factors_of, settings_of
from quire.weights.gguf.weights_of_tensor import TensorContents, tensors_of
from quire.weights.gguf.write import Value, write_gguf
from quire.weights.tensor import RawTensor

__all__ = ["check_writable", "difference", "write_model"]

Weight: TypeAlias = RawTensor | QuantizedMatrix
Bytes = npt.NDArray[np.uint8]
Tensor: TypeAlias = tuple[str, Bytes]
"""The name of its type, and its bytes [rows, bytes of a row]."""

COMPARED = (
    *("width", "max_length", "embedding", "blocks", "norm", "head"),
    *("logit_scale", "logit_cap"),
)
QUANTIZATION_VERSION = 2  # of the block formats; there is no other
IN_FLOAT32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
"""Matrices that stand in float32 as vectors do."""


def write_model(
    path: Path,
    spec: ModelSpec,
    weights: Mapping[str, Weight],
    tokenizer: Mapping[str, Value],
    name: str = "",
) -> None:
    """Write a model and check that what is read from the file is the same model.

    weights: by the names of the spec; each is asked for once, so it may be made when it is.
    Quantized matrices keep their codes; plain matrices their format; vectors become float32.
    tokenizer: metadata, from quire.text.gguf_vocabulary.  name: what people call the model.
    Raises ModelError for an architecture or a setting that GGUF has no words for, ValueError for
    a matrix that fits no block format, or not that of those it shares a tensor with.
    """
    key, architecture = _architecture(spec)
    settings = settings_of(spec, architecture)
    made, factors = tensors_of(spec, architecture), factors_of(spec)
    shapes = {own: each.shape for own, each in made.items()}
    shapes.update({own: each.shape for own, each in factors.items()})

    def read(own: str) -> Tensor:
        if own in factors:
            return "F32", factors[own].view(np.uint8)
        return _tensor(own, made[own], weights, settings)

    general: dict[str, Value] = {"general.architecture": key, "general.name": name or path.stem}
    general["general.quantization_version"] = QUANTIZATION_VERSION
    own_settings = {f"{key}.{each}": value for each, value in settings.items()}
    write_gguf(path, {**general, **own_settings, **tokenizer}, shapes, read)
    _check(path, spec)


def check_writable(spec: ModelSpec) -> None:
    """Raise ModelError for an architecture or a setting that GGUF has no words for."""
    _, architecture = _architecture(spec)
    settings_of(spec, architecture)


def _architecture(spec: ModelSpec) -> tuple[str, Architecture]:
    """That whose files are read as this family, or as one that reads its config alike."""
    families = load_families()
    build = families[spec.architecture].build
    written = {key: each for key, each in ARCHITECTURES.items() if each.settings is not None}
    for key, architecture in written.items():
        if any(
            families[name].build is build for name in (*architecture.families, *architecture.also)
        ):
            return key, architecture
    known = ", ".join(sorted({name for each in written.values() for name in each.families}))
    raise ModelError(f"{spec.architecture} cannot be written as GGUF; these may be: {known}")


def _tensor(
    own: str, contents: TensorContents, weights: Mapping[str, Weight], settings: Mapping[str, Value]
) -> Tensor:
    """The rows of all weights that a tensor is made of."""
    rows = [
        _rows(own, weights[name], contents.offset) for names in contents.weights for name in names
    ]
    kinds = {kind for kind, _ in rows}
    if len(kinds) > 1:
        names = ", ".join(name for each in contents.weights for name in each)
        raise ValueError(
            f"{names:.200} share a tensor, and are stored as {', '.join(sorted(kinds))}: quantize "
            "all of them alike, or none"
        )
    data = rows[0][1] if len(rows) == 1 else np.concatenate([each for _, each in rows])
    if contents.turned is not None:
        data = _turn(data, int(settings[contents.turned]))  # type: ignore[arg-type]
    return kinds.pop(), data


def _rows(own: str, weight: Weight, offset: float) -> Tensor:
    """One weight, as its tensor has it."""
    if isinstance(weight, QuantizedMatrix):
        return block_format_of(weight), encode(weight)
    if len(weight.shape) == 1 or own.endswith(IN_FLOAT32):
        wide = np.ascontiguousarray(weight.float32() + np.float32(offset))
        return "F32", wide.view(np.uint8).reshape(weight.shape[0], -1)
    data = np.ascontiguousarray(weight.data)
    return weight.dtype, data.view(np.uint8).reshape(weight.shape[0], -1)


def _turn(rows: Bytes, heads: int) -> Bytes:
    """Rows for rotations of halves, in each head, in the order for rotations of neighbours."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(len(rows), -1)


def _check(path: Path, spec: ModelSpec) -> None:
    """Compare with what the file says; raises ModelError, naming what it cannot say."""
    config = gguf_config(GgufModel(path))
    config.pop("quantization_config", None)
    again, spec = (_unplaced(each) for each in (build_spec(config), spec))
    for name in COMPARED:
        if fault := difference(getattr(spec, name), getattr(again, name), name):
            path.unlink()
            raise ModelError(f"GGUF cannot say this of {spec.architecture}: {fault}")


def _unplaced(spec: ModelSpec) -> ModelSpec:
    """The spec without a word on where checkpoints have its weights."""
    return each_weight(spec, lambda weight: replace(weight, stored=()))


def _rotation(rope: Rope) -> tuple[Any, ...]:
    """What a rope does, whatever rule says it."""
    return rope.pairing, rope.scaling.attention_factor, *rope.inverse_frequencies()


def difference(ours: Any, theirs: Any, where: str) -> str | None:
    """The first value that differs by more than float32's rounding, in words."""
    if isinstance(ours, Rope) and isinstance(theirs, Rope):
        return difference(_rotation(ours), _rotation(theirs), where)
    if is_dataclass(ours) and type(ours) is type(theirs):
        names = [each.name for each in fields(ours)]
        parts = [(getattr(ours, name), getattr(theirs, name), name) for name in names]
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        parts = [(a, b, str(i)) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    elif isinstance(ours, float) and isinstance(theirs, float):
        return None if math.isclose(ours, theirs, rel_tol=1e-6) else f"{where} is {ours!r}"
    else:
        return None if ours == theirs else f"{where} is {ours!r}"
    faults = (difference(a, b, f"{where}.{name}") for a, b, name in parts)
    return next((fault for fault in faults if fault), None)
