"""Turns prompts and parameters into engine requests, and engine events into text."""

from __future__ import annotations

import functools
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quire.control.request import Request
from quire.control.stop import StopRules
from quire.errors import RequestError
from quire.models.wrapped import ServedSpec
from quire.runtime.rope_tables import RopeTables
from quire.sampling.state import GrammarState, SamplingState
from quire.sampling_params import SamplingParams, StructuredOutput
from quire.text.output import OutputAssembler
from quire.text.tokenizer import Tokenizer
from quire.vision.prompt_images import PromptImages

__all__ = ["Completion", "Frontend", "Prepared"]


@dataclass(slots=True)
class Completion:
    """One completion of a request: what the engine runs, and what makes text of its tokens."""

    request: Request
    state: SamplingState
    assembler: OutputAssembler
    images: PromptImages | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A validated request: its n completions, not yet submitted."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    completions: tuple[Completion, ...]


class Frontend:
    """Knows one model's tokenizer and limits; checks and prepares requests.

    compile_grammar: makes the state of a grammar, for requests that ask for one.
    """

    def __init__(
        self,
        spec: ServedSpec,
        tokenizer: Tokenizer,
        max_model_len: int,
        eos_token_ids: Sequence[int],
        compile_grammar: Callable[[StructuredOutput], GrammarState],
        ropes: RopeTables,
        seed: int = 0,
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.eos_token_ids = frozenset(eos_token_ids)
        self._compile_grammar = compile_grammar
        self._ropes = ropes
        self._random = random.Random(seed)
        self._bad_words = functools.lru_cache(16)(self._encode_bad_words)

    def warm(self, params: SamplingParams) -> None:
        """Make what equal demands share, so that `prepare` takes no time for it; thread-safe.

        A grammar may take seconds, and so may thousands of bad words.  Raises as `prepare` does.
        """
        self._bad_words(params.bad_words)
        if params.structured_outputs is not None:
            self._compile_grammar(params.structured_outputs)

    def prepare(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        request_id: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
        images: PromptImages | None = None,
    ) -> Prepared:
        """Tokenize and validate one request.  Raises RequestError, naming the field at fault.

        images: those in the prompt, which is then token ids that they have their places in.
        """
        text = prompt if isinstance(prompt, str) else None
        tokens = self._tokens(prompt)
        params = self._checked(params, len(tokens))
        name = request_id or uuid.uuid4().hex
        arrival = time.monotonic()
        deadline = None if timeout_s is None else arrival + timeout_s
        salt = self._salt(cache_salt, len(tokens))
        bad_words = self._bad_words(params.bad_words)
        wanted = params.structured_outputs
        grammar = None if wanted is None else self._compile_grammar(wanted)
        seed = self._random.getrandbits(64) if params.seed is None else params.seed
        completions = []
        for index in range(params.n):
            stop = self._stop_rules(params)
            request = Request(
                name if params.n == 1 else f"{name}:{index}",
                tokens,
                stop,
                priority=priority,
                arrival=arrival,
                deadline=deadline,
                cache_salt=salt,
                use_prefix_cache=params.prompt_logprobs is None,
                allow_drafts=grammar is None,
                plan_ahead=grammar is None and not bad_words,
                contents=() if images is None else images.contents,
            )
            state = self._state(tokens, params, seed + index, stop, bad_words, grammar)
            assembler = OutputAssembler(index, self.tokenizer, tokens, params)
            completions.append(Completion(request, state, assembler, images))
        return Prepared(name, text, tokens, tuple(completions))

    def _tokens(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            tokens = self.tokenizer.encode(prompt)
            self._check_token("prompt", max(tokens, default=0))
        else:
            tokens = list(prompt)
            for token in tokens:
                self._check_token("prompt", token)
        if not tokens:
            raise RequestError("the prompt has no tokens; give at least one", "prompt")
        if len(tokens) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens; the model length is {self.max_model_len} "
                "and at least one token must be generated: shorten the prompt",
                "prompt",
            )
        return tokens

    def _checked(self, params: SamplingParams, prompt_length: int) -> SamplingParams:
        """Check token ids against the vocabulary; clip max_tokens to the model length."""
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            for token in getattr(params, name) or ():
                self._check_token(name, token)
        room = self.max_model_len - prompt_length
        if params.min_tokens > room:
            raise RequestError(
                f"min_tokens {params.min_tokens} does not fit: {room} tokens are left after the "
                f"prompt at a model length of {self.max_model_len}",
                "min_tokens",
            )
        wanted = room if params.max_tokens is None else min(params.max_tokens, room)
        return replace(params, max_tokens=wanted)

    def _check_token(self, name: str, token: Any) -> None:
        if isinstance(token, bool) or not isinstance(token, int):
            raise RequestError(f"{name} holds {token!r}; give token ids", name)
        if not 0 <= token < self.spec.vocab_size:
            raise RequestError(
                f"{name} holds token id {token}; the vocabulary ends at {self.spec.vocab_size - 1}",
                name,
            )

    def _stop_rules(self, params: SamplingParams) -> StopRules:
        assert params.max_tokens is not None
        return StopRules(
            params.max_tokens,
            params.min_tokens,
            self.eos_token_ids,
            frozenset(params.stop_token_ids),
            params.ignore_eos,
        )

    def _state(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        seed: int,
        stop: StopRules,
        bad_words: Sequence[Sequence[int]],
        grammar: GrammarState | None,
    ) -> SamplingState:
        return SamplingState(
            tokens,
            params,
            seed,
            sorted(stop.forbidden_token_ids(0)),
            bad_words,
            None if grammar is None else grammar.copy(),
            self.spec.vocab_size,
        )

    def _encode_bad_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Each word as token ids, as it stands at the start of a text and after a space."""
        encode = self.tokenizer.encode
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            for spelling in (word, " " + word.lstrip()):
                ids = tuple(encode(spelling, add_special_tokens=False))
                if ids:
                    found[ids] = None
        return list(found)

    def _salt(self, cache_salt: str, prompt_length: int) -> bytes:
        rope_class = self._ropes.rope_class(prompt_length)
        if not cache_salt and not any(rope_class):
            return b""
        return f"{cache_salt}\0{rope_class}".encode()
