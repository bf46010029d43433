"""What one request asks of the sampler and of the stop rules, under the names vLLM's users know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.errors import RequestError

__all__ = ["SamplingParams", "StructuredOutput"]

MAX_LOGPROBS = 256
MAX_SEED = 2**64
MAX_TEXTS = {"stop": 256, "bad_words": 4096}  # each is looked for at every token


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A grammar that the generated text must follow; exactly one field is set.

    json: a JSON schema (mapping or JSON text); json_object: any JSON object; regex, choice and
    grammar (Lark syntax) as their names say.  Raises RequestError unless exactly one is given, and
    for a regex or a grammar that is no string, or a choice that is one.
    """

    json: Mapping[str, Any] | str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        given = [self.json is not None, self.json_object, self.regex is not None]
        given += [self.choice is not None, self.grammar is not None]
        if sum(given) != 1:
            raise RequestError(
                "give exactly one of json, json_object, regex, choice and grammar",
                "structured_outputs",
            )
        for name in ("regex", "grammar", "choice"):
            value = getattr(self, name)
            if value is not None and isinstance(value, str) == (name == "choice"):
                wanted = "a list of strings" if name == "choice" else "a string"
                raise RequestError(f"{name} is {value!r}; give {wanted}", "structured_outputs")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue one prompt.

    temperature 0 is greedy; top_k 0 or -1 and top_p 1 and min_p 0 mean "off"; max_tokens None means
    "as many as the model length allows"; logprobs and prompt_logprobs give the number of
    alternatives per token (0: only the token itself, None: nothing).  Penalties follow vLLM:
    repetition looks at prompt and output, presence and frequency at the output only.
    Raises RequestError, naming the field, for a value out of range.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    structured_outputs: StructuredOutput | None = None

    def __post_init__(self) -> None:
        self._freeze_sequences()
        _integer("n", self.n, 1, 1024)
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _integer("top_k", self.top_k, -1, 2**31 - 1)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_low=True)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), MAX_SEED - 1)
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _integer("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}",
                "min_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0, MAX_LOGPROBS)
        self._check_tokens_and_strings()
        form = self.structured_outputs
        if not isinstance(form, StructuredOutput | None):
            message = f"structured_outputs is {form!r}; give a StructuredOutput"
            raise RequestError(message, "structured_outputs")

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature == 0.0

    def _freeze_sequences(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids", "bad_words", "allowed_token_ids"):
            value = getattr(self, name)
            if value is None and name == "allowed_token_ids":
                continue
            if value is None:
                value = ()
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise RequestError(f"{name} must be a list, got {value!r}", name)
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))

    def _check_tokens_and_strings(self) -> None:
        for name, most in MAX_TEXTS.items():
            texts = getattr(self, name)
            if len(texts) > most:
                raise RequestError(f"{name} holds {len(texts)} texts; give at most {most}", name)
            for text in texts:
                if not isinstance(text, str) or not text:
                    raise RequestError(f"{name} holds {text!r}; give non-empty strings", name)
        for name in ("stop_token_ids", "allowed_token_ids"):
            for token in getattr(self, name) or ():
                _integer(name, token, 0, 2**31 - 1)
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise RequestError(
                "allowed_token_ids is empty: no token could be chosen", "allowed_token_ids"
            )
        for token, bias in self.logit_bias.items():
            _integer("logit_bias", token, 0, 2**31 - 1)
            _number("logit_bias", bias, -100.0, 100.0)


def _integer(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} is {value!r}; give an integer from {low} to {high}", name)


def _number(name: str, value: Any, low: float, high: float, open_low: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not low <= value <= high or (open_low and value == low):
        above = "above" if open_low else "from"
        raise RequestError(f"{name} is {value!r}; give a number {above} {low} to {high}", name)
