"""Folding scales and rotating leave the float model as it is; observing changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.config import EngineConfig
from quire.convert.block_forward import BlockForward
from quire.convert.foldings import fold, foldings
from quire.convert.hadamard import HadamardRotation, Rotation
from quire.convert.source import Source, open_source
from quire.errors import ConfigError
from quire.models.spec import Weight, parts
from tests.convert.tiny import DELTA_NETS, EXPERTS, LATENT, MAMBA, SEEING, write_tiny
from tests.models.computing import Model, distance, load

TOKENS = [np.arange(5, 45, dtype=np.int32), np.arange(300, 320, dtype=np.int32)]
CASES = {
    "llama": {},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "mha": {"num_key_value_heads": 4},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "window": {"architectures": ["MistralForCausalLM"], "sliding_window": 8},
    "experts": EXPERTS,
    "latent": {**LATENT},
    "latent queries": {**LATENT, "q_lora_rank": 24},
    "delta nets": DELTA_NETS,
    "mamba": MAMBA,
    "parallel, one norm": {"architectures": ["PhiForCausalLM"]},
    "parallel, two norms": {
        "architectures": ["GPTNeoXForCausalLM"],
        "num_key_value_heads": 4,
        "rotary_pct": 0.5,
    },
    "learned positions": {"architectures": ["OPTForCausalLM"], "ffn_dim": 96},
    "text of a model that sees": SEEING,
    "odd": {"hidden_size": 48, "intermediate_size": 80, "head_dim": 12},
}


def opened(folder: Path, name: str) -> Source:
    directory = folder / name
    if not directory.exists():
        write_tiny(directory, **CASES[name])
    return open_source(EngineConfig(str(directory)))


def logits(source: Source, change: Callable[[int, dict], None], rotation: object = None) -> list:
    """The logits of every sequence when each block's weights were changed in place."""
    spec, forward = source.spec, BlockForward(source.spec)
    stream = forward.embed(source.weights, TOKENS)
    head = source.floats(
        {each.name for part in (spec.norm, spec.head) for each in parts(part, Weight)}
    )
    if isinstance(rotation, HadamardRotation):
        stream = [rotation.stream.rows(x) for x in stream]
        rotation.reading(spec.norm, (spec.head,), head)
    for layer in range(len(spec.blocks)):
        weights = source.floats(source.weights)
        change(layer, weights)
        stream = forward.block(layer, weights, stream)
    return [forward.logits(head, x) for x in stream]


def worst(one: list, other: list) -> float:
    return max(distance(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_block_by_block_is_the_model(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, name)
    model = Model(load(tmp_path / name))
    expected = [model.logits(tokens.tolist()) for tokens in TOKENS]
    assert worst(logits(source, lambda layer, weights: None), expected) < 3e-5


@pytest.mark.parametrize("name", CASES)
def test_folding_changes_nothing(name: str, tmp_path: Path) -> None:
    """Each folding alone moves random scales; norms are even rounded to bfloat16 on the way."""
    source = opened(tmp_path, name)
    stored_as = {name: source.format_of(name) for name in source.weights}
    expected = logits(source, lambda layer, weights: None)
    for index in range(max(len(foldings(block)) for block in source.spec.blocks)):

        def change(layer: int, weights: dict, index: int = index) -> None:
            found = foldings(source.spec.blocks[layer])
            folding = found[index % len(found)]
            width = weights[folding.source.weight.name].shape[0]
            scales = np.exp(np.random.default_rng(layer).standard_normal(width))
            fold(folding, scales.astype(np.float32), weights, stored_as)

        assert worst(logits(source, change), expected) < 3e-5


def test_a_folding_of_other_columns_would_be_seen(tmp_path: Path) -> None:
    source = opened(tmp_path, "llama")
    expected = logits(source, lambda layer, weights: None)

    def change(layer: int, weights: dict) -> None:
        weights[source.spec.blocks[layer].attention_norm.weight.name] /= 1.01

    assert worst(logits(source, change), expected) > 1e-4


UNROTATED = (
    *("latent", "latent queries", "delta nets", "mamba"),
    *("parallel, one norm", "parallel, two norms", "learned positions"),
)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNROTATED])
def test_rotation_changes_nothing(name: str, tmp_path: Path) -> None:
    source = opened(tmp_path, name)
    rotation = HadamardRotation(source.spec, seed=4)
    expected = logits(source, lambda layer, weights: None)
    rotated = logits(
        source, lambda layer, w: rotation.block(source.spec.blocks[layer], w), rotation
    )
    assert worst(rotated, expected) < 3e-5


@pytest.mark.parametrize("name", UNROTATED)
def test_other_layers_are_not_rotated(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave hadamard out"):
        HadamardRotation(opened(tmp_path, name).spec, seed=4)


@pytest.mark.parametrize("width", [1, 7, 12, 64, 96])
def test_rotations_are_orthogonal_and_spread(width: int) -> None:
    matrix = Rotation(width, 0).rows(np.eye(width, dtype=np.float32))
    assert np.allclose(matrix @ matrix.T, np.eye(width), atol=1e-5)
    if width in (64, 96):
        assert np.abs(matrix).max() < 0.5
    assert np.allclose(Rotation(width, 0).outputs(matrix), np.eye(width), atol=1e-5)


def test_observers_see_what_matrices_read(source: Source) -> None:
    forward = BlockForward(source.spec)
    weights = source.floats(source.weights)
    stream = forward.embed(source.weights, TOKENS)
    behind, seen = forward.observed(0, weights, stream)
    assert worst(behind, forward.block(0, weights, stream)) == 0
    whole = forward.statistics(0, weights, stream)
    assert seen.keys() == whole.keys()
    for name, one in seen.items():
        assert np.array_equal(one.near, whole[name].near) and one.moment is None
    seen = whole
    attention = source.spec.blocks[0].attention
    norm = weights[source.spec.blocks[0].attention_norm.weight.name]
    rows = np.concatenate(stream)
    rows = rows / np.sqrt((rows * rows).mean(-1, keepdims=True) + 1e-5) * norm
    found = seen[attention.query.weight.name]
    assert found is seen[attention.value.weight.name] and found.rows == 60
    assert np.allclose(found.moment, rows.T @ rows, rtol=1e-3, atol=1e-2)
    assert np.allclose(found.largest, np.abs(rows).max(0), rtol=1e-4)
    assert np.allclose(found.mean_magnitude, np.abs(rows).mean(0), rtol=1e-4)
    assert np.allclose(found.sample, rows, rtol=1e-3, atol=1e-4)
    factors = np.linspace(1, 3, 64).astype(np.float32)
    divided = found.divided(factors)
    assert np.allclose(divided.moment, (rows / factors).T @ (rows / factors), rtol=1e-3, atol=1e-2)
    assert np.allclose(divided.sample, rows / factors, rtol=1e-3, atol=1e-4)


def test_rotation_of_parts_that_share_a_norm(tmp_path: Path) -> None:
    source = opened(tmp_path, "llama")
    blocks = tuple(
        replace(block, parallel=True, mlp_norm=block.attention_norm) for block in source.spec.blocks
    )
    source = replace(source, spec=replace(source.spec, blocks=blocks))
    rotation = HadamardRotation(source.spec, seed=4)
    expected = logits(source, lambda layer, weights: None)
    rotated = logits(source, lambda layer, w: rotation.block(blocks[layer], w), rotation)
    assert worst(rotated, expected) < 3e-5
