"""Says in the words of config.json what a GGUF file says of its model in its metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from quire.errors import CheckpointError, ModelError, RequestError
from quire.models.generation import SAMPLING_KEYS, GenerationDefaults
from quire.quant.gguf_blocks.types import BLOCK_FORMATS
from quire.sampling_params import SamplingParams
from quire.weights.gguf import rules
from quire.weights.gguf.architectures import ARCHITECTURES, Architecture
from quire.weights.gguf.container import Strings
from quire.weights.gguf.model import GgufModel
from quire.weights.gguf.names import KEYS, REDUNDANT

__all__ = ["architecture_of", "gguf_config", "gguf_generation_defaults"]

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS = {
    "short_factor": "rope_factors_short.weight",
    "long_factor": "rope_factors_long.weight",
}
NOT_WEIGHTS = frozenset({ROPE_FACTORS, *LONG_FACTORS.values()})
CONTROL = 3  # the type of a token that is no text

# Keys under rope.scaling → key of the section rope_scaling.
ROPE_KEYS = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
    "yarn_log_multiplier": "mscale_all_dim",
}
SAMPLING = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
# Files name one end token; what ends a turn is found by its text, as the format has it.
END_TEXTS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
        *("<end_of_turn>", "<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>"),
    }
)


def architecture_of(gguf: GgufModel) -> Architecture:
    """The table entry of a file's architecture; ModelError, naming those that are known."""
    name = gguf.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ModelError(
            f"{gguf.origin}: architecture {name!r:.80} is not supported. "
            f"Supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def gguf_config(gguf: GgufModel) -> dict[str, Any]:
    """What would stand in config.json.

    Settings that are not known stand there under their own name.  Raises ModelError for an unknown
    architecture, CheckpointError for a file without weights.
    """
    architecture = architecture_of(gguf)
    if EMBEDDING not in gguf.tensors:
        raise CheckpointError(f"{gguf.origin}: has no tensor {EMBEDDING!r}; is it a whole model?")
    config: dict[str, Any] = {
        "architectures": [architecture.families[0]],
        "torch_dtype": _dtype(gguf),
        "vocab_size": gguf.tensors[EMBEDDING].shape[0],
        "tie_word_embeddings": HEAD not in gguf.tensors,
        **{
            key: any(name in gguf.tensors for name in tensors)
            for key, tensors in architecture.flags.items()
        },
        **architecture.given,
        **_tokens(gguf),
    }
    blocks = sorted({each.dtype for each in gguf.tensors.values()} & BLOCK_FORMATS.keys())
    if blocks:
        config["quantization_config"] = {"quant_method": "gguf", "formats": blocks}
    settings = _settings(gguf)
    own = architecture.keys
    ropes = [key for key in settings if key.startswith("rope.") and key not in own]
    rope = {key: settings.pop(key) for key in ropes}
    names = {**KEYS, **dict.fromkeys(REDUNDANT), **own}
    for key, value in settings.items():
        name = names.get(key, f"{gguf.metadata['general.architecture']}.{key}")
        if name is not None:
            config[name] = value
    if "attention.value_length" not in own:
        config.update(_value_size(config, settings))
        config.setdefault("head_dim", _head_dim(config))
    config.update(_rope(gguf, config, rope))
    for rule in (rules.without_next_tokens, *architecture.rules):
        rule(config, gguf.tensors.keys())
    return config


def gguf_generation_defaults(gguf: GgufModel) -> GenerationDefaults:
    """The sampling defaults of `general.sampling`.

    Raises CheckpointError for a value out of range.
    """
    prefix = "general.sampling."
    given = {
        SAMPLING.get(key[len(prefix) :], key[len(prefix) :]): value
        for key, value in gguf.metadata.items()
        if key.startswith(prefix)
    }
    sampling = {key: given[key] for key in SAMPLING_KEYS if key in given}
    try:
        SamplingParams(**sampling)
    except RequestError as error:
        raise CheckpointError(f"{gguf.origin}: general.sampling: {error}") from error
    return GenerationDefaults(sampling)


def _dtype(gguf: GgufModel) -> str:
    """The widest format that its matrices need."""
    kinds = {each.dtype for each in gguf.tensors.values() if len(each.shape) > 1}
    if kinds <= {"F32", "F64"}:
        return "float32"
    return "bfloat16" if kinds <= {"BF16", "F32"} else "float16"


def _settings(gguf: GgufModel) -> dict[str, Any]:
    """The keys of the architecture, without its name in front; one value for all layers alike."""
    prefix = gguf.metadata["general.architecture"] + "."
    return {
        key[len(prefix) :]: _plain(value)
        for key, value in gguf.metadata.items()
        if key.startswith(prefix)
    }


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return list(value) if isinstance(value, Strings) else value
    values = value.tolist()
    return values[0] if len(set(values)) == 1 else values


def _tokens(gguf: GgufModel) -> dict[str, Any]:
    """The tokens that begin and end a text."""
    begin, *ends = (
        gguf.metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos", "eot", "eom")
    )
    found = {each for each in ends if type(each) is int} | set(_end_tokens(gguf))
    return {"bos_token_id": begin, "eos_token_id": sorted(found)}


def _end_tokens(gguf: GgufModel) -> Iterator[int]:
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    types = gguf.metadata.get("tokenizer.ggml.token_type")
    if isinstance(tokens, Strings) and isinstance(types, np.ndarray):
        for number, (token, kind) in enumerate(zip(tokens, types.tolist(), strict=False)):
            if kind == CONTROL and token in END_TEXTS:
                yield number


def _value_size(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The size of a value head, where it is not that of a key's."""
    size = settings.get("attention.value_length")
    return {} if size in (None, _head_dim(config)) else {"v_head_dim": size}


def _head_dim(config: Mapping[str, Any]) -> Any:
    given = config.get("head_dim")
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if given is None and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        return width // heads
    return given


def _rope(gguf: GgufModel, config: Mapping[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """The settings of the rotation; those that are not known keep their names."""
    theta = rope.pop("rope.freq_base", None)
    found: dict[str, Any] = {} if theta is None else {"rope_theta": theta}
    dims, head_dim = rope.pop("rope.dimension_count", None), _head_dim(config)
    if type(dims) is int and type(head_dim) is int and head_dim > 0:
        found["partial_rotary_factor"] = dims / head_dim
    scaling = {ROPE_KEYS[key]: rope.pop(f"rope.scaling.{key}", None) for key in ROPE_KEYS}
    scaling = {key: value for key, value in scaling.items() if value is not None}
    factor = rope.pop("rope.scale_linear", 1.0)  # the older spelling
    if factor != 1.0:
        scaling = {"rope_type": "linear", "factor": factor, **scaling}
    if ROPE_FACTORS in gguf.tensors:
        scaling = {"rope_type": "factors", **scaling, "factors": _factors(gguf, ROPE_FACTORS)}
    if all(name in gguf.tensors for name in LONG_FACTORS.values()):
        sets = {key: _factors(gguf, name) for key, name in LONG_FACTORS.items()}
        scaling = {**scaling, **sets, "rope_type": "longrope"}
    if scaling and scaling.get("rope_type") != "none":
        found["rope_scaling"] = scaling
    rest = {key: value for key, value in rope.items() if key not in REDUNDANT}
    return {**found, **rest}


def _factors(gguf: GgufModel, name: str) -> list[float]:
    """What the frequency of each pair is divided by."""
    tensor = gguf.tensors[name]
    if tensor.dtype != "F32" or len(tensor.shape) != 1:
        raise CheckpointError(f"{gguf.origin}: {name} is not one row of F32")
    factors: list[float] = gguf.raw(name).view("<f4").tolist()
    return factors
