"""Writes answers to conversations in OpenAI's format, whole or in chunks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from msgspec import UNSET, UnsetType

from quire.outputs import Delta
from quire.server.answer import AnswerHead
from quire.server.generation import Generation
from quire.server.logprobs import chat_logprobs, prompt_logprobs
from quire.server.protocol.chat import ChatMessage, ChatRequest
from quire.server.protocol.chat_answer import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatReply,
)
from quire.server.protocol.usage import Usage

__all__ = ["ChatWriter"]


class ChatWriter:
    """One answer with n choices; in a stream each begins with its role and ends with its reason."""

    def __init__(self, head: AnswerHead, generation: Generation, body: ChatRequest) -> None:
        self._head = head
        self._generation = generation
        self._body = body
        self._begun: set[int] = set()
        self._opening = _last_text(body.messages) if body.echo else ""

    def whole(self, found: Sequence[tuple[int, Delta]]) -> ChatCompletion:
        """The answer to a request without stream."""
        head, generation = self._head, self._generation
        choices = [self._choice(delta) for _, delta in found]
        asked = self._body.prompt_logprobs is not None
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=choices,
            usage=generation.usage(head.num_output),
            system_fingerprint=head.fingerprint,
            prompt_logprobs=prompt_logprobs(found[0][1].prompt_logprobs) if asked else UNSET,
            prompt_token_ids=head.ids(generation.prompts[0].token_ids),
            sampling_params=head.sampling_params(generation),
        )

    async def events(self) -> AsyncIterator[list[ChatChunk]]:
        """The chunks of a stream, in batches."""
        async for batch in self._generation.batches():
            yield [chunk for _, delta in batch for chunk in self._chunks(delta)]
        if self._head.usage_at_end:
            yield [self._chunk(None, self._generation.usage(self._head.num_output))]

    def _choice(self, delta: Delta) -> ChatChoice:
        self._head.num_output += len(delta.token_ids)
        return ChatChoice(
            index=delta.index,
            message=ChatReply(self._opening + delta.text),
            logprobs=self._logprobs(delta),
            finish_reason=delta.finish_reason,
            stop_reason=delta.stop_reason,
            token_ids=self._head.ids(delta.token_ids),
        )

    def _chunks(self, delta: Delta) -> list[ChatChunk]:
        """What a delta becomes: a role the first time, text if any, a reason the last time."""
        chunks, head = [], self._head
        if delta.index not in self._begun:
            chunks.append(self._first_chunk(delta.index))
        head.num_output += len(delta.token_ids)
        logprobs, ids = self._logprobs(delta), head.ids(delta.token_ids)
        if delta.text or ids or (logprobs is not None and logprobs.content):
            text = ChatDelta(content=delta.text)
            choice = ChatChunkChoice(delta.index, text, logprobs, None, token_ids=ids)
            chunks.append(self._chunk(choice))
        if delta.finish_reason is not None:
            reason, stop = delta.finish_reason, delta.stop_reason
            chunks.append(
                self._chunk(ChatChunkChoice(delta.index, ChatDelta(), None, reason, stop))
            )
        return chunks

    def _first_chunk(self, index: int) -> ChatChunk:
        head, first = self._head, not self._begun
        self._begun.add(index)
        role = ChatDelta(role="assistant", content=self._opening)
        return self._chunk(
            ChatChunkChoice(index, role, None, None),
            ids=head.ids(self._generation.prompts[0].token_ids) if first else UNSET,
            params=head.sampling_params(self._generation) if first else UNSET,
        )

    def _chunk(
        self,
        choice: ChatChunkChoice | None,
        usage: Usage | None = None,
        ids: list[int] | UnsetType = UNSET,
        params: dict[str, Any] | UnsetType = UNSET,
    ) -> ChatChunk:
        head = self._head
        return ChatChunk(
            id=head.id,
            created=head.created,
            model=head.model,
            choices=[] if choice is None else [choice],
            usage=usage or head.chunk_usage(self._generation),
            system_fingerprint=head.fingerprint,
            prompt_token_ids=ids,
            sampling_params=params,
        )

    def _logprobs(self, delta: Delta) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        num_top = self._body.top_logprobs or 0
        return chat_logprobs(delta.logprobs or (), num_top, self._head.tokenizer, self._head.as_ids)


def _last_text(messages: Sequence[ChatMessage]) -> str:
    """The text of the last message if it is the assistant's, which the answer goes on with."""
    last = messages[-1]
    if last.role != "assistant" or last.content is None:
        return ""
    if isinstance(last.content, str):
        return last.content
    return "\n".join(part.text or part.refusal or "" for part in last.content)
