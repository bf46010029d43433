"""The answers of GET /v1/models, and errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = ["ErrorAnswer", "ErrorDetail", "ModelCard", "ModelList"]


class ModelCard(Struct, frozen=True):
    """One served name; max_model_len is the limit in effect, root the model it stands for.

    implementation: whose code computes it: "quire", or "transformers", which is slower.
    """

    id: str
    created: int
    root: str
    max_model_len: int
    implementation: str
    owned_by: str = "quire"
    parent: None = None
    permission: tuple[dict[str, Any], ...] = ()
    object: Literal["model"] = "model"


class ModelList(Struct, frozen=True):
    """Every served name."""

    data: list[ModelCard]
    object: Literal["list"] = "list"


class ErrorDetail(Struct, frozen=True):
    """What is wrong, in which field, and what kind of error it is."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorAnswer(Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail
