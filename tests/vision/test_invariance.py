"""What a request with images yields alone, it yields in any circumstances, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.backends.native.program import NativeExecutable
from quire.ops.kv_cache import KvCache
from quire.runtime.rope_tables import RopeTables
from quire.runtime.vision import LoadedVision, plan_vision
from quire.sampling_params import SamplingParams
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_model
from tests.engine.forced_guesses import forced
from tests.models.computing import backend_of
from tests.vision.checkpoints import picture

pytest.importorskip("PIL")

NAME = "Qwen2VLForConditionalGeneration"
IMAGE_TOKEN = 5
RULES = {"min_pixels": 256, "max_pixels": 1600, "patch_size": 4}

WORLDS = {
    "in a batch": Circumstances(token_budget=600, threads=2),
    "in chunks": Circumstances(token_budget=17, logit_rows=4),
    "preempted": Circumstances(num_blocks=11, token_budget=64, prefix_caching=True),
    "cached": Circumstances(token_budget=40, prefix_caching=True),
}


def seeing(directory: Path, backend: str) -> tuple[LoadedVision, Bench]:
    """A random model that sees, on a backend."""
    loaded = random_model(NAME)
    assert loaded.spec.vision is not None
    (directory / "preprocessor_config.json").write_text(json.dumps(RULES))
    chosen = backend_of(backend)
    has_body = lambda node: chosen.declines(node) is None  # noqa: E731
    plan = plan_vision(loaded.spec.vision, directory, has_body, {})

    def bound(program: Any, cache: KvCache, ropes: RopeTables) -> Any:
        if backend == "torch":
            from quire.backends.torch.devices import find_device
            from quire.backends.torch.executable import TorchExecutable

            return TorchExecutable(program, loaded.weights, cache, find_device("cpu"))
        return NativeExecutable(program, loaded.weights, cache, ropes.arrays, 2)

    vision = plan.bind(bound)
    return vision, Bench(loaded, backend, encode=vision.encoder.encode)


@pytest.fixture(scope="module")
def vision_and_bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedVision, Bench]:
    return seeing(tmp_path_factory.mktemp("rules"), "native-auto")


def jobs(vision: LoadedVision) -> list[Job]:
    """Texts that begin alike around images that are the same, others, of equal size, and none."""
    random = np.random.default_rng(3)
    stem = random.integers(6, 128, 20).tolist()
    seen: list[list[tuple[int, int, int]]] = [
        [(40, 40, 1)],
        [(40, 40, 2)],
        [(40, 40, 1)],
        [(40, 40, 1), (60, 20, 0)],
        [(40, 40, 1), (20, 60, 0)],
        [],
        [(20, 24, 0)],
    ]
    made = []
    for number, sizes in enumerate(seen):
        prompt = [*stem]
        for _ in sizes:
            prompt += [IMAGE_TOKEN, *stem[:6]]
        images = [vision.reader.read(picture(*size)) for size in sizes]
        tokens, placed = vision.reader.place([*prompt, 7 + number], images)
        params = SamplingParams(
            temperature=[0.0, 1.0][number % 2],
            max_tokens=24,
            min_tokens=24,
            logprobs=2,
            prompt_logprobs=1 if number == 6 else None,
        )
        made.append(Job(tuple(tokens), params, number, arrival=[0, 3][number % 2], images=placed))
    return made


@pytest.mark.parametrize("world", WORLDS)
def test_alone_or_not(vision_and_bench: tuple[LoadedVision, Bench], world: str) -> None:
    vision, bench = vision_and_bench
    alone = [bench.alone(job) for job in jobs(vision)]
    run = bench.run(jobs(vision), WORLDS[world])
    assert run.answers == alone
    if world == "preempted":
        assert run.num_preemptions > 0
    if world == "cached":
        assert run.num_hit_tokens > 0
    # The first two differ in nothing but what is to be seen, and in the last token and seed.
    assert len({tuple(answer.tokens) for answer in alone}) == len(alone)


def test_images_are_told_apart_by_the_cache(
    vision_and_bench: tuple[LoadedVision, Bench],
) -> None:
    """Equal tokens around pictures of one size: one after the other through one cache."""
    vision, bench = vision_and_bench
    engine = bench.engine(Circumstances(prefix_caching=True))
    params = SamplingParams(temperature=0, max_tokens=4, min_tokens=4, logprobs=2)
    hits = []
    for seed in (1, 2, 1):
        (job, *_) = jobs(vision)
        read = vision.reader.read(picture(40, 40, seed))
        prompt = [token for token in job.prompt if token != IMAGE_TOKEN]
        tokens, placed = vision.reader.place([*prompt[:20], IMAGE_TOKEN, *prompt[20:]], [read])
        job = Job(tuple(tokens), params, 0, images=placed)
        expected, answer = bench.alone(job), Answer()
        bench.submit(engine, "x", job)
        while engine.has_work:
            for update in engine.step():
                answer.add(update)
        assert answer == expected
        hits.append(engine.stats().scheduler.prefix_hit_tokens)
    text_blocks = 16  # of the 20 tokens before the image
    assert hits[0] == 0
    assert hits[1] == text_blocks
    assert hits[2] > 3 * text_blocks, "the image that was seen before is found"


def test_guesses_change_nothing(vision_and_bench: tuple[LoadedVision, Bench]) -> None:
    vision, bench = vision_and_bench
    expected = [bench.alone(job) for job in jobs(vision)]
    run = bench.run(jobs(vision), Circumstances(drafter=forced(expected, 0.3, bench)))
    assert run.answers == expected
    assert 0 < run.num_accepted < run.num_drafted
