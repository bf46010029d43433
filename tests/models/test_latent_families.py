"""Families with latent attention compute what transformers computes, on every backend.

transformers expands keys and values and we never do, so this is another way to the same numbers.
On native, chunks and single tokens give the very bits of one piece.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.config_reader import read_json
from quire.models.families.latent import LATENT_TINY
from quire.models.registry import build_spec
from quire.models.rope import RopeScaling
from quire.models.spec import LatentAttention, ModelSpec
from tests.models.case import Case
from tests.models.checkpoints import (
    BASE,
    build_oracle,
    old_spelling,
    oracle_logits,
    random_tokens,
)
from tests.models.computing import BACKENDS, Loaded, Model, distance, load, need
from tests.models.greedy import assert_greedy
from tests.models.test_oracle import SIGHT, TOLERANCE, Oracle, read_model

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

# It has the class, and its table of causal models does not name it.
transformers.AutoModelForCausalLM.register(
    transformers.Mistral4Config,
    importlib.import_module("transformers.models.mistral4").Mistral4ForCausalLM,
    exist_ok=True,
)

SHAPES: tuple[Mapping[str, Any], ...] = (
    {},
    {
        "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3,
        "q_lora_rank": 20, "kv_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
        "v_head_dim": 20, "attention_bias": True,
    },
    {
        "num_hidden_layers": 3, "num_attention_heads": 1, "num_key_value_heads": 1,
        "q_lora_rank": None, "kv_lora_rank": 20, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
        "v_head_dim": 33, "intermediate_size": 80, "rms_norm_eps": 1e-3,
    },
)  # fmt: skip
"""Three models that differ in every size."""


def _yarn(mscale: float | None, all_dim: float | None) -> dict[str, Any]:
    """Prompts of 40 tokens are beyond the 16 of the original context."""
    scales = {"mscale": mscale, "mscale_all_dim": all_dim} if mscale else {}
    return {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
        "original_max_position_embeddings": 16, **scales,
    }}  # fmt: skip


def _longrope() -> dict[str, Any]:
    """Prompts of 40 tokens are beyond the 32 of the original context: the long factors."""
    factors = {"short_factor": [1.0, 1.2], "long_factor": [1.5, 4.0]}
    return {
        "original_max_position_embeddings": 32,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, **factors},
    }


STEPS = {
    "type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
    "original_max_position_embeddings": 16, "max_position_embeddings": 256,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}  # fmt: skip
MINICPM3 = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16}
EXPERTS = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 1,
}
DENSE = EXPERTS | {"first_k_dense_replace": 9}
GROUPS = {"n_group": 4, "topk_group": 2}
UNPADDED = {"pad_token_id": None}
"""Else transformers' Youtu clears the row of that token when it reads a checkpoint."""
KINDS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "minicpm3": (
        MINICPM3 | {"tie_word_embeddings": False},
        MINICPM3 | {"scale_emb": 2.5, "scale_depth": 0.9} | _yarn(None, None),
        MINICPM3 | {"dim_model_base": 40, "mlp_bias": True} | _longrope(),
    ),
    "youtu": (
        UNPADDED,
        UNPADDED | {"rope_interleave": False} | _yarn(1.0, 1.0),
        UNPADDED | {"tie_word_embeddings": False}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "deepseek_v2": (
        DENSE | {"routed_scaling_factor": 2.0},
        EXPERTS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}
        | GROUPS | _yarn(1.0, 0.5),
        EXPERTS | {"tie_word_embeddings": True, "first_k_dense_replace": 0},
    ),
    "deepseek_v3": (
        DENSE | GROUPS,
        EXPERTS | GROUPS | {"rope_interleave": False},
        EXPERTS | {"n_group": 1, "topk_group": 1, "n_shared_experts": 2} | _yarn(1.0, 1.0),
    ),
    "mistral4": (
        EXPERTS | GROUPS | {"first_k_dense_replace": 0, "rope_parameters": STEPS},
        EXPERTS | {"n_shared_experts": 2, "norm_topk_prob": False, "routed_scaling_factor": 3.0}
        | {"rope_parameters": STEPS | {"llama_4_scaling_beta": 0.7, "factor": 4.0}},
        EXPERTS | GROUPS | {"rope_interleave": False, "routed_scaling_factor": 2.0}
        | {"rope_parameters": STEPS | {"mscale_all_dim": 0.5, "rope_theta": 500.0}},
    ),
    "glm4_moe_lite": (
        EXPERTS | {"mlp_layer_types": ["dense", "sparse"], "routed_scaling_factor": 1.8},
        EXPERTS | {"mlp_layer_types": ["sparse"] * 2, "norm_topk_prob": False, **GROUPS}
        | _yarn(1.0, 1.0),
        EXPERTS | {"mlp_layer_types": ["dense", "dense", "sparse"], "n_shared_experts": 2},
    ),
}  # fmt: skip
CASES = tuple(
    Case(f"{kind}-{i}", kind, {**BASE, **LATENT_TINY, **SHAPES[i], **fields})
    for kind, all_fields in KINDS.items()
    for i, fields in enumerate(all_fields)
)
each_case = pytest.mark.parametrize("case", CASES, ids=str)
Oracles = Callable[[Case], Oracle]


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Oracles:
    """The oracle of a case, built once."""
    built: dict[str, Oracle] = {}

    def oracle(case: Case) -> Oracle:
        if case.name not in built:
            directory = tmp_path_factory.mktemp(case.name)
            build_oracle(case, directory)
            model, tokens = read_model(directory, "float32"), random_tokens(case)
            logits = oracle_logits(model, tokens)
            built[case.name] = Oracle(case, directory, load(directory), tokens, logits, model)
        return built[case.name]

    return oracle


@pytest.mark.parametrize("backend", BACKENDS)
@each_case
def test_logits(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    whole = Model(oracle.loaded, backend).logits(oracle.tokens)
    assert distance(whole, oracle.logits) < TOLERANCE
    for pieces in ([17, 1, 22], [1] * len(oracle.tokens)):
        cut = Model(oracle.loaded, backend, threads=2).logits(oracle.tokens, pieces)
        assert distance(cut, oracle.logits) < TOLERANCE
        assert not backend.startswith("native") or np.array_equal(cut, whole)


@each_case
def test_64_greedy_tokens(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)

    def expected(prompt: list[int], output: list[int]) -> Any:
        return oracle_logits(oracle.model, prompt + output)

    assert_greedy(Model(oracle.loaded, "native-auto"), oracle.model, len(oracle.tokens), expected)


@pytest.mark.parametrize("kv_format", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("backend", ["reference", "native-portable"])
def test_a_narrow_cache_changes_little(kv_format: str, backend: str, oracles: Oracles) -> None:
    oracle = oracles(next(case for case in CASES if case.name.startswith("deepseek_v2")))
    logits = Model(oracle.loaded, backend, kv_format).logits(oracle.tokens)
    assert TOLERANCE / 10 < distance(logits, oracle.logits) < 0.03


@each_case
def test_the_old_spelling_gives_the_same_spec(case: Case, oracles: Oracles, tmp_path: Path) -> None:
    oracle = oracles(case)
    shutil.copy(oracle.directory / "config.json", tmp_path)
    old_spelling(case, tmp_path)
    assert build_spec(read_json(tmp_path / "config.json")) == oracle.loaded.spec


def mistakes(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    """Specs that are wrong in one way each."""
    first = spec.blocks[0].attention
    assert isinstance(first, LatentAttention)

    def changed(make: Callable[[Any], dict[str, Any]]) -> ModelSpec:
        blocks = (
            replace(b, attention=replace(b.attention, **make(b.attention))) for b in spec.blocks
        )
        return replace(spec, blocks=tuple(blocks))

    pairing = "half" if first.rope.pairing == "interleaved" else "interleaved"
    yield "the other pairing", changed(lambda a: {"rope": replace(a.rope, pairing=pairing)})
    yield "theta x50", changed(lambda a: {"rope": replace(a.rope, theta=a.rope.theta * 50)})
    yield "scale x1.5", changed(lambda a: {"scale": a.scale * 1.5})
    yield (
        "a larger epsilon within",
        changed(lambda a: {"latent_norm": replace(a.latent_norm, eps=0.3)}),
    )
    if first.query_norm is not None:
        yield "no query norm", changed(lambda a: {"query_norm": None})
    if first.output.bias is not None:
        bare = lambda a: {"output": replace(a.output, bias=None)}  # noqa: E731
        yield "no bias", changed(bare)
    if first.rope.scaling.kind != "default":
        bare = lambda a: {"rope": replace(a.rope, scaling=RopeScaling())}  # noqa: E731
        yield "no rope scaling", changed(bare)
    if first.query_rule is not None:
        yield "no scale by position", changed(lambda a: {"query_rule": None})
    if spec.embedding.scale != 1:
        unscaled = replace(spec.embedding, scale=spec.embedding.scale * 1.1)
        yield "another embedding scale", replace(spec, embedding=unscaled)
        halved = tuple(replace(b, residual_scale=b.residual_scale / 2) for b in spec.blocks)
        yield "another residual scale", replace(spec, blocks=halved)
        yield "another logit scale", replace(spec, logit_scale=spec.logit_scale * 1.1)


@each_case
def test_the_oracle_sees_every_mistake(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)
    spec = oracle.loaded.spec
    seen = {}
    for name, wrong in mistakes(spec):
        logits = Model(Loaded(wrong, oracle.loaded.weights)).logits(oracle.tokens)
        seen[name] = distance(logits, oracle.logits)
    assert not {name: moved for name, moved in seen.items() if moved < SIGHT}, seen
    assert len(seen) >= 4
