"""A drafter whose guesses are as often right as a test wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from quire.control.drafting import Drafter
from quire.control.request import Request
from tests.engine.driving import Answer, Bench

Answers = Sequence[Answer] | Mapping[int, Answer]


class Forced:
    """Guesses what the answers say; a request's name is the number of its answer.

    spoilt: the chance of a token to be another one; 0 is always right, 1 always wrong.
    """

    def __init__(self, answers: Answers, spoilt: float, vocab_size: int) -> None:
        self.answers = answers
        self.spoilt = spoilt
        self.vocab_size = vocab_size
        self.random = np.random.default_rng(3)

    def propose(self, requests: Sequence[Request], num_tokens: int, room: int) -> list[list[int]]:
        drafts = []
        for request in requests:
            answer = self.answers[int(request.id)].tokens
            draft = (answer[request.num_output :] + [5] * 9)[: self.random.integers(0, 9)][:room]
            for place in range(len(draft)):
                if self.random.random() < self.spoilt:
                    draft[place] = (draft[place] + 1) % self.vocab_size
            drafts.append(draft)
            room -= len(draft)
        return drafts

    def note(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        pass

    def observe(self, num_tokens: int, seconds: float) -> None:
        pass

    def finish(self, request: Request) -> None:
        pass


def forced(answers: Sequence[Answer], spoilt: float, each: Bench) -> Callable[[], Drafter]:
    return lambda: Forced(answers, spoilt, each.loaded.spec.vocab_size)
