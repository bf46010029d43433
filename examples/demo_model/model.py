"""The demo model's shape: a five-million-parameter Llama."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .tokenizer import VOCAB_SIZE

MAX_POSITIONS = 1024


def demo_config() -> LlamaConfig:
    """Llama with grouped-query attention and tied embeddings."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=[0, 2],
        pad_token_id=0,
    )


def new_model(seed: int) -> LlamaForCausalLM:
    """A freshly initialised model; residual projections start smaller, as in GPT-2."""
    torch.manual_seed(seed)
    config = demo_config()
    model = LlamaForCausalLM(config).float()
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data.mul_((2 * config.num_hidden_layers) ** -0.5)
    return model
