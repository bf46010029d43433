"""Turns OpenAI messages into the model's prompt, refusing what the template would not read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from quire.errors import ConfigError, ModelError, RequestError
from quire.server.config import ServerConfig
from quire.server.protocol.chat import ChatMessage, ContentPart
from quire.text.chat_template import ChatTemplate, load_chat_template
from quire.text.template_variables import reads
from quire.text.tokenizer import Tokenizer
from quire.vision.messages import IMAGE_PART

__all__ = ["ChatPrompts"]

OWN_FIELDS = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
TEXT_FIELDS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


class ChatPrompts:
    """Renders conversations; thread-safe, and slow enough to be called in a thread.

    Raises ConfigError if the operator's template cannot be read or compiled, or does not read a
    variable that the operator gives it.
    """

    def __init__(self, tokenizer: Tokenizer, config: ServerConfig) -> None:
        self._tokenizer = tokenizer
        self._source = _read(config.chat_template) if config.chat_template else None
        self._defaults = config.default_chat_template_kwargs
        self._trusts_requests = config.trust_request_chat_template
        self._check_operator_options()

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        chat_template: str | None = None,
        reasoning_effort: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt.  None means the default.  Raises RequestError naming the field at fault."""
        source = self._trusted(chat_template)
        effort = {"reasoning_effort": reasoning_effort} if reasoning_effort is not None else {}
        self._check_read(source, {"tools": tools, "documents": documents, **effort})
        self._check_variables(source, variables or {})
        template = load_chat_template(self._tokenizer, source) if source else self._template
        knows_developer = self._reads(source, "developer")
        try:
            return template.render(
                [_plain(n, each, knows_developer) for n, each in enumerate(messages)],
                tools=tools or None,
                documents=documents or None,
                add_generation_prompt=add_generation_prompt is not False,
                continue_final_message=bool(continue_final_message),
                **{**self._defaults, **effort, **(variables or {})},
            )
        except ModelError as error:
            param = "chat_template" if chat_template else "messages"
            raise RequestError(str(error), param) from error

    def warm(self) -> None:
        """Compile the template now, so that the first request does not wait for it."""
        # A model without a template, or one that wants other messages, says so when asked.
        with contextlib.suppress(RequestError):
            self.render([ChatMessage(role="user", content="hello")])

    @cached_property
    def _template(self) -> ChatTemplate:
        return load_chat_template(self._tokenizer, self._source)

    def _trusted(self, chat_template: str | None) -> str | None:
        if chat_template is not None and not self._trusts_requests:
            raise RequestError(
                "templates in requests are refused: start with --trust-request-chat-template",
                "chat_template",
            )
        return chat_template

    def _check_read(self, source: str | None, fields: Mapping[str, Any]) -> None:
        """Raise RequestError for a field that is given and that the template never mentions."""
        for name, value in fields.items():
            if value and not self._reads(source, name):
                raise RequestError(f"the chat template does not read {name!r}", name)

    def _check_variables(self, source: str | None, names: Iterable[str]) -> None:
        """Raise RequestError for a variable that has a field of its own, or that is not read."""
        for name in names:
            if name in OWN_FIELDS:
                raise RequestError(f"{name!r} is a field of its own", "chat_template_kwargs")
            if not self._reads(source, name):
                raise RequestError(
                    f"the chat template does not read {name!r}, so it would have no effect",
                    "chat_template_kwargs",
                )

    def _reads(self, source: str | None, name: str) -> bool:
        own = [self._source] if self._source else self._tokenizer.chat_templates.values()
        texts = [source] if source else [*own, self._tokenizer.chat_template or ""]
        return reads(texts, name)

    def _check_operator_options(self) -> None:
        try:
            self._check_variables(None, self._defaults)
        except RequestError as error:
            raise ConfigError(f"--default-chat-template-kwargs: {error}") from error
        if self._source is None:
            return
        try:
            self._template.render([{"role": "user", "content": "hello"}])
        except ModelError as error:
            raise ConfigError(f"--chat-template: {error}") from error
        except RequestError:
            pass  # the template compiles, and wants other messages than this one


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template {path!r} cannot be read: {error}") from error


def _plain(n: int, message: ChatMessage, knows_developer: bool) -> dict[str, Any]:
    """The message as templates want it.

    OpenAI's newer role "developer" becomes "system" for the templates that would drop it.
    """
    role = "system" if message.role == "developer" and not knows_developer else message.role
    plain: dict[str, Any] = {"role": role, "content": _text(n, message.content)}
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        if getattr(message, name) is not None:
            plain[name] = getattr(message, name)
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    return plain


def _text(n: int, content: str | list[ContentPart] | None) -> str | list[dict[str, Any]]:
    if content is None or isinstance(content, str):
        return content or ""
    return [_part(part, f"messages[{n}].content[{at}]") for at, part in enumerate(content)]


def _part(part: ContentPart, path: str) -> dict[str, Any]:
    if (part.type == "image_url") != (part.image_url is not None):
        raise RequestError(
            f"a part of type {part.type!r} {'needs' if part.image_url is None else 'has no'} "
            "image_url",
            f"{path}.image_url",
        )
    if part.type == "image_url":
        return dict(IMAGE_PART)
    return {"type": "text", "text": _part_text(part, path)}


def _part_text(part: ContentPart, path: str) -> str:
    field = TEXT_FIELDS.get(part.type)
    if field is None:
        raise RequestError(
            f"parts of type {part.type!r} are not supported: text and image_url are", path
        )
    other = "refusal" if field == "text" else "text"
    if getattr(part, other) is not None:
        raise RequestError(f"a {part.type} part has no {other}", f"{path}.{other}")
    text: str | None = getattr(part, field)
    if text is None:
        raise RequestError(f"a {part.type} part needs {field!r}", f"{path}.{field}")
    return text
