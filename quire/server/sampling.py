"""Turns a request's sampling fields and the model's defaults into SamplingParams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from quire.errors import RequestError
from quire.sampling_params import SamplingParams, StructuredOutput
from quire.server.protocol.formats import ResponseFormat, StructuredOutputsParam
from quire.server.protocol.sampling import GenerationRequest

__all__ = ["check_logprobs", "check_stream_options", "form_field", "sampling_params"]

OWN_RULES = {"logprobs", "prompt_logprobs", "structured_outputs"}
COPIED = [
    field.name
    for field in fields(SamplingParams)
    if field.name in GenerationRequest.__struct_fields__ and field.name not in OWN_RULES
]


def sampling_params(
    request: GenerationRequest, defaults: Mapping[str, Any], **chosen: Any
) -> SamplingParams:
    """What the request says, else the model's defaults, else OpenAI's.

    chosen: parameters whose meaning depends on the route; they win.
    Raises RequestError, naming the field, for a value out of range.
    """
    given = {name: getattr(request, name) for name in COPIED}
    values = {name: value for name, value in given.items() if value is not None}
    form = _structured_output(request)
    return SamplingParams(**{**defaults, **values, **chosen, "structured_outputs": form})


def check_logprobs(name: str, value: int | None, limit: int) -> None:
    """Raise RequestError for a negative or too large number of alternatives."""
    if value is not None and not 0 <= value <= limit:
        raise RequestError(f"{name} is {value}; give 0 to {limit} (--max-logprobs)", name)


def check_stream_options(request: GenerationRequest) -> None:
    """Raise RequestError for stream fields that contradict each other."""
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options only works with stream: true", "stream_options")
    if request.stream and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs does not work with stream: true", "prompt_logprobs")


def form_field(request: GenerationRequest) -> str:
    """The field in which a request demands the form of its output."""
    return next(iter(_demands(request)), "structured_outputs")


def _structured_output(request: GenerationRequest) -> StructuredOutput | None:
    """The one demand on the form of the output; an error if there are several."""
    found = _demands(request)
    if len(found) > 1:
        names = " and ".join(found)
        raise RequestError(f"{names} exclude each other; give one", list(found)[1])
    return next(iter(found.values()), None)


def _demands(request: GenerationRequest) -> dict[str, StructuredOutput]:
    found = {
        "response_format": _from_response_format(request.response_format),
        "structured_outputs": _from_param(request.structured_outputs),
        "guided_json": _optional(json=_schema(request.guided_json)),
        "guided_regex": _optional(regex=request.guided_regex),
        "guided_choice": _optional(choice=_choice(request.guided_choice, "guided_choice")),
        "guided_grammar": _optional(grammar=request.guided_grammar),
    }
    return {name: form for name, form in found.items() if form is not None}


def _from_response_format(wanted: ResponseFormat | None) -> StructuredOutput | None:
    if wanted is None:
        return None
    if wanted.type in ("text", "json_object") and wanted.json_schema is not None:
        raise RequestError(
            f"a schema has no effect with type {wanted.type}; say json_schema",
            "response_format.json_schema",
        )
    if wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return StructuredOutput(json_object=True)
    if wanted.type != "json_schema":
        raise RequestError(
            f"the type is {wanted.type!r}; give text, json_object or json_schema",
            "response_format.type",
        )
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise RequestError("type json_schema needs a schema", "response_format.json_schema")
    return StructuredOutput(json=_schema(wanted.json_schema.schema))


def _from_param(wanted: StructuredOutputsParam | None) -> StructuredOutput | None:
    if wanted is None:
        return None
    return StructuredOutput(
        json=_schema(wanted.json),
        json_object=bool(wanted.json_object),
        regex=wanted.regex,
        choice=_choice(wanted.choice, "structured_outputs.choice"),
        grammar=wanted.grammar,
    )


def _optional(**wanted: Any) -> StructuredOutput | None:
    return None if None in wanted.values() else StructuredOutput(**wanted)


def _schema(schema: Mapping[str, Any] | bool | str | None) -> Mapping[str, Any] | str | None:
    """A schema in the two forms that the engine knows; true and false are schemas as well."""
    return json.dumps(schema) if isinstance(schema, bool) else schema


def _choice(choice: list[str] | None, name: str) -> tuple[str, ...] | None:
    if choice is not None and not choice:
        raise RequestError("the list of choices is empty", name)
    return None if choice is None else tuple(choice)
