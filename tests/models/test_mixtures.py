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

from quire.models.spec import GatedMLP, MixtureOfExperts, ModelSpec, Router
from quire.runtime.quantize import quantize_weights
from tests.models.case import Case
from tests.models.cases_mixtures import BASE, CASES
from tests.models.checkpoints import build_oracle, oracle_logits, random_tokens
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, load, need
from tests.models.greedy import assert_greedy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-4
SIGHT = 10 * TOLERANCE
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_family = pytest.mark.parametrize("case", CASES[::3], ids=str)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(frozen=True)
class Oracle:
    """A checkpoint as it was read, and what transformers says of a prompt."""

    loaded: Loaded
    tokens: list[int]
    logits: Float32
    model: Any


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Oracle]:
    """The oracle of a case, built once."""
    built: dict[str, Oracle] = {}

    def oracle(case: Case) -> Oracle:
        if case.name not in built:
            directory = tmp_path_factory.mktemp(case.name)
            make = deepseek_oracle if case.model_type == "deepseek" else build_oracle
            model = make(case, directory)
            tokens = random_tokens(case)
            logits = oracle_logits(model, tokens)
            built[case.name] = Oracle(load(directory), tokens, logits, model)
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
    model = build_oracle(replace(case, model_type="llama", fields=fields), directory)
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
def test_64_greedy_tokens(case: Case, oracles: Callable[[Case], Oracle]) -> None:
    oracle = oracles(case)

    def expected(prompt: list[int], output: list[int]) -> Float32:
        return oracle_logits(oracle.model, prompt + output)

    model = Model(oracle.loaded, "native-auto")
    assert_greedy(model, oracle.model, len(oracle.tokens), expected)


@each_case
def test_the_same_bits_in_any_pieces(case: Case, oracles: Callable[[Case], Oracle]) -> None:
    oracle = oracles(case)
    whole = Model(oracle.loaded, "native-auto", threads=2).logits(oracle.tokens)
    for pieces in ([1] * len(oracle.tokens), [3, 20, 17]):
        part = Model(oracle.loaded, "native-auto").logits(oracle.tokens, pieces)
        np.testing.assert_array_equal(part, whole)


@pytest.mark.parametrize("scheme", ["int4", "int8"])
@pytest.mark.parametrize("name", ["qwen2-moe", "gpt-oss"])
def test_experts_in_integers(name: str, scheme: str, oracles: Callable[[Case], Oracle]) -> None:
    """Every matrix but the routers is packed; a row still has the same bits in any pieces."""
    oracle = oracles(next(case for case in CASES if case.name == name))
    spec, weights = oracle.loaded.spec, oracle.loaded.weights
    packed = quantize_weights(weights, spec, scheme, None, threads=1)
    floats = {name for name, weight in packed.items() if weight.dtype == "F32"}
    assert all(name.endswith(("norm.weight", "bias", "sinks")) or "gate.weight" in name
               or "router" in name or "embed" in name for name in floats)  # fmt: skip
    loaded = Loaded(spec, packed)
    expected = Model(loaded).logits(oracle.tokens)
    whole = Model(loaded, "native-auto", threads=2).logits(oracle.tokens)
    near = np.abs(whole - expected).mean() / np.abs(expected).mean()
    assert near < 0.02, "rounded inputs and all"
    pieces = [1] * len(oracle.tokens)
    part = Model(loaded, "native-auto").logits(oracle.tokens, pieces)
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
    if mixture.scales_inputs:
        yield "outputs scaled", with_mixture(spec, lambda m: replace(m, scales_inputs=False))
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
