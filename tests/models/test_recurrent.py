"""Recurrent layers: each mistake that one could make moves the logits visibly; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from quire.errors import ModelError
from quire.models.config_reader import read_json
from quire.models.families.falcon_h1 import NEUTRAL
from quire.models.recurrent import GatedDeltaNet, Mamba2, ParallelMixers
from quire.models.registry import build_spec, load_families
from quire.models.spec import MLP, Attention, ModelSpec
from quire.weights.checkpoint import open_checkpoint
from quire.weights.loader import load_weights
from tests.models.case import Case
from tests.models.cases_recurrent import CASES
from tests.models.computing import Loaded, Model, distance
from tests.models.test_oracle import SIGHT, Oracles, oracles

__all__ = ["oracles"]  # the fixture

HYBRIDS = (
    *("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM"),
    *("GraniteMoeHybridForCausalLM", "NemotronHForCausalLM"),
)


def with_mixers(spec: ModelSpec, kind: type, change: Callable[[Any], Any]) -> ModelSpec:
    """The spec with every layer of a kind changed."""

    def changed(mixer: Any) -> Any:
        if isinstance(mixer, ParallelMixers):
            return ParallelMixers(changed(mixer.attention), changed(mixer.recurrent))
        return change(mixer) if isinstance(mixer, kind) else mixer

    blocks = tuple(replace(each, attention=changed(each.attention)) for each in spec.blocks)
    return replace(spec, blocks=blocks)


def mlp_mistakes(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    """Of MLPs without a gate."""
    if any(isinstance(each.mlp, MLP) for each in spec.blocks):
        blocks = tuple(
            replace(each, mlp=replace(each.mlp, activation="relu"))
            if isinstance(each.mlp, MLP)
            else each
            for each in spec.blocks
        )
        yield "no square", replace(spec, blocks=blocks)


def mistakes(spec: ModelSpec) -> Iterator[tuple[str, ModelSpec]]:
    """Specs that are wrong in one way each."""

    def nets(**fields: Callable[[Any], Any]) -> ModelSpec:
        change = lambda part: replace(part, **{k: v(part) for k, v in fields.items()})  # noqa: E731
        return with_mixers(spec, (GatedDeltaNet, Mamba2), change)  # type: ignore[arg-type]

    mixers = [mixer for each in spec.blocks for mixer in each.mixers]
    if isinstance(spec.blocks[0].attention, ParallelMixers):
        for name in ("attention", "recurrent"):
            yield f"{name} alone", alone(spec, name)
        yield "another scale", with_mixers(spec, Attention, lambda a: replace(a, scale=0.5))
    net = spec.recurrent[0]
    yield "queries and keys swapped", nets(query=lambda n: n.key, key=lambda n: n.query)
    if net.norm is not None:
        yield "a larger epsilon", nets(norm=lambda n: replace(n.norm, eps=0.1))
    if isinstance(net, GatedDeltaNet):
        yield "beta and decay swapped", nets(beta=lambda n: n.decay, decay=lambda n: n.beta)
        yield (
            "decay's vectors swapped",
            nets(decay_log=lambda n: n.decay_bias, decay_bias=lambda n: n.decay_log),
        )
        yield "norm of 1 + weight", nets(norm=lambda n: replace(n.norm, offset=1.0))
    else:
        yield (
            "decay's vectors swapped",
            nets(decay_log=lambda n: n.step_bias, step_bias=lambda n: n.decay_log),
        )
        yield "another skip", nets(skip=lambda n: n.step_bias)
        yield "longer steps", nets(least_step=lambda n: n.least_step + 0.8)
        yield "shorter steps", nets(most_step=lambda n: min(n.most_step, 1.2) - 0.6)
        if net.norm is not None:
            yield "no norm", nets(norm=lambda n: None)
    if net.convolution.biases:
        bare = lambda n: replace(n.convolution, biases=())  # noqa: E731
        yield "no biases of the convolution", nets(convolution=bare)
    if any(isinstance(each, Attention) and each.gate for each in mixers):
        gateless = lambda a: replace(a, gate=None)  # noqa: E731
        yield "no gate", with_mixers(spec, Attention, gateless)
    yield from mlp_mistakes(spec)
    no_rope = lambda a: replace(a, rope=None)  # noqa: E731
    if spec.ropes:
        yield "no rotation", with_mixers(spec, Attention, no_rope)


@pytest.mark.oracle
@pytest.mark.parametrize("key", [*NEUTRAL, "key_multiplier"])
def test_every_multiplier_counts(key: str, oracles: Oracles) -> None:
    """Those that weights are multiplied by while they are read, each of a list by itself."""
    oracle = oracles(next(case for case in CASES if case.name == "falcon-h1"))
    config = read_json(oracle.directory / "config.json")
    given = config[key]
    for at in range(len(given)) if isinstance(given, list) else [None]:
        other = 1.0 if at is None else [1.0 if i == at else x for i, x in enumerate(given)]
        spec = build_spec({**config, key: other})
        weights = load_weights(open_checkpoint(oracle.directory), spec.weights())
        logits = Model(Loaded(spec, weights)).logits(oracle.tokens)
        assert distance(logits, oracle.logits) > SIGHT, (key, at)


def alone(spec: ModelSpec, name: str) -> ModelSpec:
    """With one of the mixers that stand beside each other."""
    blocks = tuple(replace(each, attention=getattr(each.attention, name)) for each in spec.blocks)
    return replace(spec, blocks=blocks)


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_oracle_sees_every_mistake(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)
    seen = {}
    for name, spec in mistakes(oracle.loaded.spec):
        logits = Model(Loaded(spec, oracle.loaded.weights)).logits(oracle.tokens)
        seen[name] = distance(logits, oracle.logits)
    unseen = {name: moved for name, moved in seen.items() if moved < SIGHT}
    assert not unseen, seen
    assert len(seen) >= 5


def test_steps_of_nemotron_h_are_bound_by_one_key() -> None:
    """time_step_min is of the training; transformers takes it for the least step all the same."""
    plain = tiny("NemotronHForCausalLM", time_step_min=0.5, time_step_floor=0.5)
    bound = tiny("NemotronHForCausalLM", time_step_min=0.5, time_step_limit=[0.25, 2.0])
    for spec, steps in ((plain, (0.0, float("inf"))), (bound, (0.25, 2.0))):
        assert {(each.least_step, each.most_step) for each in spec.recurrent} == {steps}


def tiny(architecture: str, **changes: Any) -> ModelSpec:
    given = {**load_families()[architecture].tiny, "architectures": [architecture], **changes}
    return build_spec(given)


def test_a_language_model_inside_another_config_is_the_same() -> None:
    inner = tiny("Qwen3_5ForCausalLM")
    name = "Qwen3_5ForConditionalGeneration"
    text = {**load_families()["Qwen3_5ForCausalLM"].tiny, "model_type": "qwen3_5_text"}
    fields = {"text_config": text, "vision_config": {"depth": 2}, "image_token_id": 7}
    outer = build_spec({"architectures": [name], **fields})
    assert replace(outer, unused=inner.unused) == inner


@pytest.mark.parametrize("architecture", HYBRIDS)
def test_only_layers_with_attention_have_a_cache(architecture: str) -> None:
    spec = tiny(architecture)
    assert 0 < len(spec.attentions) < len(spec.blocks)
    assert spec.state_floats > 0 and spec.window is None


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        (HYBRIDS[0], {"linear_num_value_heads": 3}, "not a multiple of linear_num_key_heads 2"),
        (HYBRIDS[0], {"linear_conv_kernel_dim": 9}, "at most 8 are read"),
        (HYBRIDS[0], {"hidden_act": "relu"}, "with silu only"),
        (HYBRIDS[1], {"layer_types": ["linear_attention"] * 4}, "no full_attention layer"),
        (HYBRIDS[1], {"layer_types": ["sliding_attention"] * 4}, "expected 4 of"),
        (HYBRIDS[2], {"mamba_n_groups": 3}, "not a multiple of 3 groups"),
        (HYBRIDS[2], {"mamba_d_head": 12}, "mamba_expand"),
        (HYBRIDS[2], {"time_step_limit": [0.1]}, "expected two numbers"),
        (HYBRIDS[2], {"position_embedding_type": "alibi"}, "alibi"),
        (HYBRIDS[2], {"layer_types": ["mamba"] * 4}, "no attention layer"),
        (HYBRIDS[3], {"hybrid_override_pattern": "MM--"}, "no attention"),
        (HYBRIDS[3], {"hybrid_override_pattern": "MX*-"}, "X are not computed"),
        (HYBRIDS[3], {"num_hidden_layers": 5}, "of 6 layers"),
        (HYBRIDS[3], {"mamba_proj_bias": True}, "use_bias is not"),
    ],
)
def test_what_is_not_computed_is_refused(
    architecture: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        tiny(architecture, **changes)
