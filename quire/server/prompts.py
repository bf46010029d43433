"""Turns what a request calls a prompt into token ids, long texts off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from quire.errors import RequestError
from quire.text.tokenizer import Tokenizer
from quire.vision.prompt_images import PromptImages

__all__ = ["Prompt", "check_length", "read_prompts", "tokenize", "truncate"]

LONG_CHARACTERS = 4096  # a text that takes the tokenizer longer than a thread takes to wake up
MAX_CHARACTERS_PER_TOKEN = 128  # longest on average that is worth tokenizing to find out

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; text is None where only token ids are known, images where there are none."""

    token_ids: list[int]
    text: str | None = None
    images: PromptImages | None = None


async def read_prompts(
    prompt: str | list[str | int | list[int]],
    tokenizer: Tokenizer,
    max_model_len: int,
    add_special_tokens: bool = True,
) -> list[Prompt]:
    """The prompts of a completion request: one for a text or token ids, else one per element.

    Raises RequestError for an empty list or one with elements of several kinds.
    """
    found = _split(prompt)
    texts = [each for each in found if isinstance(each, str)]
    ids = await tokenize(texts, tokenizer, max_model_len, add_special_tokens)
    prompts = [Prompt(tokens, text) for text, tokens in zip(texts, ids, strict=True)]
    return prompts or [Prompt(each) for each in found if isinstance(each, list)]


async def tokenize(
    texts: list[str], tokenizer: Tokenizer, max_model_len: int, add_special_tokens: bool
) -> list[list[int]]:
    """The token ids of each text.  Raises RequestError for a text that can never fit."""
    for text in texts:
        check_length(text, max_model_len, "prompt")
    return await _off_loop_if(
        sum(map(len, texts)) > LONG_CHARACTERS,
        lambda: [tokenizer.encode(text, add_special_tokens) for text in texts],
    )


def check_length(text: str, max_model_len: int, field: str) -> None:
    """Raise RequestError for a text that can never fit, without tokenizing it to find out."""
    if len(text) > MAX_CHARACTERS_PER_TOKEN * max_model_len:
        name = field.partition("[")[0]
        raise RequestError(
            f"the {name} has {len(text)} characters; the model takes {max_model_len} tokens", field
        )


def truncate(prompt: Prompt, keep: int | None, room: int) -> Prompt:
    """The last `keep` tokens of a prompt, -1 meaning as many as there is room for."""
    if keep is None:
        return prompt
    if keep < -1 or keep == 0:
        raise RequestError(
            f"truncate_prompt_tokens is {keep}; give 1 or more, or -1", "truncate_prompt_tokens"
        )
    kept = max(1, room) if keep == -1 else keep
    if len(prompt.token_ids) <= kept:
        return prompt
    return Prompt(prompt.token_ids[-kept:])


def _split(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise RequestError("the prompt is an empty list; give text or token ids", "prompt")
    first = type(prompt[0])
    for n, each in enumerate(prompt):
        if type(each) is not first:
            raise RequestError("a prompt list holds texts, ids or lists of ids", f"prompt[{n}]")
    if first is int:
        return [[each for each in prompt if isinstance(each, int)]]
    return [each for each in prompt if not isinstance(each, int)]


async def _off_loop_if(long: bool, work: Callable[[], Value]) -> Value:
    return await asyncio.to_thread(work) if long else work()
