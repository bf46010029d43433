"""Encoders on every backend: all of a text is seen, and one text does not see another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.errors import EngineError
from quire.graph.program import StepLimits
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.weights.dummy import DummyCheckpoint
from quire.weights.loader import load_weights
from tests.models.computing import BACKENDS, Float32, Loaded, Model, distance, need

LIMITS = StepLimits(tokens=384, logit_rows=8)
ARCHITECTURES = ("BertModel", "XLMRobertaModel", "XLMRobertaForSequenceClassification")


def spec_of(architecture: str, positions: int = 400) -> ModelSpec:
    tiny = {**load_families()[architecture].tiny, "max_position_embeddings": positions}
    return build_spec({"architectures": [architecture], **tiny})


def loaded(spec: ModelSpec) -> Loaded:
    """Drawn weights, far from zero so that every part shows."""
    shapes = {name: weight.shape for name, weight in spec.weights().items()}
    weights = load_weights(DummyCheckpoint(shapes, "F32", 3), spec.weights())
    for name, weight in weights.items():
        draw = np.random.default_rng(len(name))
        scale = 1.5 / weight.shape[-1] ** 0.5 if len(weight.shape) > 1 else 0.3
        weight.data[...] = draw.normal(0, scale, weight.shape)
    return Loaded(spec, weights)


def tokens_of(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 128, count).tolist()


TEXTS = [tokens_of(count, count) for count in (1, 270, 40, 16)]


def together(model: Model, texts: list[list[int]]) -> list[Float32]:
    """The rows of several texts computed in one step."""
    starts = np.cumsum([0, *map(len, texts)])
    counts = [-(-len(text) // 16) for text in texts]
    table, free = np.zeros((len(texts), max(counts)), np.int32), list(model.block_table)
    for row, count in zip(table, counts, strict=True):
        row[:count], free = free[:count], free[count:]
    batch = Batch(
        np.array([token for text in texts for token in text], np.int32),
        np.concatenate([np.arange(len(text)) for text in texts]).astype(np.int32),
        np.zeros(starts[-1], np.int32),
        starts.astype(np.int32),
        table,
        np.arange(starts[-1], dtype=np.int32),
        (),
    )
    return np.split(model.executable.logits(batch), starts[1:-1])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def encoder(request: pytest.FixtureRequest) -> Loaded:
    return loaded(spec_of(request.param))


@pytest.fixture(scope="module")
def expected(encoder: Loaded) -> list[Float32]:
    return together(Model(encoder, limits=LIMITS), TEXTS)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_every_backend_computes_the_reference(
    encoder: Loaded, expected: list[Float32], backend: str
) -> None:
    """Texts longer than a tile of queries and a chunk of keys, and shorter ones beside them."""
    need(backend)
    found = together(Model(encoder, backend, limits=LIMITS), TEXTS)
    for actual, wanted in zip(found, expected, strict=True):
        assert distance(actual, wanted) < 2e-5


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_together_is_alone_to_the_last_bit(encoder: Loaded, threads: int) -> None:
    texts = [tokens_of(count, count) for count in (300, 1, 17, 32)]
    found = together(Model(encoder, "native-auto", threads=threads, limits=LIMITS), texts)
    model = Model(encoder, "native-auto", limits=LIMITS)
    for text, rows in zip(texts, found, strict=True):
        assert (together(model, [text])[0] == rows).all()


def test_a_token_sees_what_stands_behind_it() -> None:
    encoder = loaded(spec_of("BertModel"))
    model, tokens = Model(encoder, "native-auto", limits=LIMITS), tokens_of(20)
    changed = [*tokens[:-1], tokens[-1] ^ 1]
    before, after = together(model, [tokens])[0], together(model, [changed])[0]
    assert np.abs(before[0] - after[0]).max() > 1e-3


@pytest.mark.parametrize("architecture", ["BertModel", "XLMRobertaModel"])
def test_positions_and_the_first_type_are_added(architecture: str) -> None:
    """The embedding alone: a model without blocks."""
    encoder = loaded(replace(spec_of(architecture), blocks=()))
    table = {name.split(".")[1]: each.float32() for name, each in encoder.weights.items()}
    norms = {n: w.float32() for n, w in encoder.weights.items() if "LayerNorm" in n}
    tokens, first = tokens_of(9), 2 if "XLM" in architecture else 0
    rows = table["word_embeddings"][tokens] + table["position_embeddings"][first : first + 9]
    rows = rows + table["token_type_embeddings"][0]
    rows = rows - rows.mean(1, keepdims=True)
    rows = rows / np.sqrt((rows * rows).mean(1, keepdims=True) + 1e-12)
    expected = rows * norms["embeddings.LayerNorm.weight"] + norms["embeddings.LayerNorm.bias"]
    batch = replace(Batch.single(tokens, 0, [0], ()), rope_rows=np.zeros(9, np.int32))
    for backend in ("reference", "native-auto"):
        model = Model(Loaded(encoder.spec, encoder.weights), backend, limits=LIMITS)
        assert distance(model.executable.logits(batch), expected) < 1e-5


def test_a_position_outside_the_table_is_refused() -> None:
    model = Model(loaded(spec_of("BertModel", 8)), "native-auto", limits=LIMITS)
    with pytest.raises(EngineError, match="position outside the embedding table"):
        model.executable.logits(Batch.single(tokens_of(9), 0, model.block_table, ()))
