"""Renders a conversation into a prompt with the model's own Jinja template."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import RequestError
from quire.text.template_process import TemplateProcess, shared_process
from quire.text.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "load_chat_template"]

Message = Mapping[str, Any]

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
TEXT_PARTS = {"text": "text", "refusal": "refusal"}  # type of a content part → its field
PROBE = "quire-probe"
CONTINUE_HERE = "quire-continue-here "


class ChatTemplate:
    """The template of one model; safe to share between threads, slow to share with an event loop.

    source: the usual template; tool_source: the one for requests with tools, if the model has two.
    special_tokens: "bos_token" and its like → text, which templates read as variables.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        tool_source: str | None = None,
        process: TemplateProcess | None = None,
    ) -> None:
        self._source = source
        self._tool_source = tool_source or source
        self._special_tokens = dict(special_tokens or {})
        self.process = process or shared_process()

    @property
    def sources(self) -> tuple[str, str]:
        """The usual template, and the one for requests with tools."""
        return self._source, self._tool_source

    def render(
        self,
        messages: Sequence[Message],
        /,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt for a conversation; encode it with `add_special_tokens=False`.

        continue_final_message: leave the last message open, so that the model goes on with it; then
        add_generation_prompt must be False.  kwargs: further variables for the template.
        Raises RequestError for messages that the template refuses or that hold more than text, and
        ModelError for a template that does not compile.
        """
        _check_options(add_generation_prompt, continue_final_message, kwargs)
        chat = self._prepare(messages)
        if continue_final_message:
            _mark_end(chat[-1])
        variables = {
            "messages": chat,
            "tools": tools or None,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        source = self._tool_source if tools else self._source
        text = self.process.render(source, {**self._special_tokens, **kwargs, **variables})
        return _cut_at_mark(text) if continue_final_message else text

    @functools.cached_property
    def wants_parts(self) -> bool:
        """Whether content must be a list of parts, found out by trying; else it is a string."""
        parts = [{"type": "text", "text": PROBE}]
        return not self._shows(PROBE) and self._shows(parts)

    def _shows(self, content: Any) -> bool:
        messages = [{"role": "user", "content": content}]
        variables = {**self._special_tokens, "messages": messages, "tools": None}
        try:
            text = self.process.render(self._source, variables)
        except RequestError:
            return False
        return PROBE in text and "'type'" not in text and '"type"' not in text

    def _prepare(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Copies of the messages in the shape that templates expect."""
        if not messages:
            raise RequestError("messages is empty; give at least one message", "messages")
        chat = [_plain(message) for message in messages]
        for message in chat:
            if "content" in message:
                parts = _parts(message["content"])
                keeps = self.wants_parts or any(part["type"] == "image" for part in parts)
                message["content"] = parts if keeps else "\n".join(p["text"] for p in parts)
        return chat


def load_chat_template(tokenizer: Tokenizer, source: str | None = None) -> ChatTemplate:
    """The template that came with a tokenizer, or `source` in its place.

    Raises RequestError if there is neither.
    """
    tool_source = None if source else tokenizer.chat_templates.get("tool_use")
    chosen = source or tokenizer.chat_template or tool_source
    if not chosen:
        raise RequestError(
            "the model has no chat template: start with --chat-template FILE, or send a finished "
            "prompt to the completions API",
            "messages",
        )
    return ChatTemplate(chosen, tokenizer.special_tokens_map, tool_source)


def _check_options(generate: bool, go_on: bool, kwargs: Mapping[str, Any]) -> None:
    if generate and go_on:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other; set one to false",
            "continue_final_message",
        )
    if "messages" in kwargs:
        raise RequestError("chat_template_kwargs may not set 'messages'", "chat_template_kwargs")


def _plain(message: Message) -> dict[str, Any]:
    """The message without empty fields, with arguments parsed and reasoning under every name."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"a message is {message!r}; give an object with a role", "messages")
    plain = {name: value for name, value in message.items() if value is not None}
    if isinstance(plain.get("tool_calls"), Sequence):
        plain["tool_calls"] = [_with_parsed_arguments(call) for call in plain["tool_calls"]]
    reasoning = next((plain[name] for name in REASONING_FIELDS if name in plain), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _with_parsed_arguments(call: Any) -> Any:
    """The call with its JSON arguments as a value: templates write them out themselves."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call  # what the model wrote was no JSON; it is shown to it as it was
    return {**call, "function": {**function, "arguments": arguments}}


def _parts(content: Any) -> list[dict[str, str]]:
    """The parts of a message: texts, and places of images; one if its content is a string."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise RequestError(f"content is {content!r}; give a string or a list of parts", "messages")
    return [_part(part) for part in content]


def _part(part: Any) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return {"type": "image"} if kind == "image" else {"type": "text", "text": _part_text(part)}


def _part_text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise RequestError(
            f"a content part of type {kind!r} is not supported; there are texts, "
            '{"type": "text", "text": "..."}, and images',
            "messages",
        )
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise RequestError(f"the text of a content part is {text!r}; give a string", "messages")
    return text


def _mark_end(message: dict[str, Any]) -> None:
    """Append a mark to the message's text, to find where it ends in the prompt."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + CONTINUE_HERE
    elif content and "text" in content[-1]:
        content[-1]["text"] += CONTINUE_HERE
    else:
        raise RequestError("the final message has no content to continue", "continue_final_message")


def _cut_at_mark(text: str) -> str:
    """The text up to the mark; where the template trimmed the mark's space, trimmed as well."""
    at = text.rfind(CONTINUE_HERE.strip())
    if at < 0:
        raise RequestError(
            "the chat template leaves out the text of the final message, so it cannot be continued",
            "continue_final_message",
        )
    return text[:at] if text.startswith(CONTINUE_HERE, at) else text[:at].rstrip()
