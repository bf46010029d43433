"""Writes completions in OpenAI's legacy format, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import UNSET, UnsetType

from quire.outputs import Delta, TokenLogprobs
from quire.server.answer import AnswerHead
from quire.server.generation import Generation
from quire.server.logprobs import LegacyLogprobs, prompt_logprobs
from quire.server.protocol.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
)
from quire.server.protocol.usage import Usage

__all__ = ["CompletionWriter"]


class CompletionWriter:
    """One answer; completion i of prompt p is choice p * n + i.

    A whole choice is written as the first and only chunk of itself.
    """

    def __init__(self, head: AnswerHead, generation: Generation, body: CompletionRequest) -> None:
        self._head = head
        self._generation = generation
        self._body = body
        self._begun: set[int] = set()
        self._legacy: dict[int, LegacyLogprobs] = {}

    def whole(self, found: Sequence[tuple[int, Delta]]) -> Completion:
        """The answer to a request without stream."""
        choices = [self._choice(n, delta) for n, delta in found]
        usage = self._generation.usage(self._head.num_output)
        return self._answer(choices, usage, self._head.sampling_params(self._generation))

    async def events(self) -> AsyncIterator[list[Completion]]:
        """The chunks of a stream, in batches."""
        head, generation = self._head, self._generation
        params = head.sampling_params(generation)
        async for batch in generation.batches():
            chunks = []
            for n, delta in batch:
                choice = self._choice(n, delta)
                if _says_something(choice):
                    chunks.append(self._answer([choice], head.chunk_usage(generation), params))
                    params = UNSET
            yield chunks
        if head.usage_at_end:
            yield [self._answer([], generation.usage(head.num_output), UNSET)]

    def _answer(
        self,
        choices: list[CompletionChoice],
        usage: Usage | UnsetType | None,
        params: dict[str, Any] | UnsetType,
    ) -> Completion:
        head = self._head
        return Completion(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=usage,
            system_fingerprint=head.fingerprint,
            sampling_params=params,
        )

    def _choice(self, n: int, delta: Delta) -> CompletionChoice:
        """What a delta of prompt n adds; the first of each choice also brings the prompt's part."""
        index = n * self._generation.params.n + delta.index
        first = index not in self._begun
        self._begun.add(index)
        self._head.num_output += len(delta.token_ids)
        prompt_ids = self._generation.prompts[n].token_ids
        of_prompt = first and self._body.prompt_logprobs is not None
        return CompletionChoice(
            index=index,
            text=self._echo(n, first) + delta.text,
            logprobs=self._logprobs(index, n, delta, first),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            prompt_logprobs=prompt_logprobs(delta.prompt_logprobs) if of_prompt else UNSET,
            token_ids=self._head.ids(delta.token_ids),
            prompt_token_ids=self._head.ids(prompt_ids) if first else UNSET,
        )

    def _echo(self, n: int, first: bool) -> str:
        if not (first and self._body.echo):
            return ""
        prompt, skip = self._generation.prompts[n], self._generation.params.skip_special_tokens
        if prompt.text is not None and skip:
            return prompt.text
        return self._head.tokenizer.decode(prompt.token_ids, skip)

    def _logprobs(self, index: int, n: int, delta: Delta, first: bool) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        tokens = list(delta.token_ids)
        entries: list[TokenLogprobs | None] = list(delta.logprobs or ())
        with_prompt = first and bool(self._body.echo) and delta.prompt_logprobs is not None
        if with_prompt:
            tokens = [*self._generation.prompts[n].token_ids, *tokens]
            entries = [*(delta.prompt_logprobs or ()), *entries]
        return self._legacy_of(index).add(tokens, entries, begins_text=with_prompt)

    def _legacy_of(self, index: int) -> LegacyLogprobs:
        if index not in self._legacy:
            skip = self._generation.params.skip_special_tokens
            self._legacy[index] = LegacyLogprobs(self._head.tokenizer, skip, self._head.as_ids)
        return self._legacy[index]


def _says_something(choice: CompletionChoice) -> bool:
    """False while a character is incomplete and nobody asked for tokens."""
    tokens = choice.logprobs is not None and choice.logprobs.tokens
    return bool(choice.text or choice.finish_reason or tokens or choice.token_ids)
