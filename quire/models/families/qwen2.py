"""Qwen2: the Llama block with biases on q, k and v, and windows in the upper layers if asked.

Source: the Qwen2ForCausalLM config of transformers.
"""

from __future__ import annotations

from dataclasses import replace

from quire.models.config_reader import ConfigReader
from quire.models.families.decoder import TINY, dense_decoder
from quire.models.families.windows import layer_windows
from quire.models.registry import family
from quire.models.spec import ModelSpec

__all__ = ["qwen2"]


@family("Qwen2ForCausalLM", "MiMoForCausalLM", tiny=TINY)
def qwen2(config: ConfigReader) -> ModelSpec:
    """Qwen1.5, Qwen2 and Qwen2.5 dense models, and MiMo 7B."""
    config.expect("use_mrope", False)
    for key in ("attention_bias", "num_nextn_predict_layers"):
        config.get(key)  # of MiMo, whose biases are the same; what guesses ahead is left alone
    spec = dense_decoder(config, qkv_bias=True, windows=layer_windows(config))
    chunks = ConfigReader(config.section("dual_chunk_attention_config"), config.architecture)
    trained = chunks.positive("original_max_position_embeddings", spec.max_length)
    length = min(spec.max_length, trained)  # chunks begin behind these
    return replace(spec, max_length=length, unused=("model.mtp_layers.",))
