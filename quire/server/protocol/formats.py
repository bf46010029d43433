"""What a request may demand of the form of its output: JSON, a regular expression, a grammar."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Struct

from quire.server.protocol.support import accepted, honoured, refused

__all__ = ["JsonSchemaFormat", "ResponseFormat", "StructuredOutputsParam"]


class JsonSchemaFormat(Struct, forbid_unknown_fields=True, kw_only=True):
    """OpenAI's `response_format.json_schema`."""

    schema: Annotated[dict[str, Any] | bool | None, honoured("the JSON schema")] = None
    name: Annotated[str | None, accepted("a name for the schema")] = None
    description: Annotated[str | None, accepted("not shown to the model")] = None
    strict: Annotated[bool | None, accepted("the schema is always followed strictly")] = None


class ResponseFormat(Struct, forbid_unknown_fields=True, kw_only=True):
    """OpenAI's `response_format`."""

    type: Annotated[str, honoured("`text`, `json_object` or `json_schema`")]
    json_schema: Annotated[JsonSchemaFormat | None, honoured("with type `json_schema`")] = None


class StructuredOutputsParam(Struct, forbid_unknown_fields=True, kw_only=True):
    """vLLM's `structured_outputs`: exactly one of the honoured fields."""

    json: Annotated[dict[str, Any] | bool | str | None, honoured("a JSON schema, or its text")] = (
        None
    )
    json_object: Annotated[bool | None, honoured("any JSON object")] = None
    regex: Annotated[str | None, honoured("a regular expression for the whole output")] = None
    choice: Annotated[list[str] | None, honoured("one of these strings")] = None
    grammar: Annotated[str | None, honoured("a grammar in Lark syntax")] = None
    disable_any_whitespace: Annotated[Any, refused("white space is bounded already", False)] = None
    disable_additional_properties: Annotated[
        Any, refused("say additionalProperties in the schema", False)
    ] = None
    whitespace_pattern: Annotated[Any, refused("white space is bounded already")] = None
    structural_tag: Annotated[Any, refused("structural tags are not built yet")] = None
