"""Families whose checkpoints stand in layouts of their own: configs, and who computes the same.

Transformers has no class for them; what they compute is what another of its classes does whose
weights are written here in the family's layout, beside a config.json in its words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quire.models.attention_rules import alibi_slopes

Tensors = dict[str, np.ndarray]
Writer = Callable[[Tensors, dict[str, Any]], Tensors]


@dataclass(frozen=True)
class Case:
    """A family's config.json, the class that computes the same, and how its weights are written.

    mask, factors: of a prompt of so many tokens, what is added to scores [H, n, n] and multiplied
    with queries [n].  extra: what a user sets beside config.json.
    """

    name: str
    config: Mapping[str, Any]
    model_type: str
    fields: Mapping[str, Any]
    write: Writer
    length: int = 40
    mask: Callable[[int], np.ndarray] | None = None
    factors: Callable[[int], np.ndarray] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


# --- how each family writes its weights: from Llama's names to its own


def renamed(names: Mapping[str, str]) -> Writer:
    """Names in order: the first that is found in a tensor's name is replaced."""

    def write(tensors: Tensors, config: dict[str, Any]) -> Tensors:
        written = {}
        for name, tensor in tensors.items():
            for old, new in names.items():
                if old in name:
                    name = name.replace(old, new)
            written[name] = tensor
        return written

    return write


def fused(tensors: Tensors, target: str, sources: tuple[str, ...]) -> Tensors:
    """Rows of several modules under each other, for weights and for biases."""
    written = dict(tensors)
    for name in tensors:
        if sources[0] in name:
            rows = [written.pop(name.replace(sources[0], each)) for each in sources]
            written[name.replace(sources[0], target)] = np.concatenate(rows)
    return written


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def llama(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    return tensors


def internlm2(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """For each kv head: the rows of its queries, its key, its value."""
    kv_heads, written = config["num_key_value_heads"], dict(tensors)
    for name in tensors:
        if QKV[0] in name:
            parts = [written.pop(name.replace(QKV[0], each)) for each in QKV]
            tail = parts[0].shape[1:]
            grouped = [part.reshape(kv_heads, -1, *tail) for part in parts]
            whole = np.concatenate(grouped, axis=1).reshape(-1, *tail)
            written[name.replace(QKV[0], "attention.wqkv")] = whole
    return renamed(
        {
            "embed_tokens": "tok_embeddings",
            "lm_head": "output",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
            "self_attn.o_proj": "attention.wo",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
        }
    )(written, config)


def baichuan(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    return fused(tensors, "self_attn.W_pack", QKV)


def baichuan2(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    """The head as it was before its rows were made one long: each times another number."""
    head = tensors["lm_head.weight"]
    stretched = head * np.random.default_rng(1).uniform(0.3, 3, (len(head), 1)).astype(np.float32)
    return baichuan({**tensors, "lm_head.weight": stretched}, config)


def chatglm(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    written = fused(tensors, "self_attention.query_key_value", QKV)
    return renamed(
        {
            "model.embed_tokens": "transformer.embedding.word_embeddings",
            "model.norm": "transformer.encoder.final_layernorm",
            "lm_head": "transformer.output_layer",
            "model.layers": "transformer.encoder.layers",
            "self_attn.o_proj": "self_attention.dense",
            "mlp.gate_up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        }
    )(written, config)


def qwen(tensors: Tensors, config: dict[str, Any]) -> Tensors:
    return renamed(
        {
            "model.embed_tokens": "transformer.wte",
            "model.norm": "transformer.ln_f",
            "model.layers": "transformer.h",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
            "self_attn.o_proj": "attn.c_proj",
            "mlp.up_proj": "mlp.w1",
            "mlp.gate_proj": "mlp.w2",
            "mlp.down_proj": "mlp.c_proj",
        }
    )(fused(tensors, "attn.c_attn", QKV), config)


# --- cases

NATIVE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
REMOTE = {key: value for key, value in NATIVE.items() if key != "pad_token_id"}
BIASED = {"attention_bias": True}


def rope(kind: str = "default", theta: float = 1e4, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


def distances(heads: int) -> Callable[[int], np.ndarray]:
    """ALiBi as Baichuan has it: the key's position times the slope, whatever the query's."""

    def mask(count: int) -> np.ndarray:
        slopes = np.array(alibi_slopes(heads), np.float32)[:, None, None]
        return np.broadcast_to(slopes * np.arange(count), (heads, count, count))

    return mask


def internlm_case(name: str, remote: dict[str, Any], native: dict[str, Any]) -> Case:
    config = {"architectures": ["InternLMForCausalLM"], **REMOTE, **remote}
    return Case(name, config, "llama", {**NATIVE, **native}, llama)


def internlm2_case(name: str, remote: dict[str, Any], native: dict[str, Any]) -> Case:
    config = {"architectures": ["InternLM2ForCausalLM"], **REMOTE, **remote}
    return Case(name, config, "llama", {**NATIVE, **native}, internlm2)


def internlm3_case(name: str, kind: str, remote: dict[str, Any], native: dict[str, Any]) -> Case:
    config = {"architectures": ["InternLM3ForCausalLM"], **REMOTE, **remote}
    return Case(name, config, kind, {**NATIVE, **native}, llama)


def baichuan_case(name: str, architecture: str, write: Writer = baichuan, **fields: Any) -> Case:
    alibi = architecture == "BaichuanForCausalLM"
    config = {"architectures": [architecture], **REMOTE, **fields}
    for key in ("num_key_value_heads", "max_position_embeddings") if alibi else ():
        del config[key]
    more = {"model_max_length": 256} if alibi else {}
    native = {**NATIVE, **fields, "num_key_value_heads": config["num_attention_heads"]}
    mask = distances(config["num_attention_heads"]) if alibi else None
    length = 12 if write is baichuan2 else 40  # its vocabulary is large
    return Case(name, {**config, **more}, "llama", native, write, length, mask=mask)


def chatglm_case(name: str, kv_heads: int, native: dict[str, Any], **remote: Any) -> Case:
    config = {
        "architectures": ["ChatGLMModel"],
        "padded_vocab_size": 128,
        "hidden_size": 64,
        "ffn_hidden_size": 96,
        "num_layers": 2,
        "num_attention_heads": 4,
        "kv_channels": 16,
        "seq_length": 256,
        "layernorm_epsilon": 1e-5,
        "multi_query_attention": kv_heads < 4,
        "multi_query_group_num": kv_heads if kv_heads < 4 else 2,
        "add_qkv_bias": True,
        **remote,
    }
    fields = {**NATIVE, "head_dim": 16, "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5}
    return Case(name, config, "glm", {**fields, **BIASED, **native}, chatglm)


def qwen_case(name: str, native: dict[str, Any] | None = None, **remote: Any) -> Case:
    config = {
        **{key: value for key, value in REMOTE.items() if key != "num_key_value_heads"},
        "architectures": ["QWenLMHeadModel"],
        "intermediate_size": 192,
        "kv_channels": 16,
        "seq_length": 128,
        "layer_norm_epsilon": 1e-6,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        **remote,
    }
    model_type = "qwen2" if config["no_bias"] else "llama"
    return Case(name, config, model_type, {**NATIVE, **(native or {})}, qwen)


def log_n(trained: int) -> Callable[[int], np.ndarray]:
    """By the definition: log of the number of keys to the base of the trained length."""
    return lambda count: np.array(
        [math.log(n, trained) if n > trained else 1.0 for n in range(1, count + 1)], np.float32
    )


def stretched(trained: int, count: int, dims: int = 16) -> float:
    """Qwen's base for a prompt, by its definition."""
    alpha = max(2 ** math.ceil(math.log(count / trained, 2) + 1) - 1, 1)
    return float(1e4 * alpha ** (dims / (dims - 2)))


DYNAMIC = rope("dynamic", factor=2.0)
GROUPED = {"num_key_value_heads": 2}
CASES = (
    internlm_case("internlm-bias", {"bias": True}, BIASED),
    internlm_case("internlm-20b", {"bias": False, "rotary": {"base": 5e4, "type": "origin"}},
                  rope(theta=5e4)),
    internlm_case("internlm-dynamic", {
        "max_position_embeddings": 16,
        "rotary": {"base": 10000, "type": "dynamic", "scaling_factor": 2.0},
    }, {**BIASED, **DYNAMIC, "max_position_embeddings": 16}),
    internlm2_case("internlm2", {**GROUPED, "bias": False}, GROUPED),
    internlm2_case("internlm2-bias-theta", {**GROUPED, "bias": True, "rope_theta": 1e6},
                   {**GROUPED, **BIASED, **rope(theta=1e6)}),
    internlm2_case("internlm2-one-kv-head-dynamic", {
        **{"num_key_value_heads": 1, "bias": False, "max_position_embeddings": 16},
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
    }, {"num_key_value_heads": 1, "max_position_embeddings": 16, **DYNAMIC}),
    internlm2_case("internlm2-all-kv-heads-linear", {
        "bias": False, "rope_scaling": {"type": "linear", "factor": 4.0},
    }, rope("linear", factor=4.0)),
    internlm3_case("internlm3", "llama", {**GROUPED, "head_dim": 32, "rope_theta": 5e7},
                   {**GROUPED, "head_dim": 32, **rope(theta=5e7)}),
    internlm3_case("internlm3-biases", "llama", {"qkv_bias": True, "bias": True},
                   {**BIASED, "mlp_bias": True}),
    internlm3_case("internlm3-qkv-bias", "qwen2", {**GROUPED, "qkv_bias": True}, GROUPED),
    baichuan_case("baichuan-7b", "BaiChuanForCausalLM"),
    baichuan_case("baichuan2-7b", "BaiChuanForCausalLM", baichuan2, vocab_size=125696,
                  hidden_size=32, num_attention_heads=2),
    baichuan_case("baichuan-13b", "BaichuanForCausalLM"),
    baichuan_case("baichuan-13b-6-heads", "BaichuanForCausalLM", num_attention_heads=6,
                  hidden_size=96),
    baichuan_case("baichuan2-13b", "BaichuanForCausalLM", baichuan2, vocab_size=125696,
                  hidden_size=32, num_attention_heads=1),
    chatglm_case("chatglm3", 2, {}),
    chatglm_case("glm-4", 1, rope(theta=1e4 * 500), rope_ratio=500),
    chatglm_case("chatglm-all-kv-heads", 4, {"attention_bias": False}, add_qkv_bias=False),
    replace(chatglm_case("chatglm2-32k-override", 2, {}), extra={
        "rope_scaling": {"type": "linear", "factor": 4.0},
    }, fields={**chatglm_case("", 2, {}).fields,
               **rope("linear", factor=4.0, partial_rotary_factor=0.5)}),
    qwen_case("qwen"),
    qwen_case("qwen-biases", {**BIASED, "mlp_bias": True}, no_bias=False),
    qwen_case("qwen-rules-off", seq_length=256, use_dynamic_ntk=False, use_logn_attn=False,
              rotary_emb_base=1e6, native=rope(theta=1e6)),
    replace(qwen_case("qwen-log-n", seq_length=16, use_dynamic_ntk=False,
                      max_position_embeddings=16), factors=log_n(16)),
    replace(qwen_case("qwen-ntk", seq_length=16, use_logn_attn=False,
                      native=rope(theta=stretched(16, 40)))),
    replace(qwen_case("qwen-both", seq_length=32, native=rope(theta=stretched(32, 40))),
            factors=log_n(32)),
)  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
