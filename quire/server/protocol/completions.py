"""The request and answers of POST /v1/completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from quire.server.protocol.sampling import GenerationRequest
from quire.server.protocol.support import honoured, refused
from quire.server.protocol.usage import Usage

__all__ = ["Completion", "CompletionChoice", "CompletionLogprobs", "CompletionRequest"]


class CompletionRequest(GenerationRequest, forbid_unknown_fields=True, kw_only=True):
    """Continue one or several prompts."""

    prompt: Annotated[
        str | list[str | int | list[int]],
        honoured("a text, a list of texts, token ids, or a list of lists of token ids"),
    ]
    echo: Annotated[bool | None, honoured("begin the text with the prompt")] = None
    logprobs: Annotated[int | None, honoured("alternatives per token, legacy format")] = None

    suffix: Annotated[Any, refused("filling in the middle is not built yet", "")] = None
    best_of: Annotated[int | None, honoured("only if equal to n: nothing is thrown away")] = None
    prompt_embeds: Annotated[Any, refused("only text and token ids are built")] = None


class CompletionLogprobs(Struct, frozen=True):
    """Parallel lists, one entry per token; text_offset counts characters of this answer's text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Struct, frozen=True):
    """One completion, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None = None
    prompt_logprobs: list[dict[str, Any] | None] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class Completion(Struct, frozen=True):
    """A whole answer, or one chunk of it."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: str | None = None
    object: Literal["text_completion"] = "text_completion"
    sampling_params: dict[str, Any] | UnsetType = UNSET
