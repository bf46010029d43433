"""Worlds of random arrivals and cancels, and jobs of every kind to live in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from quire.engine import Engine
from quire.sampling_params import SamplingParams
from tests.engine.driving import Answer, Bench, Circumstances, Job, random_jobs

VOCABULARY = 128


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
            for update in self.engine.step():
                number = self.live[update.request_id]
                self.found[number].add(update)
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


def cut(answer: Answer, count: int) -> Answer:
    """What is there of an answer when it is cancelled after so many tokens."""
    return Answer(
        answer.tokens[:count],
        answer.logprobs[:count],
        answer.prompt_logprobs if count else None,
        "abort",
    )


def mostly_plain(jobs: list[Job]) -> list[Job]:
    """Grammars and bad words, for which every token must be known, only in a few that come late."""
    return [
        replace(job, arrival=25) if number > 35 else replace(job, grammar=None, bad_words=())
        for number, job in enumerate(jobs)
    ]


def random_world(seed: int) -> Circumstances:
    random = np.random.default_rng(seed)
    budget = int(random.choice([5, 20, 64, 300]))
    return Circumstances(
        threads=int(random.integers(1, 3)),
        max_num_seqs=int(random.choice([2, 6, 64])),
        token_budget=budget,
        logit_rows=min(budget, int(random.choice([1, 7, 32]))),
        num_blocks=int(random.choice([6, 9, 20])),
        prefix_caching=bool(random.integers(2)),
        lookahead_tokens=int(random.choice([0, 4])),
    )
