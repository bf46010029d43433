"""Rotations as config.json says them: both spellings, and every rule in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from quire.models.families.decoder import TINY
from quire.models.registry import build_spec
from quire.models.rope import (
    Rope,
    RopeScaling,
    longrope_attention_factor,
    yarn_attention_factor,
)
from tests.models.tiny import tiny

SCALINGS: Mapping[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "yarn-betas": {
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2.0,
    },
    "yarn-not-truncated": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
    },
    "yarn-attention-factor": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.25,
    },
    "yarn-mscale": {
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.8,
        "mscale_all_dim": 0.4,
    },
    "longrope": {
        "short_factor": [1 + 0.1 * i for i in range(32)],
        "long_factor": [1 + 0.5 * i for i in range(32)],
        "original_max_position_embeddings": 64,
    },
    "longrope-factors": {
        "short_factor": [1.0] * 32,
        "long_factor": [4] * 32,
        "original_max_position_embeddings": 64,
        "factor": 8.0,
        "attention_factor": 1.5,
    },
}


def kind_of(name: str) -> str:
    return name.partition("-")[0]


def rope_of(name: str, **changes: Any) -> Rope:
    values = {"rope_type": kind_of(name), "rope_theta": 5e5, **SCALINGS[name]}
    config = tiny(head_dim=64, max_position_embeddings=256, rope_parameters=values, **changes)
    return build_spec(config).blocks[0].attention.rope


@pytest.mark.parametrize("name", SCALINGS)
def test_both_spellings_of_rope_give_the_same_spec(name: str) -> None:
    kind, fields = kind_of(name), SCALINGS[name]
    new = tiny(head_dim=64, rope_parameters={"rope_type": kind, "rope_theta": 5e5, **fields})
    for key in ("type", "rope_type"):
        old = tiny(head_dim=64, rope_theta=5e5, rope_scaling={key: kind, **fields})
        assert build_spec(old) == build_spec(new)
    if name == "default":
        assert build_spec(tiny(head_dim=64, rope_theta=5e5, rope_scaling=None)) == build_spec(new)
    assert build_spec(new) != build_spec(tiny(head_dim=64))


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 256),
        ({"type": "linear", "factor": 4}, 1024),
        ({"type": "dynamic", "factor": 2.0}, 512),
        ({"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}, 512),
        ({"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, 256),
        ({"type": "yarn", "original_max_position_embeddings": 64}, 256),
        ({"type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32}, 256),
    ],
    ids=repr,
)
def test_the_model_length_follows_the_scaling(scaling: Any, length: int) -> None:
    assert build_spec(tiny(rope_scaling=scaling)).max_length == length


def test_default_and_linear_frequencies_in_closed_form() -> None:
    plain = [10000.0 ** (-i / 4) for i in range(4)]
    assert Rope(8, 10000.0).inverse_frequencies() == pytest.approx(plain)
    linear = Rope(8, 10000.0, scaling=RopeScaling("linear", 4.0))
    assert linear.inverse_frequencies() == pytest.approx([f / 4 for f in plain])


def test_dynamic_frequencies_in_closed_form() -> None:
    rope = Rope(8, 10000.0, scaling=RopeScaling("dynamic", 2.0, 100))
    assert (rope.length_class(100), rope.length_class(101)) == (0, 101)
    assert rope.inverse_frequencies() == Rope(8, 10000.0).inverse_frequencies()
    base = 10000.0 * (2 * 150 / 100 - 1) ** (8 / 6)
    assert rope.inverse_frequencies(150) == pytest.approx([base ** (-i / 4) for i in range(4)])


def test_only_dynamic_and_longrope_depend_on_the_length() -> None:
    for name in SCALINGS:
        rope = rope_of(name)
        classes = {"dynamic": 10_000, "longrope": 65}
        assert rope.length_class(10_000) == classes.get(kind_of(name), 0)
        assert rope.length_class(10) == 0


def test_longrope_in_closed_form() -> None:
    """One set of factors up to the trained length, the other for all longer prompts."""
    rope = rope_of("longrope")
    assert (rope.length_class(64), rope.length_class(65), rope.length_class(256)) == (0, 65, 65)
    plain = np.array(Rope(64, 5e5).inverse_frequencies())
    steps, factor = np.arange(32), math.sqrt(1 + math.log(256 / 64) / math.log(64))
    for length_class, slope in ((0, 0.1), (65, 0.5)):
        *found, scale = rope.table_row(length_class)
        assert found == pytest.approx(plain / (1 + slope * steps))
        assert scale == pytest.approx(factor)
    assert longrope_attention_factor(1.0, 64) == 1.0
    assert rope_of("longrope-factors").table_row()[-1] == 1.5


def test_longrope_with_a_scale_for_either_set() -> None:
    """As Phi-3.5-MoE has it."""
    fields = {**SCALINGS["longrope"], "short_mscale": 1.25, "long_mscale": 1.75}
    values = {"rope_type": "longrope", "rope_theta": 5e5, **fields}
    config = tiny(head_dim=64, max_position_embeddings=256, rope_parameters=values)
    rope = build_spec(config).ropes[0]
    assert (rope.table_row(0)[-1], rope.table_row(65)[-1]) == (1.25, 1.75)


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_the_names_of_longrope(kind: str) -> None:
    fields = {key: SCALINGS["longrope"][key] for key in ("short_factor", "long_factor")}
    found = build_spec(
        tiny(
            head_dim=64,
            rope_theta=5e5,
            max_position_embeddings=256,
            original_max_position_embeddings=64,
            rope_scaling={"type": kind, **fields},
        )
    )
    assert found.ropes[0] == rope_of("longrope")
    assert found.max_length == 256


def test_doubling_in_closed_form() -> None:
    """alpha = 2^ceil(log2(n / trained) + 1) - 1; all prompts up to the next power are alike."""
    rope = Rope(16, 1e4, scaling=RopeScaling("doubling", original_length=100))
    assert rope.length_class(100) == 0
    for length, top in ((101, 200), (200, 200), (201, 400), (1600, 1600)):
        assert rope.length_class(length) == top
        alpha = 2 ** math.ceil(math.log2(length / 100) + 1) - 1
        base = 1e4 * alpha ** (16 / 14)
        found = rope.inverse_frequencies(rope.length_class(length))
        assert found == pytest.approx([base ** (-i / 8) for i in range(8)])
    assert rope.inverse_frequencies(0) == Rope(16, 1e4).inverse_frequencies()


def test_llama3_frequencies_in_closed_form() -> None:
    """Wavelengths 2 pi f^-1 against 64/4 and 64/1: kept, blended, divided by 8."""
    rope = Rope(64, 1e4, scaling=RopeScaling("llama3", 8.0, 64, 1.0, 4.0))
    for found, plain in zip(
        rope.inverse_frequencies(), Rope(64, 1e4).inverse_frequencies(), strict=True
    ):
        turns = 64 * plain / (2 * math.pi)  # in the original context
        share = min(max((turns - 1) / 3, 0), 1)
        assert found == pytest.approx(share * plain + (1 - share) * plain / 8)


def test_yarn_frequencies_lie_between_plain_and_interpolated() -> None:
    found = np.array(rope_of("yarn").inverse_frequencies())
    plain = np.array(Rope(64, 5e5).inverse_frequencies())
    ratio = plain / found
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(4)
    assert np.all(np.diff(ratio) >= -1e-12)


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_frequencies_in_closed_form(truncate: bool) -> None:
    """The pair that turns once in the original length is fully interpolated, pair 0 not at all."""
    scaling = RopeScaling("yarn", 4.0, 64, truncate=truncate)
    found = Rope(16, 1e4, scaling=scaling).inverse_frequencies()
    border = 16 * math.log(64 / (2 * math.pi)) / (2 * math.log(1e4))
    assert 2 < border < 3
    for pair, plain in enumerate(Rope(16, 1e4).inverse_frequencies()):
        slow = min(pair / (3 if truncate else border), 1.0)
        assert found[pair] == pytest.approx(plain * (1 - slow) + plain / 4 * slow)


def test_yarn_attention_factors_in_closed_form() -> None:
    assert yarn_attention_factor(1.0) == 1.0
    assert yarn_attention_factor(4.0) == pytest.approx(0.1 * math.log(4) + 1)
    both = (0.08 * math.log(40) + 1) / (0.04 * math.log(40) + 1)
    assert yarn_attention_factor(40.0, 0.8, 0.4) == pytest.approx(both)
    assert yarn_attention_factor(40.0, 0.8) == yarn_attention_factor(40.0)
    assert rope_of("yarn-attention-factor").scaling.attention_factor == 1.25


@pytest.mark.oracle
@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("length", [None, 300, 1000])
@pytest.mark.parametrize("name", [name for name in SCALINGS if name != "default"])
def test_frequencies_of_transformers(name: str, length: int | None, partial: float) -> None:
    if kind_of(name) == "longrope" and partial != 1:
        pytest.skip("its lists of factors are as long as whole heads need")
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    values = {"rope_type": kind_of(name), "rope_theta": 5e5, "partial_rotary_factor": partial}
    config = transformers.LlamaConfig(
        head_dim=64, max_position_embeddings=256, rope_parameters={**values, **SCALINGS[name]}
    )
    compute = rope_utils.ROPE_INIT_FUNCTIONS[kind_of(name)]
    expected, factor = compute(config, "cpu", seq_len=length)
    rope = rope_of(name, partial_rotary_factor=partial)
    found = rope.inverse_frequencies(rope.length_class(length or 0))
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)
    assert rope.scaling.attention_factor == pytest.approx(factor)


@pytest.mark.oracle
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_default_frequencies_of_transformers(head_dim: int) -> None:
    pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = modeling.LlamaConfig(head_dim=head_dim)
    expected = modeling.LlamaRotaryEmbedding(config).inv_freq.numpy()
    found = Rope(head_dim, 10000.0).inverse_frequencies()
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_the_trained_length_may_stand_at_the_top() -> None:
    """As transformers has it, the top of config.json wins over the rope's own value."""
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = {**TINY, "architectures": ["LlamaForCausalLM"], "rope_scaling": rope}
    spec = build_spec({**config, "original_max_position_embeddings": 64})
    assert spec.blocks[0].attention.rope.scaling.original_length == 64
