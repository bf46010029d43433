"""Writes a Qwen2 or Llama checkpoint as GGUF: write_gguf.py DIRECTORY OUTPUT BF16|F16|Q8_0|Q4_0.

Runs where PyPI's gguf package is installed.  Matrices are all of one type, vectors float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def main() -> None:
    """Read the checkpoint, write the file."""
    directory, output, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(output, config["model_type"])
    _write_facts(writer, config, kind)
    _write_vocabulary(writer, config, json.loads((directory / "tokenizer.json").read_text()))
    matrices = gguf.GGMLQuantizationType[kind]
    for name, values in _tensors(directory / "model.safetensors"):
        if config["model_type"] == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _rotate_pairs(values, config, "q_proj" in name)
        if values.ndim == 1:
            writer.add_tensor(_gguf_name(name), values)
        else:
            data = gguf.quants.quantize(values, matrices)
            writer.add_tensor(_gguf_name(name), data, raw_dtype=matrices)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_facts(writer: Any, config: dict[str, Any], kind: str) -> None:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config.get("head_dim") or hidden // heads)
    writer.add_vocab_size(config["vocab_size"])


def _write_vocabulary(writer: Any, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    special = (config["bos_token_id"], config["eos_token_id"])
    tokens = list(tokenizer["model"]["vocab"])
    ordinary, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if config["model_type"] == "qwen2" else "llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([control if i in special else ordinary for i in range(len(tokens))])
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_bos_token_id(special[0])
    writer.add_eos_token_id(special[1])
    writer.add_add_bos_token(False)


def _tensors(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every tensor, widened to float32."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        wide = data[start:end].view(np.uint16).astype(np.uint32) << 16
        yield name, wide.view(np.float32).reshape(entry["shape"])


def _rotate_pairs(
    values: np.ndarray[Any, Any], config: dict[str, Any], query: bool
) -> np.ndarray[Any, Any]:
    """GGUF's Llama rotates neighbours, the checkpoint rotates halves: reorder the rows."""
    heads = config["num_attention_heads" if query else "num_key_value_heads"]
    halves = values.reshape(heads, 2, -1, values.shape[-1])
    turned: np.ndarray[Any, Any] = halves.swapaxes(1, 2).reshape(values.shape)
    return turned


def _gguf_name(name: str) -> str:
    stem, suffix = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.{suffix}"


main()
