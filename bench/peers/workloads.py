"""What is measured: random tokens, forced lengths, the same for every engine."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.peers.tokenizer_files import FIRST_WORD

__all__ = ["WORKLOADS", "Prompt", "Workload", "chosen"]

SHAREGPT_MEAN = (202, 179)
"""Mean prompt and answer of ShareGPT as vLLM samples it; lengths are drawn around them."""


@dataclass(frozen=True)
class Prompt:
    """Token ids, and how many tokens to generate."""

    tokens: list[int]
    output: int


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    kind: "start" is exec to first token and memory; "serve" goes over HTTP.  batch: requests at
    once (serve: clients).  total: requests in all.  rate: arrivals per second.  shared: leading
    prompt tokens that all requests have in common.  int8_kv: the KV cache is 8 bits wide.
    filled: the context's keys are made up, not computed.
    """

    name: str
    kind: Literal["start", "prefill", "decode", "serve"]
    input: int = 16
    output: int = 1
    batch: int = 1
    total: int = 0
    rate: float = math.inf
    shared: int = 0
    varied: bool = False
    int8_kv: bool = False
    filled: bool = False

    def prompts(self, vocabulary: int, seed: int) -> list[Prompt]:
        """The requests of a serve workload."""
        source = random.Random(seed)
        shared = _tokens(source, self.shared, vocabulary)
        count = max(self.total, 1)
        lengths = [self._lengths(source) for _ in range(count)]
        return [
            Prompt(shared + _tokens(source, wanted - self.shared, vocabulary), output)
            for wanted, output in lengths
        ]

    def _lengths(self, source: random.Random) -> tuple[int, int]:
        if not self.varied:
            return self.input, self.output
        draws = [mean * source.lognormvariate(-0.5, 1.0) for mean in SHAREGPT_MEAN]
        wanted, output = (min(max(round(draw), 4), 800) for draw in draws)
        return wanted, output


def _tokens(source: random.Random, count: int, vocabulary: int) -> list[int]:
    return [source.randrange(FIRST_WORD, vocabulary - 1024) for _ in range(count)]


def _serve(name: str, batch: int, total: int, wanted: int, output: int) -> Workload:
    return Workload(name, "serve", input=wanted, output=output, batch=batch, total=total)


WORKLOADS = (
    Workload("start", "start"),
    Workload("prefill-512", "prefill", input=512),
    Workload("decode-1", "decode", input=128, output=128),
    Workload("decode-8", "decode", input=128, output=32, batch=8),
    Workload("decode-32", "decode", input=128, output=16, batch=32),
    Workload("decode-8-4k", "decode", input=4096, output=16, batch=8, int8_kv=True, filled=True),
    _serve("serve-1-128/128", 1, 2, 128, 128),
    _serve("serve-8-128/128", 8, 16, 128, 128),
    _serve("serve-32-128/128", 32, 32, 128, 128),
    _serve("serve-1-1024/64", 1, 2, 1024, 64),
    _serve("serve-8-1024/64", 8, 8, 1024, 64),
    _serve("serve-32-1024/64", 32, 32, 1024, 64),
    Workload("sharegpt-0.2/s", "serve", batch=32, total=12, rate=0.2, varied=True),
    Workload("sharegpt-0.5/s", "serve", batch=32, total=24, rate=0.5, varied=True),
    Workload("prefix-1k-x16", "serve", 1056, 32, batch=8, total=16, shared=1024),
)


def chosen(names: Iterable[str]) -> list[Workload]:
    """The workloads whose name or kind begins with one of the names.

    Raises ValueError for a name that chooses none.
    """
    found: list[Workload] = []
    for name in names:
        matching = [each for each in WORKLOADS if each.name.startswith(name) or each.kind == name]
        if not matching:
            known = ", ".join(each.name for each in WORKLOADS)
            raise ValueError(f"there is no workload {name!r}; there are {known}")
        found += [each for each in matching if each not in found]
    return [each for each in WORKLOADS if each in found]
