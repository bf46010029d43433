"""Which text decoders of transformers run behind our cache: tiny ones of every kind.

Every kind is built with random weights, small enough where its config lets us, and must pass what
models must pass at load, over longer texts than there.  Prints a line for each kind, then counts.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read when transformers is imported

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from quire.backends.torch.devices import find_device
from quire.backends.transformers.build import build, read_settings
from quire.backends.transformers.proof import prove
from quire.errors import ModelError
from quire.models.registry import has_family

SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_attention_heads"), 4),
    **dict.fromkeys(("n_head", "n_heads", "num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 16),
    **dict.fromkeys(("v_head_dim", "q_lora_rank"), 16),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "rotary_dim"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "bos_token_id"), 1),
    **{"vocab_size": 128, "pad_token_id": 0, "eos_token_id": 2},
}
LONG = (70, 33)  # tokens of the texts that are compared
LARGEST = 30_000_000  # parameters; what cannot be made smaller is left out


def main() -> None:
    """Print what becomes of each kind."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    for config in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING), key=lambda each: each.model_type):
        found = outcome(config)
        counts[found.partition(":")[0]] += 1
        print(f"{config.model_type:28} {found}", flush=True)
    print(dict(counts))


def outcome(config: Any) -> str:
    """What becomes of one kind."""
    try:
        model = tiny(config)
    except Exception as error:
        return f"not tried: {type(error).__name__} {str(error)[:80]!r}"
    if model is None:
        return "not tried: its config has parts, or it cannot be made small"
    ours = has_family(type(model).__name__)
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        try:
            settings = read_settings(Path(directory), {})
            prove(build(Path(directory), settings, "float32", find_device("cpu"), None), LONG)
        except ModelError as error:
            return f"refused: {str(error).partition('transformers: ')[2].partition(';')[0]}"
    return "right: and a family of ours" if ours else "right"


def tiny(config: Any) -> Any:
    """A small model of a kind with random weights everywhere; None where it is not tried."""
    base = config()
    if base.get_text_config() is not base:
        return None
    fields = {name: value for name, value in SMALL.items() if hasattr(base, name)}
    if "kv_lora_rank" in fields:
        fields["num_key_value_heads"] = 4
    if base.model_type == "falcon":
        fields.pop("head_dim")
    settings = config(**fields)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(settings).num_parameters()
    if size > LARGEST:
        return None
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name and name.endswith("weight")
            if parameter.dim() < 2:
                parameter.normal_(1.0 if is_norm else 0.0, 0.1)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    model.tie_weights()
    return model


if __name__ == "__main__":
    main()
