"""Reads generation_config.json: the sampling defaults and end tokens of a model's authors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError, RequestError
from quire.sampling_params import SamplingParams

__all__ = ["GenerationDefaults", "read_generation_defaults"]

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """sampling: SamplingParams fields to use where a request says nothing.  eos: end tokens."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    eos_token_ids: tuple[int, ...] = ()


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """Read the file; a model without one has no defaults.

    do_sample false means temperature 0, as transformers has it; max_new_tokens becomes max_tokens.
    Raises CheckpointError for a file that is not a JSON object, or a value out of range.
    """
    path = directory / "generation_config.json"
    if not path.is_file():
        return GenerationDefaults()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected a JSON object")
    sampling = {key: values[key] for key in SAMPLING_KEYS if values.get(key) is not None}
    if values.get("do_sample") is False:
        sampling["temperature"] = 0.0
    if values.get("max_new_tokens"):
        sampling["max_tokens"] = values["max_new_tokens"]
    try:
        SamplingParams(**sampling)
    except RequestError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return GenerationDefaults(sampling, _token_ids(path, values.get("eos_token_id")))


def _token_ids(path: Path, value: Any) -> tuple[int, ...]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{path}: eos_token_id is {value!r}; expected token ids")
    return tuple(ids)
