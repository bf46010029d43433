"""The requests and answers of POST /tokenize and POST /detokenize."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Struct, UnsetType

from quire.server.protocol.chat import ChatMessage
from quire.server.protocol.support import honoured, refused

__all__ = ["DetokenizeRequest", "Detokenized", "TokenizeRequest", "Tokenized"]


class TokenizeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A text or a conversation, exactly one of them."""

    model: Annotated[str | None, honoured("a served name; default: the first")] = None
    prompt: Annotated[str | None, honoured("the text")] = None
    messages: Annotated[list[ChatMessage] | None, honoured("the conversation")] = None
    add_special_tokens: Annotated[
        bool | None, honoured("default true for a prompt, false for messages")
    ] = None
    return_token_strs: Annotated[bool | None, honoured("also the text of each token")] = None
    add_generation_prompt: Annotated[bool | None, honoured("default true")] = None
    continue_final_message: Annotated[bool | None, honoured("default false")] = None
    chat_template: Annotated[str | None, honoured("only with --trust-request-chat-template")] = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, honoured("for the template")] = None
    tools: Annotated[list[dict[str, Any]] | None, honoured("if the template reads them")] = None
    mm_processor_kwargs: Annotated[Any, refused("the model's own settings are used")] = None


class Tokenized(Struct, frozen=True):
    """The ids, how many there are and how many the model takes."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType | None = UNSET


class DetokenizeRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Token ids."""

    tokens: Annotated[list[int], honoured("the ids")]
    model: Annotated[str | None, honoured("a served name; default: the first")] = None


class Detokenized(Struct, frozen=True):
    """The text of the ids, special tokens included."""

    prompt: str
