"""The requests of a benchmark: random ones, a file of one's own, or ShareGPT conversations."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quire.cli.bench.prompts import random_ids, random_words
from quire.errors import ConfigError

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

__all__ = ["BenchRequest", "Dataset"]

LONGEST_PROMPT, LONGEST_IN_ALL, SHORTEST = 1024, 2048, 4
"""ShareGPT conversations outside these numbers of tokens are left out, as vLLM does."""


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One request: text or token ids, and how many tokens to generate."""

    prompt: str | list[int]
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where the requests come from, under the names of vLLM's options."""

    dataset_name: Literal["random", "custom", "sharegpt"] = field(
        default="random", metadata={"help": "random tokens, or the file of --dataset-path"}
    )
    dataset_path: str | None = field(
        default=None,
        metadata={"help": "custom: JSON lines with a prompt each; sharegpt: its JSON file"},
    )
    num_prompts: int = field(default=1000, metadata={"help": "requests in all"})
    random_input_len: int = field(default=1024, metadata={"help": "prompt tokens"})
    random_output_len: int = field(default=128, metadata={"help": "tokens to generate"})
    random_range_ratio: float = field(
        default=0.0, metadata={"help": "lengths vary by this share to both sides, below 1"}
    )
    random_prefix_len: int = field(
        default=0, metadata={"help": "tokens before those, the same in every prompt"}
    )
    custom_output_len: int = field(
        default=256, metadata={"help": "tokens to generate where a line has no output_tokens"}
    )
    sharegpt_output_len: int | None = field(
        default=None, metadata={"help": "tokens to generate; default: as many as the answer has"}
    )
    seed: int = field(default=0, metadata={"help": "seed of prompts and arrivals"})

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise ConfigError(f"--num-prompts is {self.num_prompts}; give 1 or more")
        if not 0 <= self.random_range_ratio < 1:
            raise ConfigError(f"--random-range-ratio is {self.random_range_ratio}; give 0 to 1")
        if self.dataset_name != "random" and self.dataset_path is None:
            raise ConfigError(f"--dataset-name {self.dataset_name} needs --dataset-path FILE")

    def requests(self, tokenizer: Tokenizer | None) -> list[BenchRequest]:
        """The requests, in the order they are to be sent.

        tokenizer: the model's; without it random prompts are words.  Raises ConfigError for a file
        that does not hold what it should.
        """
        if self.dataset_name == "random":
            return self._random(tokenizer)
        assert self.dataset_path is not None
        path = Path(self.dataset_path)
        try:
            text = path.read_text(encoding="utf-8")
            found = (
                self._custom(text)
                if self.dataset_name == "custom"
                else self._sharegpt(text, tokenizer)
            )
            requests = [request for _, request in zip(range(self.num_prompts), found, strict=False)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no {self.dataset_name} dataset: {error!r}") from None
        if not requests:
            raise ConfigError(f"{path} holds no usable request")
        return requests

    def _random(self, tokenizer: Tokenizer | None) -> list[BenchRequest]:
        source = random.Random(self.seed)
        inputs = [self._vary(source, self.random_input_len) for _ in range(self.num_prompts)]
        outputs = [self._vary(source, self.random_output_len) for _ in range(self.num_prompts)]
        prompts: list[Any]
        if tokenizer is None:
            (prefix,) = random_words([self.random_prefix_len], self.seed + 1)
            prompts = [f"{prefix} {each}".strip() for each in random_words(inputs, self.seed)]
        else:
            (ids,) = random_ids(tokenizer, [self.random_prefix_len], self.seed + 1)
            prompts = [ids + each for each in random_ids(tokenizer, inputs, self.seed)]
        return [BenchRequest(*pair) for pair in zip(prompts, outputs, strict=True)]

    def _vary(self, source: random.Random, length: int) -> int:
        spread = int(length * self.random_range_ratio)
        return max(1, source.randint(length - spread, length + spread))

    def _custom(self, text: str) -> Iterator[BenchRequest]:
        for line in filter(None, map(str.strip, text.splitlines())):
            entry = json.loads(line)
            yield BenchRequest(
                entry["prompt"], int(entry.get("output_tokens", self.custom_output_len))
            )

    def _sharegpt(self, text: str, tokenizer: Tokenizer | None) -> Iterator[BenchRequest]:
        """The first turn of each conversation, in shuffled order."""
        if tokenizer is None:
            raise ConfigError("--dataset-name sharegpt counts tokens: give --tokenizer DIRECTORY")
        entries = [entry for entry in json.loads(text) if len(entry["conversations"]) >= 2]
        random.Random(self.seed).shuffle(entries)
        for entry in entries:
            question, answer = (turn["value"] for turn in entry["conversations"][:2])
            prompt_tokens = len(tokenizer.encode(question))
            output = self.sharegpt_output_len or len(tokenizer.encode(answer))
            fits = prompt_tokens <= LONGEST_PROMPT and prompt_tokens + output <= LONGEST_IN_ALL
            if fits and prompt_tokens >= SHORTEST and output >= SHORTEST:
                yield BenchRequest(question, output)
