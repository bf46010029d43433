"""How many tokens a request cost, in OpenAI's words."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["PromptTokensDetails", "Usage"]


class PromptTokensDetails(Struct, frozen=True):
    """cached_tokens: prompt tokens whose KV was found in the prefix cache."""

    cached_tokens: int


class Usage(Struct, frozen=True):
    """Each prompt counts once, however many completions it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
