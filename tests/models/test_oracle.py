"""Every family and option computes what transformers computes, on every backend.

Bounds are shares of the largest logit.  On these checkpoints the largest logit is near 6 and the
reference backend is within 4e-6 in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.models.config_reader import read_json
from quire.models.registry import build_spec
from tests.models import cases_dense, cases_parallel
from tests.models.checkpoints import (
    CASES,
    Case,
    build_oracle,
    old_spelling,
    oracle_greedy,
    oracle_logits,
    random_tokens,
)
from tests.models.computing import (
    BACKENDS,
    Float32,
    Loaded,
    Model,
    distance,
    load,
    need,
    rounds_inputs,
)
from tests.models.greedy import assert_greedy, kept_rotation
from tests.models.mistakes import mistakes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle
torch.set_num_threads(1)  # these models are too small for more

TOLERANCE = 1e-4
SIGHT = 10 * TOLERANCE
LOOKED_AT = ("llama", "mistral-window", "qwen2", "qwen3", "qwen3-next", "granite-h")
FAMILIES = tuple(case for case in CASES if case.name in LOOKED_AT)
FURTHER = tuple({case.model_type: case for case in reversed(cases_dense.CASES)}.values())
WHOLE = (*cases_dense.CASES, *cases_parallel.CASES)
STEPWISE = tuple(
    case
    for case in CASES
    if case in FURTHER or case in cases_parallel.NEW_WIRING or case not in WHOLE
)
"""Computed in pieces as well: of the dense families in a file of their own, the first case each."""
BY_NAME = {case.name: case for case in CASES}

# Against transformers computing in the same narrow format.  It rounds every activation, we only
# keys and values: the distance is mostly its own.  All cases: 0.020 to 0.048, 0.0024 to 0.0095.
NARROW_COMPUTE_BOUND = {"bfloat16": 0.08, "float16": 0.016}
# Keys and values rounded, all else exact.  All cases: 0.0044 to 0.0148, 0.0005 to 0.0014.
NARROW_CACHE_BOUND = {"bfloat16": 0.025, "float16": 0.0025}


@dataclass(frozen=True)
class Oracle:
    """A checkpoint on disk, and what transformers says of it."""

    case: Case
    directory: Path
    loaded: Loaded
    tokens: list[int]
    logits: Float32
    model: Any


Oracles = Callable[..., Oracle]


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Oracles:
    """The oracle of a case in a dtype, built once."""
    built: dict[tuple[str, str], Oracle] = {}

    def oracle(case: Case, dtype: str = "float32") -> Oracle:
        if (case.name, dtype) not in built:
            directory = tmp_path_factory.mktemp(f"{case.name}-{dtype}")
            build_oracle(case, directory, dtype)
            model = read_model(directory, "float32", case.attention)
            tokens = random_tokens(case)
            logits = oracle_logits(model, tokens)
            built[case.name, dtype] = Oracle(
                case, directory, load(directory), tokens, logits, model
            )
        return built[case.name, dtype]

    return oracle


def read_model(directory: Path, dtype: str, attention: str = "eager") -> Any:
    """The checkpoint as transformers reads it, to compute in a dtype (rotations in float32)."""
    wanted = getattr(torch, dtype)
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=wanted, attn_implementation=attention
    ).eval()


each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_stepwise = pytest.mark.parametrize("case", STEPWISE, ids=str)
each_family = pytest.mark.parametrize("case", FAMILIES, ids=str)
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_narrow = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])


# --- logits in float32


@each_backend
@each_case
def test_prefill_in_one_piece(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    assert distance(Model(oracle.loaded, backend).logits(oracle.tokens), oracle.logits) < TOLERANCE


@each_backend
@each_stepwise
def test_prefill_in_chunks(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    for pieces in ([16, 16, 16], [1, 15, 2, 13, 9], [17, 1, 22]):
        logits = Model(oracle.loaded, backend).logits(oracle.tokens, pieces)
        assert distance(logits, oracle.logits) < TOLERANCE, pieces


@each_backend
@each_stepwise
def test_decode_token_by_token(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    pieces = [1] * len(oracle.tokens)
    logits = Model(oracle.loaded, backend).logits(oracle.tokens, pieces)
    assert distance(logits, oracle.logits) < TOLERANCE


@each_backend
@each_family
def test_a_long_prompt(case: Case, backend: str, oracles: Oracles) -> None:
    """200 tokens: several blocks of the cache, and more than one chunk of keys in the kernels."""
    need(backend)
    oracle = oracles(case)
    tokens = random_tokens(replace(case, prompt_length=200))
    expected = oracle_logits(oracle.model, tokens)
    assert distance(Model(oracle.loaded, backend).logits(tokens), expected) < TOLERANCE


@each_backend
@each_family
def test_more_threads_compute_the_same(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    logits = Model(oracle.loaded, backend, threads=2).logits(oracle.tokens)
    assert distance(logits, oracle.logits) < TOLERANCE


# --- greedy tokens


@each_backend
@each_stepwise
def test_64_greedy_tokens(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    write_64_tokens(oracles(case), backend)


@pytest.mark.parametrize("case", [case for case in CASES if case not in STEPWISE], ids=str)
def test_64_greedy_tokens_of_every_case(case: Case, oracles: Oracles) -> None:
    write_64_tokens(oracles(case), "native-auto")


def write_64_tokens(oracle: Oracle, backend: str) -> None:
    """Compare 64 tokens with those of the oracle, in the rotation of the prompt."""

    def expected(prompt: list[int], output: list[int]) -> Float32:
        with kept_rotation(oracle.model, lambda: oracle_logits(oracle.model, prompt)):
            return oracle_logits(oracle.model, prompt + output)

    model = Model(oracle.loaded, backend)
    assert_greedy(model, oracle.model, oracle.case.prompt_length, expected)


@each_backend
@each_family
def test_greedy_tokens_of_a_whole_recomputation(case: Case, backend: str, oracles: Oracles) -> None:
    need(backend)
    oracle = oracles(case)
    output, _ = Model(oracle.loaded, backend).greedy(oracle.tokens, 8)
    assert output == oracle_greedy(oracle.model, oracle.tokens, 8)


# --- both spellings of config.json


@each_case
def test_the_old_spelling_gives_the_same_spec(case: Case, oracles: Oracles, tmp_path: Path) -> None:
    oracle = oracles(case)
    shutil.copy(oracle.directory / "config.json", tmp_path)
    old_spelling(case, tmp_path)
    values = read_json(tmp_path / "config.json")
    assert "rope_parameters" not in values
    assert build_spec(values) == oracle.loaded.spec


# --- narrow weights and caches


@each_backend
@each_narrow
@each_family
def test_narrow_weights_compute_as_the_same_numbers_in_float32(
    case: Case, dtype: str, backend: str, oracles: Oracles
) -> None:
    need(backend)
    oracle = oracles(case, dtype)
    assert oracle.loaded.spec.dtype == dtype
    bound = NARROW_COMPUTE_BOUND[dtype] if rounds_inputs(backend, dtype) else TOLERANCE
    assert distance(Model(oracle.loaded, backend).logits(oracle.tokens), oracle.logits) < bound


@each_backend
@each_narrow
@each_family
def test_narrow_weights_are_near_transformers_in_that_format(
    case: Case, dtype: str, backend: str, oracles: Oracles
) -> None:
    need(backend)
    oracle = oracles(case, dtype)
    expected = oracle_logits(read_model(oracle.directory, dtype), oracle.tokens)
    logits = Model(oracle.loaded, backend, kv_format=dtype).logits(oracle.tokens)
    assert distance(logits, expected) < NARROW_COMPUTE_BOUND[dtype]
    assert distance(logits, oracle.logits) < distance(expected, oracle.logits), "we round less"


@each_backend
@each_narrow
@each_family
def test_a_narrow_cache_changes_little(
    case: Case, dtype: str, backend: str, oracles: Oracles
) -> None:
    need(backend)
    oracle = oracles(case)
    logits = Model(oracle.loaded, backend, kv_format=dtype).logits(oracle.tokens)
    assert TOLERANCE / 10 < distance(logits, oracle.logits) < NARROW_CACHE_BOUND[dtype]


# --- files


@pytest.mark.parametrize("name", ["llama", "qwen3-tied"])
def test_a_sharded_checkpoint_loads_to_the_same_logits(
    name: str, oracles: Oracles, tmp_path: Path
) -> None:
    oracle = oracles(BY_NAME[name])
    oracle.model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_same_logits(oracle, tmp_path)


@pytest.mark.parametrize("name", ["llama", "qwen3-tied"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_bin_checkpoint_loads_to_the_same_logits(
    name: str, num_shards: int, oracles: Oracles, tmp_path: Path
) -> None:
    oracle = oracles(BY_NAME[name])
    shutil.copy(oracle.directory / "config.json", tmp_path)
    save_bin(oracle.model.state_dict(), tmp_path, num_shards)
    assert_same_logits(oracle, tmp_path)


def assert_same_logits(oracle: Oracle, directory: Path) -> None:
    expected = Model(oracle.loaded).logits(oracle.tokens)
    np.testing.assert_array_equal(Model(load(directory)).logits(oracle.tokens), expected)


def save_bin(state: Mapping[str, Any], directory: Path, num_shards: int) -> None:
    """Save as older transformers did: one file, or shards and their index."""
    if num_shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    places = {}
    for shard in range(num_shards):
        file = f"pytorch_model-{shard + 1:05}-of-{num_shards:05}.bin"
        part = {name: state[name] for name in list(state)[shard::num_shards]}
        torch.save(part, directory / file)
        places.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": places}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))


# --- sight: each mistake one could make moves the logits by far more than the tolerance


@each_case
def test_the_oracle_sees_every_mistake(case: Case, oracles: Oracles) -> None:
    oracle = oracles(case)
    if oracle.loaded.spec.state_floats:
        pytest.skip("test_recurrent.py makes the mistakes of these")
    seen = {}
    for name, spec in mistakes(oracle.loaded.spec):
        logits = Model(Loaded(spec, oracle.loaded.weights), "native-auto").logits(oracle.tokens)
        seen[name] = distance(logits, oracle.logits)
    unseen = {name: moved for name, moved in seen.items() if moved < SIGHT}
    assert not unseen, seen
    assert len(seen) >= 7


def test_the_optional_mistakes_are_all_tried(oracles: Oracles) -> None:
    specs = [oracles(case).loaded.spec for case in CASES]
    tried = {name for spec in specs if not spec.state_floats for name, _ in mistakes(spec)}
    assert {"window + 1", "window - 1", "the windows on other layers", "no value bias"} < tried
    assert {"no query norm", "no rope scaling", "no attention factor", "no soft cap"} < tried
    assert {"no attention_output_norm", "no mlp_output_norm", "no bias of norms"} < tried
    assert {"no embedding scale", "no residual scale", "no logit scale", "no logit cap"} < tried
    assert {"no positions", "positions from 0 on", "no norm of embeddings", "no slopes"} < tried
    assert {"parallel parts", "parts one behind the other"} < tried
    assert {"one rope for all layers", "no scale by position", "norms of weight alone"} < tried
