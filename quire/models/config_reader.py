"""Reads config.json while noting which keys were used, so that nothing is ignored in silence."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError, ModelError

__all__ = ["ConfigReader", "read_json"]

logger = logging.getLogger(__name__)

# Keys that change the mathematics in some known family: unread with an active value is an error.
MATHEMATICAL_KEYS = frozenset(
    {
        "activation_sparsity_pattern",
        "add_bias_linear",
        "add_full_attention_sink_bias",
        "add_qkv_bias",
        "add_swa_attention_sink_bias",
        "alibi",
        "altup_num_inputs",
        "apply_residual_connection_post_layernorm",
        "attention_bias",
        "attention_chunk_size",
        "attention_in_multiplier",
        "attention_multiplier",
        "attention_out_bias",
        "attention_out_multiplier",
        "attention_value_scale",
        "attn_logit_softcapping",
        "attn_output_gate",
        "attn_qkv_bias",
        "attn_scale",
        "attn_temperature_tuning",
        "attn_type_list",
        "bias",
        "block_configs",
        "clip_qkv",
        "compression_ratio",
        "cross_attention_layers",
        "decoder_sparse_step",
        "dim_model_base",
        "dual_chunk_attention_config",
        "embedding_multiplier",
        "embedding_scale",
        "final_logit_softcapping",
        "first_k_dense_replace",
        "floor_scale",
        "full_attention_interval",
        "global_attn_every_n_layers",
        "hc_mult",
        "head_dim",
        "hidden_act",
        "hidden_activation",
        "hidden_size_per_layer_input",
        "hybrid_layer_pattern",
        "hybrid_override_pattern",
        "index_topk",
        "interleave_moe_layer_step",
        "interleaved_sliding_window",
        "key_multiplier",
        "kv_lora_rank",
        "laurel_rank",
        "layer_types",
        "layers_block_type",
        "linear_conv_kernel_dim",
        "linear_key_head_dim",
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_value_head_dim",
        "lm_head_bias",
        "lm_head_multiplier",
        "logit_scale",
        "logits_scaling",
        "mamba_d_conv",
        "mamba_d_ssm",
        "mamba_d_state",
        "mamba_expand",
        "mamba_n_heads",
        "mlp_bias",
        "mlp_multipliers",
        "mlp_only_layers",
        "moe_intermediate_size",
        "moe_k",
        "moe_latent_size",
        "moe_layer_end_index",
        "moe_layer_freq",
        "moe_layer_interval",
        "moe_layer_start_index",
        "moe_num_experts",
        "moe_num_shared_experts",
        "moe_topk",
        "moe_use_aux_free",
        "mscale_all_dim",
        "multi_query",
        "multi_query_attention",
        "multi_query_group_num",
        "mup_enabled",
        "n_group",
        "n_routed_experts",
        "n_shared_experts",
        "new_decoder_architecture",
        "no_rope_layers",
        "nope_layer_interval",
        "norm_topk_prob",
        "num_dense_layers",
        "num_experts",
        "num_experts_per_tok",
        "num_kv_shared_layers",
        "num_local_experts",
        "num_shared_expert",
        "original_rope",
        "parallel_attn",
        "partial_rotary_factor",
        "position_embedding_type",
        "position_embedding_xdrope",
        "post_layer_norm",
        "q_lora_rank",
        "qk_layernorm",
        "qk_nope_head_dim",
        "qk_norm",
        "qk_norm_type",
        "qk_rope_head_dim",
        "qkv_bias",
        "quantization_bit",
        "quantization_config",
        "query_pre_attn_scalar",
        "residual_multiplier",
        "rmsnorm",
        "rope_interleave",
        "rope_interleaved",
        "rope_local_base_freq",
        "rope_parameters",
        "rope_percent",
        "rope_ratio",
        "rope_scaling",
        "rope_theta",
        "scale_attn_by_inverse_layer_idx",
        "rotary",
        "rotary_dim",
        "rotary_emb_base",
        "rotary_pct",
        "route_scale",
        "routed_scaling_factor",
        "scale_depth",
        "scale_emb",
        "scoring_func",
        "shared_expert_intermediate_size",
        "shared_intermediate_size",
        "sliding_window",
        "sliding_window_pattern",
        "sparse_attention_config",
        "ssm_in_multiplier",
        "ssm_multipliers",
        "ssm_out_multiplier",
        "swa_rope_theta",
        "swiglu_alpha",
        "swiglu_limit",
        "tie_word_embeddings",
        "topk_group",
        "topk_method",
        "use_bias",
        "use_bidirectional_attention",
        "use_cla",
        "use_dynamic_ntk",
        "use_logn_attn",
        "use_mla",
        "use_mrope",
        "use_parallel_residual",
        "use_qk_norm",
        "use_sliding_window",
        "v_head_dim",
        "vision_config",
        "visual",
        "vocab_size_per_layer_input",
        "zero_expert_num",
    }
)

# Keys that say nothing about the mathematics of inference, whatever their value.
HARMLESS_KEYS = frozenset(
    {
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attention_softmax_in_fp32",
        "attn_dropout_prob",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "aux_loss_alpha",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bf16",
        "bias_dropout_fusion",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "directionality",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "emb_dropout_prob",
        "embd_pdrop",
        "embedding_dropout",
        "encoder_no_repeat_ngram_size",
        "eod_token_id",
        "eos_token_id",
        "ep_size",
        "exponential_decay_length_penalty",
        "export_model_type",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "fp16",
        "fp32",
        "fp32_residual_connection",
        "full_attn_mod",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "init_method",
        "initializer_range",
        "input_jitter_noise",
        "interpolate_factor",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "keys_to_ignore_at_inference",
        "label2id",
        "layerdrop",
        "length_penalty",
        "mask_token_id",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_router_logits",
        "output_scores",
        "pad_token_id",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "resid_pdrop",
        "residual_dropout",
        "return_dict",
        "return_dict_in_generate",
        "router_aux_loss_coef",
        "router_bias_update_rate",
        "router_jitter_noise",
        "router_z_loss_coef",
        "sentence_transformers",
        "sep_token_id",
        "seq_aux",
        "softmax_in_fp32",
        "suppress_tokens",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers.js_config",
        "transformers_version",
        "typical_p",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
        "use_flash_attention",
        "use_flash_attn",
    }
)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; CheckpointError names the file when it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; a model directory needs it") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


class ConfigReader:
    """A view of config.json that records every key that was read."""

    def __init__(self, values: Mapping[str, Any], architecture: str) -> None:
        self._values = values
        self._read: set[str] = set()
        self._names: Mapping[str, str] = {}
        self.architecture = architecture

    def renamed(self, names: Mapping[str, str], **given: Any) -> ConfigReader:
        """The same config.json for who asks in other words; what is read there is read here.

        names: key that is asked for → key that config.json has.  given: values by the key that is
        asked for, whatever config.json says.
        """
        reader = ConfigReader({**self._values, **given}, self.architecture)
        reader._read = self._read
        reader._names = {key: name for key, name in names.items() if key not in given}
        return reader

    def __iter__(self) -> Iterator[str]:
        """The keys of config.json."""
        return iter(self._values)

    def __contains__(self, key: str) -> bool:
        """Whether config.json has the key, if only as null."""
        return self._own(key) in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; `default` when it is absent or null."""
        key = self._own(key)
        self._read.add(key)
        value = self._values.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int | None = None, low: int = 0) -> int:
        """The value of `key`, from `low` to 2**31 - 1; ModelError if absent or anything else."""
        value = self.get(key, default)
        if value is None:
            raise ModelError(f"{self.architecture}: config.json has no {self._own(key)!r}")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**31:
            wanted = "a positive integer" if low == 1 else f"an integer of at least {low}"
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r}; expected {wanted}"
            )
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """The value of `key` as an integer above zero; ModelError if absent or anything else."""
        return self.integer(key, default, low=1)

    def number(
        self,
        key: str,
        default: float | None = None,
        low: float = -sys.float_info.max,
        high: float = sys.float_info.max,
    ) -> float:
        """The value of `key`, from `low` to `high`; ModelError if absent or anything else."""
        value = self.get(key, default)
        if value is None:
            raise ModelError(f"{self.architecture}: config.json has no {self._own(key)!r}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # NaN is in no range
            bounds = "" if high == sys.float_info.max else f" from {low:g} to {high:g}"
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r}; expected a number{bounds}"
            )
        return float(value)

    def section(self, key: str) -> Mapping[str, Any]:
        """The JSON object at `key`, empty when it is absent; ModelError for anything else."""
        value = self.get(key, {})
        if not isinstance(value, dict):
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r}; expected a JSON object"
            )
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """The value of `key` as true or false; ModelError for anything else."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r}; expected true or false"
            )
        return value

    def expect(self, key: str, *known: Any) -> None:
        """Read a key that says what the family computes anyway; ModelError for anything else."""
        value = self.get(key, known[0])
        if value not in known:
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r:.100}, which is not computed "
                f"here; {' or '.join(map(repr, known))} is"
            )

    def token_ids(self, key: str) -> tuple[int, ...]:
        """The value of `key`, one token id or a list of them, as a tuple."""
        value = self.get(key, [])
        ids = value if isinstance(value, list) else [value]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            raise ModelError(
                f"{self.architecture}: {self._own(key)} is {value!r}; expected token ids"
            )
        return tuple(ids)

    def _own(self, key: str) -> str:
        return self._names.get(key, key)

    def unread(self) -> list[str]:
        """The keys with a value that nobody asked for."""
        return [k for k, v in self._values.items() if k not in self._read and v is not None]

    def finish(self, strict: bool = False) -> None:
        """Refuse or report the keys that nobody read.

        An active value (not null, false, 0 or empty) of a key that changes the mathematics in some
        known family raises ModelError, and one that is not active says nothing.  Any other unread
        key raises ModelError when `strict`, else it is reported once as a warning.
        """
        unread = [key for key in self._values if key not in self._read | HARMLESS_KEYS]
        active = [key for key in unread if self._values[key] not in (None, False, 0, {}, [])]
        refused = [key for key in active if key in MATHEMATICAL_KEYS]
        if refused:
            shown = ", ".join(f"{key}={self._values[key]!r}" for key in refused)
            raise ModelError(
                f"{self.architecture}: config.json sets {shown}, which changes the model's "
                f"mathematics and is not supported for this architecture"
            )
        silent = [key for key in unread if key.startswith("_") or key in MATHEMATICAL_KEYS]
        unknown = [key for key in unread if key not in silent]
        if unknown and strict:
            raise ModelError(
                f"{self.architecture}: config.json has keys that Quire does not know: "
                f"{', '.join(unknown)}; drop --strict-config to ignore them"
            )
        if unknown:
            logger.warning(
                "%s: ignoring config.json keys %s", self.architecture, ", ".join(unknown)
            )
