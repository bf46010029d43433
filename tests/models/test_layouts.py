"""Families whose checkpoints stand in layouts of their own compute what transformers computes.

Transformers has no class for them; what they compute is what another of its classes does whose
weights are written here in the family's layout, beside a config.json in its words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from quire.models.attention_rules import alibi_slopes
from quire.models.rope import RopeScaling
from quire.models.spec import Attention, ModelSpec
from quire.weights.checkpoint import open_checkpoint
from quire.weights.tensor import RawTensor
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, load, need
from tests.models.greedy import assert_greedy, kept_rotation

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
SIGHT = 10 * TOLERANCE

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


# --- oracles


@dataclass(frozen=True)
class Oracle:
    """A checkpoint in the family's layout, and what the other class says of it."""

    case: Case
    directory: Path
    loaded: Loaded
    tokens: list[int]
    logits: Float32
    model: Any


def random_model(case: Case) -> Any:
    """The class with every parameter redrawn; head rows of length one if they are to be."""
    torch.manual_seed(len(case.name))
    config = transformers.AutoConfig.for_model(case.model_type, **case.fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.1 if "norm" in name else 0.3)
            else:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
        if case.write is baichuan2:
            model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
    return model


def expected(case: Case, model: Any, tokens: list[int]) -> Float32:
    count, more = len(tokens), {}
    if case.mask is not None:
        mask = case.mask(count) + np.triu(np.full((count, count), -1e9, np.float32), 1)
        more["attention_mask"] = torch.tensor(mask)[None]
        more["position_ids"] = torch.zeros(1, count, dtype=torch.long)
    hooks = []
    if case.factors is not None:  # rotation is linear: queries may be scaled before it
        factors = torch.tensor(case.factors(count))[:, None]
        hooks = [
            layer.self_attn.q_proj.register_forward_hook(lambda _m, _i, out: out * factors)
            for layer in model.model.layers
        ]
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), **more).logits[0].numpy()
    for hook in hooks:
        hook.remove()
    return np.asarray(logits, np.float32)


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Oracle]:
    built: dict[str, Oracle] = {}

    def oracle(case: Case) -> Oracle:
        if case.name not in built:
            directory, model = tmp_path_factory.mktemp(case.name), random_model(case)
            tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
            config = {**case.config, **case.extra, "torch_dtype": "float32"}
            written = case.write(tensors, config)
            safetensors.numpy.save_file(
                {name: np.ascontiguousarray(each) for name, each in written.items()},
                directory / "model.safetensors",
            )
            (directory / "config.json").write_text(json.dumps(config))
            random = np.random.default_rng(0)
            tokens = random.integers(3, case.fields["vocab_size"], case.length).tolist()
            logits = expected(case, model, tokens)
            built[case.name] = Oracle(case, directory, load(directory), tokens, logits, model)
        return built[case.name]

    return oracle


Oracles = Callable[[Case], Oracle]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("backend", BACKENDS)
@each_case
def test_logits(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    found = Model(oracle.loaded, backend).logits(oracle.tokens)
    assert distance(found, oracle.logits) < TOLERANCE


@each_case
def test_64_greedy_tokens(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)

    def read(prompt: list[int], output: list[int]) -> Float32:
        with kept_rotation(oracle.model, lambda: expected(case, oracle.model, prompt)):
            return expected(case, oracle.model, prompt + output)

    assert_greedy(Model(oracle.loaded, "native-auto"), oracle.model, case.length, read)


@each_case
def test_pieces_give_the_same_bits(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)
    for backend in ("native-portable", "reference"):
        whole = Model(oracle.loaded, backend).logits(oracle.tokens)
        parts = Model(oracle.loaded, backend).logits(oracle.tokens, [7, 1, 1, 16, 15])
        if backend == "reference":
            assert distance(parts, whole) < TOLERANCE
        else:
            np.testing.assert_array_equal(parts, whole)


# --- sight


def without_biases(oracle: Oracle) -> Loaded:
    weights = {
        name: replace(weight, data=np.zeros_like(weight.data)) if name.endswith("bias") else weight
        for name, weight in oracle.loaded.weights.items()
    }
    return Loaded(oracle.loaded.spec, weights)


def swapped(one: str, other: str) -> Callable[[Oracle], Loaded]:
    def mistake(oracle: Oracle) -> Loaded:
        found = oracle.loaded.weights
        names = {n: n.replace(one, "!").replace(other, one).replace("!", other) for n in found}
        return Loaded(oracle.loaded.spec, {n: found[names[n]] for n in found})

    return mistake


def contiguous(oracle: Oracle) -> Loaded:
    """The rows of q, k and v read one part after the other."""
    checkpoint, weights = open_checkpoint(oracle.directory), dict(oracle.loaded.weights)
    for layer in range(2):
        whole, at = checkpoint.tensor(f"model.layers.{layer}.attention.wqkv.weight").data, 0
        for part in QKV:
            name = f"model.layers.{layer}.{part}.weight"
            rows = weights[name].shape[0]
            data = whole[at : at + rows]
            weights[name], at = RawTensor(name, "F32", data.shape, data), at + rows
    return Loaded(oracle.loaded.spec, weights)


def plain_head(oracle: Oracle) -> Loaded:
    head = open_checkpoint(oracle.directory).tensor("lm_head.weight")
    return Loaded(oracle.loaded.spec, {**oracle.loaded.weights, "lm_head.weight": head})


def attention(**changes: Any) -> Callable[[Oracle], Loaded]:
    return changed(lambda a: replace(a, **changes))


def rotation(**changes: Any) -> Callable[[Oracle], Loaded]:
    return changed(lambda a: replace(a, rope=replace(a.rope, **changes)))


def changed(change: Callable[[Attention], Attention]) -> Callable[[Oracle], Loaded]:
    def mistake(oracle: Oracle) -> Loaded:
        spec: ModelSpec = oracle.loaded.spec
        blocks = tuple(replace(each, attention=change(each.attention)) for each in spec.blocks)
        return Loaded(replace(spec, blocks=blocks), oracle.loaded.weights)

    return mistake


MISTAKES: tuple[tuple[str, str, Callable[[Oracle], Loaded]], ...] = (
    ("internlm-bias", "no biases", without_biases),
    ("internlm2", "q, k and v not grouped", contiguous),
    ("internlm2", "w1 and w3 swapped", swapped("gate_proj", "up_proj")),
    ("internlm2-bias-theta", "no biases", without_biases),
    ("internlm3-qkv-bias", "no biases", without_biases),
    ("baichuan-7b", "q and k swapped", swapped("q_proj", "k_proj")),
    ("baichuan2-7b", "a plain head", plain_head),
    ("baichuan-13b", "no slopes", attention(slopes=())),
    ("baichuan-13b-6-heads", "slopes of 8 heads", attention(slopes=alibi_slopes(8)[:6])),
    ("baichuan2-13b", "a plain head", plain_head),
    ("chatglm3", "all dims turned", rotation(dims=16)),
    ("chatglm3", "halves turned", rotation(pairing="half")),
    ("chatglm3", "no biases", without_biases),
    ("glm-4", "no ratio", rotation(theta=1e4)),
    ("qwen", "w1 and w2 swapped", swapped("gate_proj", "up_proj")),
    ("qwen", "no biases", without_biases),
    ("qwen-log-n", "no log n", attention(query_rule=None)),
    ("qwen-ntk", "no stretched base", rotation(scaling=RopeScaling())),
)


@pytest.mark.parametrize("name, what, mistake", MISTAKES, ids=lambda each: str(each)[:24])
def test_the_oracle_sees_mistakes(
    name: str, what: str, mistake: Callable[[Oracle], Loaded], oracles: Oracles
) -> None:
    oracle = oracles(BY_NAME[name])
    assert distance(Model(mistake(oracle)).logits(oracle.tokens), oracle.logits) > SIGHT, what
