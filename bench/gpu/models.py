"""The models of bench.gpu: directories with a config and a tokenizer; weights are made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.peers.tokenizer_files import write_tokenizer
from bench.random_weights import write_random_weights
from quire.models.registry import build_spec

__all__ = ["FORMATS", "SHAPES", "model_directory", "write_checkpoint"]

LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama-3-8b": {
        **LLAMA,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "vocab_size": 128256,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    "tiny": {
        **LLAMA,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "vocab_size": 2048,
        "bos_token_id": 2000,
        "eos_token_id": 2001,
    },
}
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "bf16": {},
    "W4A16": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "zero_point": True,
        "version": "gemm",
    },
    "FP8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
}
"""Name → quantization_config: of floats none, of 4 bits AWQ's, of 8-bit floats one scale a row."""


def model_directory(shape: str, format: str, folder: Path) -> Path:
    """A directory without weights, for --load-format dummy; made on first use."""
    directory = folder / f"{shape}-{format}"
    if not (directory / "config.json").is_file():
        directory.mkdir(parents=True, exist_ok=True)
        config = dict(SHAPES[shape])
        write_tokenizer(directory, config)
        if FORMATS[format]:
            config["quantization_config"] = FORMATS[format]
        (directory / "config.json").write_text(json.dumps(config, indent=2))
    return directory


def write_checkpoint(shape: str, folder: Path) -> Path:
    """A bf16 checkpoint with its weights in one file, as it is downloaded; made on first use."""
    directory = model_directory(shape, "bf16", folder / "stored")
    path = directory / "model.safetensors"
    if path.is_file():
        return directory
    write_random_weights(path, build_spec(dict(SHAPES[shape])))
    return directory
