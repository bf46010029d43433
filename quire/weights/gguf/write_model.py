"""Writes a model as GGUF: what the spec says as metadata, its weights under GGUF's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from quire.errors import ModelError
from quire.models.registry import build_spec
from quire.models.rope import Rope
from quire.models.spec import Attention, MixtureOfExperts, ModelSpec, parts
from quire.quant.gguf_blocks.encode import block_format_of, encode
from quire.quant.matrix import QuantizedMatrix
from quire.weights.gguf.architectures import ARCHITECTURES, Architecture
from quire.weights.gguf.config import ROPE_FACTORS, gguf_config
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.names import Names
from quire.weights.gguf.write import Value, write_gguf
from quire.weights.tensor import RawTensor

__all__ = ["difference", "write_model"]

Weight: TypeAlias = RawTensor | QuantizedMatrix
Bytes = npt.NDArray[np.uint8]
WRITABLE = ("llama", "qwen2", "qwen3")
QUANTIZATION_VERSION = 2  # of the block formats; there is no other


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
    a matrix that fits no block format.
    """
    key, architecture = _architecture(spec)
    sources = {_own_name(each, architecture): each for each in spec.weights()}
    shapes = {own: spec.weights()[source].shape for own, source in sources.items()}
    factors = _rope_factors(_rope(spec))
    if factors is not None:
        shapes[ROPE_FACTORS] = factors.shape
    turned = _turned(spec, architecture)

    def read(own: str) -> tuple[str, Bytes]:
        if own == ROPE_FACTORS:
            assert factors is not None
            return "F32", factors.view(np.uint8)
        dtype, rows = _rows(weights[sources[own]])
        return dtype, _turn(rows, turned[own]) if own in turned else rows

    settings = {f"{key}.{each}": value for each, value in _settings(spec).items()}
    general: dict[str, Value] = {"general.architecture": key, "general.name": name or path.stem}
    general["general.quantization_version"] = QUANTIZATION_VERSION
    write_gguf(path, {**general, **settings, **tokenizer}, shapes, read)
    _check(path, spec)


def _architecture(spec: ModelSpec) -> tuple[str, Architecture]:
    for key in WRITABLE:
        if spec.architecture in ARCHITECTURES[key].families:
            return key, ARCHITECTURES[key]
    known = ", ".join(name for key in WRITABLE for name in ARCHITECTURES[key].families)
    raise ModelError(f"{spec.architecture} cannot be written as GGUF; these can: {known}")


def _own_name(name: str, architecture: Architecture) -> str:
    """What GGUF calls a weight of the spec."""
    stem, _, ending = name.rpartition(".")
    pieces = stem.split(".", 3)
    table: Names = architecture.tensors
    front = ""
    if pieces[:2] == ["model", "layers"]:
        table, front, stem = architecture.tensors_of_layer, f"blk.{pieces[2]}.", pieces[3]
    for own, module in table.items():
        if module == stem:
            return f"{front}{own}.{ending}"
    raise ModelError(f"GGUF has no name for the weight {name!r} of this architecture")


def _rope(spec: ModelSpec) -> Rope:
    """The rotation of the first block."""
    rope = spec.attentions[0].rope
    if rope is None:
        raise ModelError(f"{spec.architecture} rotates nothing; GGUF has no words for it here")
    return rope


def _settings(spec: ModelSpec) -> dict[str, Value]:
    """The metadata of the architecture; those of the first block stand for all."""
    attention, mlp = _attention(spec), spec.blocks[0].mlp
    if isinstance(mlp, MixtureOfExperts) or any(parts(spec, MixtureOfExperts)):
        raise ModelError(f"{spec.architecture}: GGUF files with experts are not written")
    rope = _rope(spec)
    assert spec.norm is not None and mlp is not None, "every architecture that is written has one"
    is_linear = rope.scaling.kind == "linear"
    return {
        "context_length": rope.scaling.original_length if is_linear else spec.max_length,
        "embedding_length": spec.width,
        "block_count": len(spec.blocks),
        "feed_forward_length": mlp.up.weight.shape[0],
        "vocab_size": spec.vocab_size,
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": spec.norm.eps,
        "rope.dimension_count": rope.dims,
        "rope.freq_base": rope.theta,
        **_rope_settings(rope),
    }


def _attention(spec: ModelSpec) -> Attention:
    attention = spec.blocks[0].attention
    assert isinstance(attention, Attention), "every architecture that GGUF names here has this one"
    return attention


def _rope_settings(rope: Rope) -> dict[str, Value]:
    scaling = rope.scaling
    if scaling.kind in ("default", "llama3", "factors"):
        return {}
    if scaling.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
    if scaling.kind == "yarn":
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": scaling.factor,
            "rope.scaling.original_context_length": scaling.original_length,
            "rope.scaling.yarn_attn_factor": scaling.attention_factor,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
        }
    raise ModelError(f"GGUF has no words for the rope scaling {scaling.kind!r}")


def _rope_factors(rope: Rope) -> npt.NDArray[np.float32] | None:
    """What each frequency is divided by, where a rule decides pair by pair."""
    if rope.scaling.kind not in ("llama3", "factors"):
        return None
    plain = np.array(Rope(rope.dims, rope.theta).inverse_frequencies())
    factors: npt.NDArray[np.float32] = plain / np.array(rope.inverse_frequencies())
    return factors.astype(np.float32)


def _rows(weight: Weight) -> tuple[str, Bytes]:
    """The type and the bytes of a weight, [rows, bytes]."""
    if isinstance(weight, QuantizedMatrix):
        return block_format_of(weight), encode(weight)
    if len(weight.shape) == 1:
        return "F32", weight.float32().view(np.uint8).reshape(weight.shape[0], -1)
    data = np.ascontiguousarray(weight.data)
    return weight.dtype, data.view(np.uint8).reshape(weight.shape[0], -1)


def _turned(spec: ModelSpec, architecture: Architecture) -> dict[str, int]:
    """Tensor whose rows are to be turned → its heads."""
    attention = _attention(spec)
    counts = {
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
    }
    return {
        f"blk.{layer}.{tensor}.{ending}": counts[key]
        for layer in range(len(spec.blocks))
        for tensor, key in architecture.turned.items()
        for ending in ("weight", "bias")
    }


def _turn(rows: Bytes, heads: int) -> Bytes:
    """Rows for rotations of halves, in each head, in the order for rotations of neighbours."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(len(rows), -1)


def _check(path: Path, spec: ModelSpec) -> None:
    """Compare with what the file says; raises ModelError, naming what it cannot say."""
    config = gguf_config(GgufModel(path))
    config.pop("quantization_config", None)
    again = build_spec(config)
    for name in ("width", "max_length", "embedding", "blocks", "norm", "head"):
        if fault := difference(getattr(spec, name), getattr(again, name), name):
            path.unlink()
            raise ModelError(f"GGUF cannot say this of {spec.architecture}: {fault}")


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
