"""Slots, rows and shapes that last between steps never show one request what another one left.

A world of random arrivals, cancels, preemptions and guesses on few slots, in which the names of
requests are used again at once.  Each request says what it says alone, as far as it comes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest

from quire.engine import Engine
from quire.sampling_params import SamplingParams
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_jobs, random_model
from tests.engine.test_speculation import Forced

WORLDS = {
    "crowded": Circumstances(num_blocks=9, token_budget=24, prefix_caching=True),
    "roomy": Circumstances(num_blocks=40, token_budget=300),
    "one by one": Circumstances(max_num_seqs=1),
}
VOCABULARY = 128
NUM_JOBS = {"native-portable": 48, "reference": 16, "torch": 8}


class OddOrEven:
    """A grammar whose next tokens depend on the last one: odd behind even, even behind odd."""

    def __init__(self) -> None:
        self.last = 0

    def copy(self) -> OddOrEven:
        return OddOrEven()

    def fill_mask(self, row: npt.NDArray[np.int32]) -> None:
        row[:] = 0x55555555 if self.last % 2 else np.array(0xAAAAAAAA, np.uint32).view(np.int32)

    def accept(self, token: int) -> bool:
        self.last = token
        return True


def mixed_jobs(seed: int, count: int) -> list[Job]:
    """Random jobs; every fourth one follows a grammar, and every third plain one has bad words."""
    random = np.random.default_rng(seed)
    found = []
    for number, job in enumerate(random_jobs(seed, count, VOCABULARY)):
        if number % 4 == 0:
            job = replace(job, grammar=OddOrEven)
        elif number % 3 == 0:
            words = tuple((token,) for token in random.integers(0, VOCABULARY, 20).tolist())
            job = replace(job, bad_words=(*words, (words[0][0] ^ 1, 5)))
        elif number % 5 == 0:  # what most requests are
            params = SamplingParams(temperature=0.0, max_tokens=job.params.max_tokens)
            job = replace(job, params=params, forbidden=())
        if number % 3 == 1:  # begins with a step like those in which others go on
            job = replace(job, prompt=job.prompt[:1])
        found.append(job)
    return found


@dataclass
class World:
    """Submits, steps and cancels at random; every name belongs to many jobs, one after another."""

    bench: Bench
    engine: Engine
    jobs: list[Job]
    expected: list[Answer]
    by_name: dict[int, Answer]
    random: np.random.Generator
    most_live: int
    live: dict[str, int] = field(default_factory=dict)
    found: dict[int, Answer] = field(default_factory=dict)
    num_cancelled: int = 0

    def run(self) -> None:
        """Until every job is over."""
        waiting = list(range(len(self.jobs)))
        while waiting or self.engine.has_work:
            while waiting and len(self.live) < self.most_live and self.random.random() < 0.4:
                self._submit(waiting.pop())
            for update, details in self.engine.step():
                number = self.live[update.request_id]
                self.found[number].add(update, details)
                if update.finish_reason is not None:
                    del self.live[update.request_id]
            if self.live and self.random.random() < 0.1:
                self._cancel(self.random.choice(list(self.live)))
            self.engine.scheduler.check()

    def _submit(self, number: int) -> None:
        name = next(name for name in map(str, range(9)) if name not in self.live)
        self.live[name], self.found[number] = number, Answer()
        self.by_name[int(name)] = self.expected[number]
        self.bench.submit(self.engine, name, self.jobs[number])

    def _cancel(self, name: str) -> None:
        event = self.engine.cancel(name)
        assert event is not None
        self.found[self.live.pop(name)].finish_reason = "abort"
        self.num_cancelled += 1


@functools.cache
def prepared(backend: str) -> tuple[Bench, list[Job], list[Answer]]:
    """A model, jobs, and what each yields alone."""
    bench = Bench(random_model("LlamaForCausalLM", num_hidden_layers=1), backend)
    jobs = mixed_jobs(seed=5, count=NUM_JOBS[backend])
    return bench, jobs, [bench.alone(job) for job in jobs]


def cut(answer: Answer, count: int) -> Answer:
    """What is there of an answer when it is cancelled after so many tokens."""
    return Answer(
        answer.tokens[:count],
        answer.logprobs[:count],
        answer.prompt_logprobs if count else None,
        "abort",
    )


@pytest.mark.parametrize("guesses", [False, True], ids=["plain", "guesses"])
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("backend", NUM_JOBS)
def test_a_request_says_what_it_says_alone(backend: str, name: str, guesses: bool) -> None:
    bench, jobs, expected = prepared(backend)
    circumstances, by_name = WORLDS[name], dict[int, Answer]()
    if guesses:
        circumstances = replace(circumstances, drafter=lambda: Forced(by_name, 0.3, VOCABULARY))
    engine = bench.engine(circumstances)
    most_live = 1 if name == "one by one" else 9
    world = World(bench, engine, jobs, expected, by_name, np.random.default_rng(8), most_live)
    world.run()
    assert len(world.found) == len(jobs)
    for number, answer in world.found.items():
        alone = expected[number]
        if answer.finish_reason == "abort":
            alone = cut(alone, len(answer.tokens))
        assert answer.tokens == alone.tokens, jobs[number]
        assert answer == alone or not backend.startswith("native"), jobs[
            number
        ]  # others round freely
    assert world.num_cancelled > 0
    if name == "crowded":
        assert engine.stats().scheduler.num_preemptions > 0
