"""Writes a checkpoint as GGUF: write_gguf.py DIRECTORY OUTPUT BF16|F16|Q8_0|Q4_0.

Runs where PyPI's gguf package is installed.  Matrices are all of one type, vectors and routers
float32.  Knows the model types of bench/shapes.
"""

from __future__ import annotations

import json
import re
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
ARCHITECTURES = {
    "qwen2": "qwen2",
    "llama": "llama",
    "granitemoe": "granitemoe",
    "deepseek_v2": "deepseek2",
}
TURNED = ("llama", "granitemoe")
"""Whose rotations are of neighbours in GGUF and of halves in the checkpoint."""
TURNED_MATRICES = ("q_proj.weight", "k_proj.weight")
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
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.router": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}
EXPERT = re.compile(r"(.*)\.(?:mlp|block_sparse_moe)\.experts\.\d+\.(gate|up|down)_proj\.weight")


def main() -> None:
    """Read the checkpoint, write the file."""
    directory, output, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = json.loads((directory / "config.json").read_text())
    writer = gguf.GGUFWriter(output, ARCHITECTURES[config["model_type"]])
    _write_facts(writer, config, kind)
    _write_vocabulary(writer, config, json.loads((directory / "tokenizer.json").read_text()))
    matrices = gguf.GGMLQuantizationType[kind]
    for name, values in _renamed(_tensors(directory / "model.safetensors"), config):
        if values.ndim == 1 or "ffn_gate_inp" in name:
            writer.add_tensor(name, values)
        else:
            data = gguf.quants.quantize(values, matrices)
            writer.add_tensor(name, data, raw_dtype=matrices)
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
    latent = "kv_lora_rank" in config
    writer.add_head_count_kv(1 if latent else config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rotated = config["qk_rope_head_dim"] if latent else config.get("head_dim") or hidden // heads
    writer.add_rope_dimension_count(rotated)
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == "granitemoe":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if config["model_type"] == "deepseek_v2":
        _write_facts_of_deepseek(writer, config)


def _write_facts_of_deepseek(writer: Any, config: dict[str, Any]) -> None:
    """Its latents are cached as the keys of one head."""
    rank, rotated = config["kv_lora_rank"], config["qk_rope_head_dim"]
    writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rotated)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config["qk_nope_head_dim"] + rotated)
    writer.add_value_length_mla(config["v_head_dim"])
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    writer.add_expert_weights_norm(config["norm_topk_prob"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)


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
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        wide = data[start:end].view(np.uint16).astype(np.uint32) << 16
        yield name, wide.view(np.float32).reshape(entry["shape"])


def _renamed(
    tensors: Iterator[tuple[str, np.ndarray[Any, Any]]], config: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The tensors as GGUF has them: a layer's experts in one, latents' matrices in two."""
    experts: dict[str, list[np.ndarray[Any, Any]]] = {}
    count = config.get("num_local_experts") or config.get("n_routed_experts")
    for name, values in tensors:
        if found := EXPERT.fullmatch(name):
            stack = f"blk.{found[1].rpartition('.')[2]}.ffn_{found[2]}_exps.weight"
            experts.setdefault(stack, []).append(values)
            if len(experts[stack]) == count:
                yield stack, np.stack(experts.pop(stack))
        elif name.endswith("kv_b_proj.weight"):
            heads, keys = config["num_attention_heads"], config["qk_nope_head_dim"]
            both = values.reshape(heads, -1, values.shape[1])
            layer = f"blk.{name.split('.')[2]}"
            yield f"{layer}.attn_k_b.weight", np.ascontiguousarray(both[:, :keys].swapaxes(1, 2))
            yield f"{layer}.attn_v_b.weight", np.ascontiguousarray(both[:, keys:])
        else:
            turned = config["model_type"] in TURNED and name.endswith(TURNED_MATRICES)
            yield (
                _gguf_name(name),
                _rotate_pairs(values, config, "q_proj" in name) if turned else values,
            )


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
