"""Families with experts compute what transformers computes, on every backend.

The options of each family differ in every axis over its cases; a mistake in any of them is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.families.decoder import TINY
from quire.models.spec import GatedMLP, MixtureOfExperts, ModelSpec, Router
from tests.models.checkpoints import Case, build_oracle, oracle_logits, random_tokens
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, load, need

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
SIGHT = 10 * TOLERANCE
BASE: dict[str, Any] = {**TINY, "pad_token_id": 0, "num_hidden_layers": 3}


def mixtral(name: str, **fields: Any) -> Case:
    values = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    return Case(name, "mixtral", {**BASE, **values, **fields})


def qwen(name: str, model_type: str, **fields: Any) -> Case:
    values = {
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 40,
        "norm_topk_prob": False,
    }
    return Case(name, model_type, {**BASE, **values, **fields})


def local(name: str, model_type: str, **fields: Any) -> Case:
    values = {"num_local_experts": 5, "num_experts_per_tok": 2}
    return Case(name, model_type, {**BASE, **values, **fields})


def olmoe(name: str, **fields: Any) -> Case:
    values = {"num_experts": 5, "num_experts_per_tok": 2}
    return Case(name, "olmoe", {**BASE, **values, **fields})


def ernie(name: str, **fields: Any) -> Case:
    values = {
        "moe_num_experts": 6,
        "moe_k": 3,
        "moe_intermediate_size": 40,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": 2,
        "moe_layer_interval": 1,
        "moe_norm_min": 1.25,
        "tie_word_embeddings": True,
    }
    return Case(name, "ernie4_5_moe", {**BASE, **values, **fields})


def hunyuan(name: str, **fields: Any) -> Case:
    values = {"num_experts": 5, "moe_topk": 2, "head_dim": 16}
    return Case(name, "hunyuan_v1_moe", {**BASE, **values, **fields})


def deepseek(name: str, model_type: str, **fields: Any) -> Case:
    values = {
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "head_dim": 16,
    }
    return Case(name, model_type, {**BASE, **values, **fields})


GROUPS = {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "routed_scaling_factor": 2.5}

CASES = (
    mixtral("mixtral"),
    mixtral("mixtral-window", sliding_window=8, num_experts_per_tok=1),
    mixtral("mixtral-many", num_local_experts=9, num_experts_per_tok=4, intermediate_size=33),
    qwen("qwen2-moe", "qwen2_moe", shared_expert_intermediate_size=56),
    qwen("qwen2-moe-step", "qwen2_moe", shared_expert_intermediate_size=96, decoder_sparse_step=2,
         norm_topk_prob=True, num_experts_per_tok=5),
    qwen("qwen2-moe-bare", "qwen2_moe", shared_expert_intermediate_size=24, qkv_bias=False,
         mlp_only_layers=[1], num_experts=3),
    qwen("qwen3-moe", "qwen3_moe", head_dim=32, norm_topk_prob=True),
    qwen("qwen3-moe-bias", "qwen3_moe", head_dim=16, attention_bias=True, mlp_only_layers=[0]),
    qwen("qwen3-moe-step", "qwen3_moe", head_dim=8, decoder_sparse_step=3, num_experts_per_tok=4,
         norm_topk_prob=True, tie_word_embeddings=True),
    deepseek("deepseek", "llama", norm_topk_prob=False),
    deepseek("deepseek-normalised", "llama", norm_topk_prob=True, first_k_dense_replace=0,
             n_shared_experts=2),
    deepseek("deepseek-freq", "llama", norm_topk_prob=False, moe_layer_freq=2,
             num_experts_per_tok=1, attention_bias=True),
    deepseek("glm4-moe", "glm4_moe", use_qk_norm=True, **GROUPS),
    deepseek("glm4-moe-plain", "glm4_moe", attention_bias=True, n_group=1, topk_group=1,
             norm_topk_prob=False, n_shared_experts=2),
    deepseek("glm4-moe-dense", "glm4_moe", **{**GROUPS, "topk_group": 1, "n_group": 2},
             first_k_dense_replace=2, partial_rotary_factor=1.0, num_experts_per_tok=4),
    local("granite-moe", "granitemoe", embedding_multiplier=3.0, attention_multiplier=0.2,
          residual_multiplier=0.5, logits_scaling=4.0),
    local("granite-moe-bias", "granitemoe", attention_bias=True, num_local_experts=7,
          embedding_multiplier=0.5, attention_multiplier=0.3, residual_multiplier=2.0,
          logits_scaling=0.25, num_experts_per_tok=3, intermediate_size=40),
    local("granite-moe-tied", "granitemoe", tie_word_embeddings=True, num_experts_per_tok=1,
          attention_multiplier=0.25, intermediate_size=64),
    ernie("ernie"),
    ernie("ernie-bias", use_bias=True, moe_k=2, moe_num_shared_experts=1, moe_num_experts=5,
          moe_layer_start_index=0, moe_layer_end_index=1),
    ernie("ernie-step", moe_layer_interval=2, moe_num_shared_experts=0, moe_intermediate_size=64,
          tie_word_embeddings=False, num_key_value_heads=4),
    hunyuan("hunyuan"),
    hunyuan("hunyuan-per-layer", moe_topk=[1, 2, 3], num_key_value_heads=4, attention_bias=True),
    hunyuan("hunyuan-alpha", num_experts=3, intermediate_size=40, head_dim=32,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0,
                             "factor": 1.0}),
    local("minimax-m2", "minimax_m2", head_dim=16, rotary_dim=8),
    local("minimax-m2-whole", "minimax_m2", head_dim=32, num_experts_per_tok=3,
          num_key_value_heads=1, intermediate_size=32),
    local("minimax-m2-many", "minimax_m2", head_dim=16, rotary_dim=4, num_local_experts=16,
          num_experts_per_tok=5, num_key_value_heads=4),
    olmoe("olmoe"),
    olmoe("olmoe-normalised", norm_topk_prob=True, attention_bias=True, num_experts=9,
         num_key_value_heads=4),
    olmoe("olmoe-one", num_experts_per_tok=1, intermediate_size=33,
         tie_word_embeddings=True),
    local("phimoe", "phimoe", attention_bias=True, lm_head_bias=True),
    local("phimoe-window", "phimoe", sliding_window=8, router_jitter_noise=0.3,
          num_local_experts=8, intermediate_size=40),
    local("phimoe-wide", "phimoe", attention_bias=True, router_jitter_noise=0.9,
          num_local_experts=16, num_key_value_heads=4, tie_word_embeddings=True),
)  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_family = pytest.mark.parametrize("case", CASES[::3], ids=str)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(frozen=True)
class Oracle:
    """A checkpoint as it was read, and what transformers says of a prompt."""

    loaded: Loaded
    tokens: list[int]
    logits: Float32


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Oracle]:
    """The oracle of a case, built once."""
    built: dict[str, Oracle] = {}

    def oracle(case: Case) -> Oracle:
        if case.name not in built:
            directory = tmp_path_factory.mktemp(case.name)
            make = deepseek_oracle if case.name.startswith("deepseek") else build_oracle
            model = make(case, directory)
            tokens = random_tokens(case)
            built[case.name] = Oracle(load(directory), tokens, oracle_logits(model, tokens))
        return built[case.name]

    return oracle


def deepseek_oracle(case: Case, directory: Path) -> Any:
    """DeepSeek-MoE is Llama with the mixture of DeepSeek-V2 in all layers but the first ones."""
    import json

    from safetensors.torch import save_file
    from transformers import AutoConfig
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    fields = dict(case.fields)
    own = {key: fields.pop(key) for key in ("n_routed_experts", "n_shared_experts",
           "moe_intermediate_size", "first_k_dense_replace", "norm_topk_prob",
           "num_experts_per_tok")}  # fmt: skip
    own["moe_layer_freq"] = fields.pop("moe_layer_freq", 1)
    model = build_oracle(replace(case, fields=fields), directory)
    config = AutoConfig.for_model("deepseek_v2", **BASE, **own, topk_method="greedy",
                                  routed_scaling_factor=1.0)  # fmt: skip
    config._experts_implementation = "eager"
    for i, layer in enumerate(model.model.layers):
        if i >= own["first_k_dense_replace"] and i % own["moe_layer_freq"] == 0:
            layer.mlp = DeepseekV2Moe(config).eval()
            with torch.no_grad():
                for parameter in layer.mlp.parameters():
                    parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
            if own["norm_topk_prob"]:
                layer.mlp.gate.forward = normalising(layer.mlp.gate.forward)
    save_file(dict(spelled_out(model.state_dict())), directory / "model.safetensors")
    values = json.loads((directory / "config.json").read_text())
    values |= {**own, "architectures": ["DeepseekForCausalLM"], "scoring_func": "softmax"}
    (directory / "config.json").write_text(json.dumps(values))
    return model


def normalising(forward: Callable[..., Any]) -> Callable[..., Any]:
    """DeepSeek-MoE divides by the sum if it is told to; transformers' DeepSeek-V2 never does."""

    def normalised(x: Any) -> Any:
        logits, weights, ids = forward(x)
        return logits, weights / weights.sum(dim=-1, keepdim=True), ids

    return normalised


def spelled_out(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Experts one by one, as the hub has them."""
    for name, tensor in state.items():
        stem = name.rpartition(".")[0]
        for e, matrix in enumerate(tensor if ".mlp.experts." in name else ()):
            if name.endswith("gate_up_proj"):
                for half, kind in zip(matrix.chunk(2), ("gate", "up"), strict=True):
                    yield f"{stem}.{e}.{kind}_proj.weight", half.contiguous()
            else:
                yield f"{stem}.{e}.down_proj.weight", matrix.contiguous()
        if ".mlp.experts." not in name:
            yield name, tensor.contiguous()


# --- logits


@each_backend
@each_family
def test_prefill_in_pieces(case: Case, backend: str, oracles: Callable[[Case], Oracle]) -> None:
    need(backend)
    oracle = oracles(case)
    model = Model(oracle.loaded, backend, threads=2)
    for pieces in (None, [17, 1, 22]):
        logits = model.logits(oracle.tokens, pieces)
        assert distance(logits, oracle.logits) < TOLERANCE, pieces


@pytest.mark.parametrize("backend", ["reference", "native-auto"])
@each_case
def test_decode_token_by_token(case: Case, backend: str, oracles: Callable[[Case], Oracle]) -> None:
    oracle = oracles(case)
    logits = Model(oracle.loaded, backend).logits(oracle.tokens, [1] * len(oracle.tokens))
    assert distance(logits, oracle.logits) < TOLERANCE


@each_case
def test_the_same_bits_in_any_pieces(case: Case, oracles: Callable[[Case], Oracle]) -> None:
    oracle = oracles(case)
    whole = Model(oracle.loaded, "native-auto", threads=2).logits(oracle.tokens)
    for pieces in ([1] * len(oracle.tokens), [3, 20, 17]):
        part = Model(oracle.loaded, "native-auto").logits(oracle.tokens, pieces)
        np.testing.assert_array_equal(part, whole)


# --- sight


def with_mixture(
    spec: ModelSpec, change: Callable[[MixtureOfExperts], MixtureOfExperts]
) -> ModelSpec:
    def changed(block: Any) -> Any:
        is_mixture = isinstance(block.mlp, MixtureOfExperts)
        return replace(block, mlp=change(block.mlp)) if is_mixture else block

    return replace(spec, blocks=tuple(changed(block) for block in spec.blocks))


def with_router(spec: ModelSpec, **fields: Any) -> ModelSpec:
    return with_mixture(spec, lambda m: replace(m, router=replace(m.router, **fields)))


def with_experts(spec: ModelSpec, change: Callable[[GatedMLP], GatedMLP]) -> ModelSpec:
    return with_mixture(
        spec, lambda m: replace(m, experts=tuple(change(each) for each in m.experts))
    )


def mistakes(spec: ModelSpec, router: Router, mixture: MixtureOfExperts) -> Iterator[Any]:
    """Specs that are wrong in one way each."""
    yield "gate and up swapped", with_experts(spec, lambda m: replace(m, gate=m.up, up=m.gate))
    yield (
        "the experts in another order",
        with_mixture(spec, lambda m: replace(m, experts=m.experts[::-1])),
    )
    if router.top_k > 1 and router.scoring != "sparsemixer":
        yield "one expert fewer", with_router(spec, top_k=router.top_k - 1)
        yield "the other normalisation", with_router(spec, normalised=not router.normalised)
    other = "softmax" if router.scoring == "sigmoid" else "sigmoid"
    if router.top_k > 1 or not router.normalised:
        yield "the other scores", with_router(spec, scoring=other)
    if router.scale != 1:
        yield "no scale", with_router(spec, scale=1.0)
    if router.selection_bias is not None:
        yield "no selection bias", with_router(spec, selection_bias=None)
    if router.bias is not None:
        yield "no router bias", with_router(spec, bias=None)
    if router.groups is not None:
        yield "no groups", with_router(spec, groups=None)
        kind = "max" if router.groups.score == "top2_sum" else "top2_sum"
        yield (
            "groups by another score",
            with_router(spec, groups=replace(router.groups, score=kind)),
        )
    if mixture.shared is not None:
        yield (
            "no shared expert",
            with_mixture(spec, lambda m: replace(m, shared=None, shared_gate=None)),
        )
    if mixture.shared_gate is not None:
        yield "no shared gate", with_mixture(spec, lambda m: replace(m, shared_gate=None))
    if router.least_sum > 1e-3:
        yield "no least sum", with_router(spec, least_sum=1e-20)
    if router.scoring == "sparsemixer":
        yield "another jitter", with_router(spec, jitter=router.jitter / 3)
    if mixture.experts[0].activation == "clamped_swiglu":
        yield "another alpha", with_experts(spec, lambda m: replace(m, alpha=1.0))
        yield "another limit", with_experts(spec, lambda m: replace(m, limit=1000.0))


@each_case
def test_the_oracle_sees_every_mistake(case: Case, oracles: Callable[[Case], Oracle]) -> None:
    oracle = oracles(case)
    spec = oracle.loaded.spec
    mixture = next(b.mlp for b in spec.blocks if isinstance(b.mlp, MixtureOfExperts))
    seen = {}
    for name, wrong in mistakes(spec, mixture.router, mixture):
        logits = Model(Loaded(wrong, oracle.loaded.weights)).logits(oracle.tokens)
        seen[name] = distance(logits, oracle.logits)
    unseen = {name: moved for name, moved in seen.items() if moved < SIGHT}
    assert not unseen, seen
    assert len(seen) >= 2


def test_every_mistake_is_tried(oracles: Callable[[Case], Oracle]) -> None:
    tried = set()
    for case in CASES:
        spec = oracles(case).loaded.spec
        mixture = next(b.mlp for b in spec.blocks if isinstance(b.mlp, MixtureOfExperts))
        tried |= {name for name, _ in mistakes(spec, mixture.router, mixture)}
    assert {"no scale", "no selection bias", "no groups", "no shared gate"} <= tried
    assert {"the other normalisation", "groups by another score", "no shared expert"} <= tried
