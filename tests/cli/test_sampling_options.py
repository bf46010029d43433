"""Sampling options: one per field, over the model's defaults, over the command's."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from quire.cli.parser import CommandParser
from quire.cli.sampling_options import HELPS, add_sampling_options, sampling_params
from quire.cli.usage import UsageError
from quire.errors import RequestError
from quire.sampling_params import SamplingParams, StructuredOutput


def params(*arguments: str, **model_defaults: Any) -> SamplingParams:
    parser = CommandParser("quire test", "a test")
    add_sampling_options(parser, 256)
    return sampling_params(parser.parse(arguments), model_defaults, max_tokens=256)


def test_every_field_has_help() -> None:
    assert set(HELPS) == {option.name for option in fields(SamplingParams)}


def test_help_shows_the_command_s_length() -> None:
    parser = CommandParser("quire test", "a test")
    add_sampling_options(parser, 256)
    assert re.search(r"--max-tokens N\s.*\(default:\s+256\)", parser.format_help(), re.DOTALL)


def test_precedence() -> None:
    assert params() == SamplingParams(max_tokens=256)
    assert params(temperature=0.6, max_tokens=9) == SamplingParams(temperature=0.6, max_tokens=9)
    assert params("--temperature", "0", temperature=0.6).temperature == 0.0
    assert params("--max-tokens", "auto").max_tokens is None


def test_values_of_every_shape() -> None:
    given = params(
        *("--top-k", "-1", "--presence-penalty", "-0.5", "--stop", "a", "b", "--ignore-eos"),
        *("--logit-bias", '{"5": -1.5}', "--structured-outputs", '{"regex": "a+"}', "-n", "2"),
    )
    assert given == SamplingParams(
        n=2,
        top_k=-1,
        presence_penalty=-0.5,
        stop=("a", "b"),
        ignore_eos=True,
        logit_bias={5: -1.5},
        structured_outputs=StructuredOutput(regex="a+"),
        max_tokens=256,
    )


def test_wrong_values() -> None:
    with pytest.raises(RequestError, match="temperature is -1"):
        params("--temperature", "-1")
    with pytest.raises(UsageError, match="keys are token ids"):
        params("--logit-bias", '{"a": 1}')
    with pytest.raises(UsageError, match="'regexp' is not one of json, json_object, regex"):
        params("--structured-outputs", '{"regexp": "a"}')
