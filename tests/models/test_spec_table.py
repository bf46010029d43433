"""A spec in words: equal layers share a line, and nothing that is set goes unsaid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.models.spec_table import layer_lines, ranges, spec_lines


def spec_of(architecture: str, **changes: object) -> ModelSpec:
    tiny = load_families()[architecture].tiny
    return build_spec({"architectures": [architecture], **tiny, **changes})


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0], "0"),
        (range(28), "0-27"),
        ([0, 1, 3, 5, 6], "0-1, 3, 5-6"),
        ([1, 3, 5, 7], "1, 3 .. 7"),
        ([0, 2], "0, 2"),
        ([0, 2, 3], "0, 2-3"),
    ],
)
def test_ranges(numbers: list[int], expected: str) -> None:
    assert ranges(numbers) == expected


def test_a_decoder_in_words() -> None:
    spec = spec_of("Qwen2ForCausalLM", tie_word_embeddings=True, num_hidden_layers=3)
    assert spec_lines(spec) == [
        "embedding    128 x 64",
        "layers 0-2   norm RMS 1e-06; attention 4 heads / 2 kv x 16, rope 10000, window none, "
        "bias q k v; norm RMS 1e-06; mlp gated silu 96",
        "behind them  norm RMS 1e-06",
        "output       128 logits, tied to the embedding",
    ]


def test_layers_that_differ_have_lines_of_their_own() -> None:
    spec = spec_of(
        "Qwen2ForCausalLM",
        num_hidden_layers=5,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    )
    lines = layer_lines(spec)
    assert [name for name, _ in lines] == ["layers 0, 2, 4", "layers 1, 3"]
    assert "window none" in lines[0][1]
    assert "window 8" in lines[1][1]


def test_an_encoder_in_words() -> None:
    text = "\n".join(spec_lines(spec_of("XLMRobertaForSequenceClassification")))
    assert "learned positions 64, types 2, norm layer 1e-12" in text
    assert (
        "no rope, window none, bias q k v o, bidirectional; norm layer 1e-12; mlp gelu 96" in text
    )
    assert "1 scores, tanh" in text


def test_what_is_set_is_said() -> None:
    spec = spec_of("Qwen3ForCausalLM")
    block = spec.blocks[0]
    attention = replace(block.attention, scale=0.5, norm_rotated=True)
    spec = replace(
        spec,
        blocks=(replace(block, attention=attention, residual_scale=0.25),),
        logit_scale=0.5,
        logit_cap=30.0,
        embedding=replace(spec.embedding, scale=8.0),
    )
    text = "\n".join(spec_lines(spec))
    for said in (
        "times 8",
        "norm RMS 1e-06 on q and k",
        "scale 0.5, norm rotated",
        "residual scale 0.25",
        "a head of its own, times 0.5, capped at 30",
    ):
        assert said in text


def test_parallel_parts_in_words() -> None:
    one, two = (spec_lines(spec_of(f"{name}ForCausalLM"))[1] for name in ("Cohere", "GPTNeoX"))
    assert "norm layer 1e-05; attention 4" in one
    assert "norm layer 1e-05 by head on q and k; mlp gated silu 96; parallel" in one
    assert "; norm layer 1e-05; mlp gelu 96, bias; parallel" in two


def test_experts_in_words() -> None:
    text = "\n".join(spec_lines(spec_of("Qwen2MoeForCausalLM")))
    assert "3 of 8 experts by softmax, each mlp gated silu 48, shared mlp gated silu 96" in text


@pytest.mark.parametrize("architecture", sorted(load_families()))
def test_every_family_has_words(architecture: str) -> None:
    spec = spec_of(architecture)
    assert sum(line.startswith("layers ") for line in spec_lines(spec)) >= 1


def test_a_rotation_of_a_part_is_said() -> None:
    spec = spec_of("Qwen3ForCausalLM")
    block = spec.blocks[0]
    assert block.attention.rope is not None
    rope = replace(block.attention.rope, dims=8, pairing="interleaved")
    spec = replace(spec, blocks=(replace(block, attention=replace(block.attention, rope=rope)),))
    assert "rope 10000 on 8 of 32 interleaved" in "\n".join(spec_lines(spec))
