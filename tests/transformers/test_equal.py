"""Through transformers over our cache: as transformers computes alone, and as native does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quire.backends.transformers.proof import prove
from quire.ops.batch import Batch
from tests.engine.random_worlds import mixed_jobs, random_world
from tests.models import cases_mixtures
from tests.models.case import Case
from tests.models.checkpoints import CASES, build_oracle, oracle_logits
from tests.models.computing import Float32, Model, distance, load
from tests.torch.test_engine import CROWDED, expect_same
from tests.transformers.wrapped import OTHERS, WrappedBench, executable, wrapped

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

TOLERANCE = 1e-5
NAMES = ("llama", "qwen2-windows", "gemma2", "mixtral", "gpt-oss", "llama4-plain")
OURS = tuple(case for case in (*CASES, *cases_mixtures.CASES) if case.name in NAMES)
"""Windows, caps, sinks and chunks are among them."""
TABLE = np.random.default_rng(5).permutation(24).tolist()

Checkpoints = Callable[[Case], Path]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """The directory of a case, written once."""
    made: dict[str, Path] = {}

    def directory(case: Case) -> Path:
        if case.name not in made:
            made[case.name] = tmp_path_factory.mktemp(case.name)
            build_oracle(case, made[case.name])
        return made[case.name]

    return directory


def tokens_of(case: Case, count: int = 40) -> list[int]:
    return np.random.default_rng(2).integers(3, 128, count).tolist()


def in_pieces(directory: Path, tokens: list[int], pieces: list[int]) -> Float32:
    runs, found, start = executable(wrapped(directory)), [], 0
    for size in pieces:
        found.append(runs.logits(Batch.single(tokens[start : start + size], start, TABLE, ())))
        start += size
    return np.concatenate(found)


@pytest.mark.parametrize("case", (*OTHERS, *OURS), ids=str)
def test_logits_are_those_of_transformers(case: Case, checkpoints: Checkpoints) -> None:
    import transformers

    directory, tokens = checkpoints(case), tokens_of(case)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager"
    ).eval()
    expected = oracle_logits(plain, tokens)
    for pieces in ([40], [16, 1, 13, 10], [1] * 40):
        assert distance(in_pieces(directory, tokens, pieces), expected) < TOLERANCE, pieces


@pytest.mark.parametrize("case", OURS, ids=str)
def test_our_own_families_agree(case: Case, checkpoints: Checkpoints) -> None:
    directory, tokens = checkpoints(case), tokens_of(case)
    ours = Model(load(directory), "torch").logits(tokens)
    assert distance(in_pieces(directory, tokens, [30, 10]), ours) < TOLERANCE


@pytest.mark.parametrize("name", ["opt", "cohere2"])
def test_a_crowd_changes_nothing(name: str, checkpoints: Checkpoints) -> None:
    """Batched, chunked, preempted, found in the prefix cache; samplers of all kinds."""
    (case,) = (each for each in OTHERS if each.name == name)
    bench = WrappedBench(wrapped(checkpoints(case)))
    jobs = mixed_jobs(seed=5, count=6)
    longest = max(jobs, key=lambda job: len(job.prompt))
    plain = replace(longest.params, prompt_logprobs=None)
    jobs += [replace(longest, params=plain, arrival=at) for at in (0, 12)]
    alone = [bench.alone(job) for job in jobs]
    runs = [bench.run(jobs, world) for world in (random_world(0), CROWDED)]
    for run in runs:
        for found, expected in zip(run.answers, alone, strict=True):
            expect_same(found, expected)
    assert sum(run.num_preemptions for run in runs) > 0
    assert sum(run.num_hit_tokens for run in runs) > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_and_caches(dtype: str, checkpoints: Checkpoints) -> None:
    """A model in 16 bits passes its own proof, and rounds about as transformers does."""
    directory, tokens = checkpoints(OTHERS[0]), tokens_of(OTHERS[0])
    model = wrapped(directory, dtype)
    prove(model)
    batch = Batch.single(tokens, 0, TABLE, ())
    found = executable(model, dtype).logits(batch)
    exact = executable(wrapped(directory)).logits(batch)
    assert 1e-4 < distance(found, exact) < (0.1 if dtype == "bfloat16" else 0.02)
