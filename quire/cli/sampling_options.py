"""The options of a request: one for each field of SamplingParams."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from quire.cli.options import add_options, given_options
from quire.cli.usage import UsageError
from quire.sampling_params import SamplingParams, StructuredOutput

__all__ = ["HELPS", "add_sampling_options", "sampling_params"]

HELPS: Mapping[str, str] = {
    "n": "completions to make",
    "temperature": "0 takes the likeliest token; higher is more varied",
    "top_p": "draw from the likeliest tokens that make up this probability",
    "top_k": "draw from this many likeliest tokens; 0 for all",
    "min_p": "drop tokens below this share of the likeliest one's probability",
    "repetition_penalty": "above 1 avoids tokens of prompt and output",
    "presence_penalty": "above 0 avoids tokens that the output holds",
    "frequency_penalty": "above 0 avoids tokens by how often the output holds them",
    "seed": "makes sampling repeatable",
    "max_tokens": "tokens to generate at most; auto: up to the model length",
    "min_tokens": "tokens to generate before it may end",
    "stop": "texts that end the completion",
    "stop_token_ids": "token ids that end the completion",
    "ignore_eos": "go on after the end-of-text token",
    "include_stop_str_in_output": "keep the stop text",
    "skip_special_tokens": "leave special tokens out of the text",
    "logprobs": "alternatives per token to report",
    "prompt_logprobs": "alternatives per prompt token to report",
    "logit_bias": "object of token id to a number added to its logit",
    "allowed_token_ids": "the only token ids that may be chosen",
    "bad_words": "words that may not be generated",
    "structured_outputs": 'a grammar, as in {"regex": "[0-9]+"} or {"json": {"type": "object"}}',
}


def add_sampling_options(
    parser: argparse.ArgumentParser, max_tokens: int | None, skip: Sequence[str] = ()
) -> None:
    """Add the options but for --seed, which is the engine's as well; max_tokens is the default."""
    title = "sampling (what the model's authors recommend comes before these defaults)"
    skip = (*skip, "seed")
    add_options(parser, title, SamplingParams, skip, HELPS, {"max_tokens": max_tokens})


def sampling_params(
    namespace: argparse.Namespace, model_defaults: Mapping[str, Any], **command_defaults: Any
) -> SamplingParams:
    """What was given, over the model's recommendations, over the command's own defaults."""
    given = given_options(namespace, SamplingParams)
    if "logit_bias" in given:
        given["logit_bias"] = _by_token(given["logit_bias"])
    if "structured_outputs" in given:
        given["structured_outputs"] = _structured(given["structured_outputs"])
    return SamplingParams(**{**command_defaults, **model_defaults, **given})


def _by_token(biases: Mapping[str, Any]) -> dict[int, Any]:
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError:
        raise UsageError(f"--logit-bias: keys are token ids, got {', '.join(biases)}") from None


def _structured(values: Mapping[str, Any]) -> StructuredOutput:
    known = StructuredOutput.__slots__
    for name in values:
        if name not in known:
            raise UsageError(f"--structured-outputs: {name!r} is not one of {', '.join(known)}")
    return StructuredOutput(**values)
