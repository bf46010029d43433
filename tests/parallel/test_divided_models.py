"""Every registered family computes the same on several ranks as on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.errors import ConfigError
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec, Weight, parts
from quire.ops.batch import Batch
from quire.ops.collective import AllReduce
from quire.ops.op import Float32
from quire.parallel.divide import Rank, divide
from quire.runtime.rope_tables import RopeTables
from tests.graph.interpreting import random_weights
from tests.parallel.ranks import held_part, logits_of_ranks

FAMILIES = tuple(load_families())
BOUND = 2e-5
"""Sums of partial sums, in float32; the largest seen is 2e-6 of the largest logit."""


def tiny(family: str, **changes: Any) -> ModelSpec:
    return build_spec({**load_families()[family].tiny, "architectures": [family], **changes})


each_family = pytest.mark.parametrize("family", FAMILIES)
each_mixture = pytest.mark.parametrize("family", [f for f in FAMILIES if tiny(f).expert_matrices])


def steps(spec: ModelSpec) -> list[Batch]:
    """A prompt of 19 tokens in two chunks and one token behind it, logits of every token."""
    random = np.random.default_rng(3)
    tokens = random.integers(0, spec.vocab_size, 20).tolist()
    frequencies = RopeTables(spec.ropes, 1).arrays
    table = np.array([4, 1], np.int32)
    pieces = [(tokens[:11], 0), (tokens[11:19], 11), (tokens[19:], 19)]
    return [Batch.single(piece, start, table, frequencies) for piece, start in pieces]


def together(found: list[Float32]) -> Float32:
    return np.concatenate(found)


def agree(spec: ModelSpec, **layout: int) -> None:
    weights, batches = random_weights(spec), steps(spec)
    (alone,) = logits_of_ranks(spec, weights, batches)
    expected = together(alone)
    assert np.isfinite(expected).all()
    for rank in logits_of_ranks(spec, weights, batches, **layout):
        error = np.abs(together(rank) - expected).max() / np.abs(expected).max()
        assert error < BOUND, error


@each_family
def test_two_tensor_parallel_ranks(family: str) -> None:
    agree(tiny(family), tensor=2)


@each_family
def test_two_pipeline_stages(family: str) -> None:
    agree(tiny(family), stages=2)


@each_family
def test_both_at_once(family: str) -> None:
    agree(tiny(family), tensor=2, stages=2)


@each_mixture
def test_each_rank_has_half_of_the_experts(family: str) -> None:
    spec = tiny(family)
    agree(spec, tensor=2, whole_experts=True)
    agree(spec, tensor=2, stages=2, whole_experts=True)
    held = [divide(spec, Rank(index, 2), whole_experts=True).spec for index in range(2)]
    experts = [each.expert_matrices for each in held]
    assert experts[0] and experts[1] and not experts[0] & experts[1]
    assert experts[0] | experts[1] == spec.expert_matrices


def test_experts_that_two_ranks_share_unevenly() -> None:
    agree(tiny("MixtralForCausalLM", num_local_experts=5), tensor=2, whole_experts=True)
    with pytest.raises(ConfigError, match="5 experts cannot be divided by 8 ranks"):
        divide(
            tiny(
                "MixtralForCausalLM",
                num_local_experts=5,
                num_attention_heads=8,
                num_key_value_heads=8,
            ),
            Rank(0, 8),
            whole_experts=True,
        )


def test_norms_of_whole_rows_with_keys_on_several_ranks() -> None:
    spec = tiny("Olmo2ForCausalLM", num_attention_heads=8, num_key_value_heads=2)
    with pytest.raises(ConfigError, match="2 key/value heads cannot be divided by 4 ranks"):
        divide(spec, Rank(0, 4))


def test_four_ranks_share_two_key_heads() -> None:
    agree(tiny("LlamaForCausalLM", num_attention_heads=8, num_key_value_heads=2), tensor=4)


def test_biases_behind_partial_sums_are_added_once() -> None:
    agree(tiny("LlamaForCausalLM", attention_bias=True, mlp_bias=True), tensor=2)


@pytest.mark.parametrize("tied", [False, True])
def test_an_odd_vocabulary(tied: bool) -> None:
    agree(tiny("LlamaForCausalLM", vocab_size=131, tie_word_embeddings=tied), tensor=4)


@each_family
def test_the_parts_make_the_whole(family: str) -> None:
    """No weight of the model is lost, and what is divided is held once."""
    spec = tiny(family)
    shares = [divide(spec, Rank(index, 2)) for index in range(2)]
    for weight in parts(spec, Weight):
        held = [share.slices.get(weight.name) for share in shares]
        marks = np.zeros(weight.shape, np.float32)
        for share in shares:
            if weight.name in share.spec.weights():
                held_part(marks, share, weight.name)[:] += 1
        assert marks.min() >= 1, weight.name
        assert held[0] is None or marks.max() == 1, weight.name


@pytest.mark.parametrize("family", [f for f in FAMILIES if tiny(f).recurrent])
def test_a_rank_carries_its_part_of_the_states(family: str) -> None:
    spec = tiny(family)
    carried = [divide(spec, Rank(index, 2)).spec.state_floats for index in range(2)]
    assert carried[0] == carried[1] < 0.6 * spec.state_floats


def test_groups_of_mamba_heads_stay_whole() -> None:
    with pytest.raises(ConfigError, match="2 groups of Mamba heads cannot be divided by 4 ranks"):
        divide(tiny("NemotronHForCausalLM", num_key_value_heads=4), Rank(0, 4))
    agree(tiny("BambaForCausalLM", num_key_value_heads=4), tensor=4)


def test_heads_that_do_not_divide_are_refused() -> None:
    spec = tiny("LlamaForCausalLM")
    with pytest.raises(ConfigError, match=r"4 query heads cannot be divided by 3 ranks"):
        divide(spec, Rank(0, 3))
    with pytest.raises(ConfigError, match="pipeline stages"):
        agree(spec, stages=len(spec.blocks) + 1)


def test_a_lost_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sum behind a product of columns, the ranks would go on with a part of it."""
    monkeypatch.setattr(AllReduce, "reference", lambda self, env, rows: (rows,))
    with pytest.raises(AssertionError):
        agree(tiny("LlamaForCausalLM"), tensor=2)
