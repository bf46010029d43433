"""The request of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Struct

from quire.server.protocol.sampling import GenerationRequest
from quire.server.protocol.support import accepted, honoured, refused

__all__ = ["ChatMessage", "ChatRequest", "ContentPart", "ImageUrl"]

TOOLS = "tools are shown to the model, but calls in its answer are not parsed yet"
FUNCTIONS = "it is the old form of tools"
TEXT_ONLY = "only text and images are built"


class ImageUrl(Struct, forbid_unknown_fields=True, kw_only=True):
    """Where an image is."""

    url: Annotated[str, honoured("a data: URI; nothing is fetched from the network")]
    detail: Annotated[Any, refused("images are read in full detail", "auto", "high")] = None


class ContentPart(Struct, forbid_unknown_fields=True, kw_only=True):
    """One part of a message's content."""

    type: Annotated[str, honoured("`text`, `input_text`, `output_text`, `refusal` or `image_url`")]
    text: Annotated[str | None, honoured("the text of a text part")] = None
    refusal: Annotated[str | None, honoured("the text of a refusal part")] = None
    image_url: Annotated[
        str | ImageUrl | None, honoured("an image, for models that see; [more](vision.md)")
    ] = None
    input_audio: Annotated[Any, refused(TEXT_ONLY)] = None
    video_url: Annotated[Any, refused(TEXT_ONLY)] = None
    audio_url: Annotated[Any, refused(TEXT_ONLY)] = None
    file: Annotated[Any, refused(TEXT_ONLY)] = None
    annotations: Annotated[Any, accepted("comes back in histories")] = None
    cache_control: Annotated[Any, accepted("prefixes are found by their content")] = None


class ChatMessage(Struct, forbid_unknown_fields=True, kw_only=True):
    """One message; what the chat template reads of it is up to the template."""

    role: Annotated[str, honoured("system, user, assistant, ...: given to the template")]
    content: Annotated[
        str | list[ContentPart] | None, honoured("text, or parts joined by line feeds")
    ] = None
    name: Annotated[str | None, honoured("given to the template")] = None
    tool_calls: Annotated[list[dict[str, Any]] | None, honoured("given to the template")] = None
    tool_call_id: Annotated[str | None, honoured("given to the template")] = None
    reasoning_content: Annotated[str | None, honoured("given to the template")] = None
    reasoning: Annotated[str | None, honoured("given to the template as reasoning_content")] = None
    function_call: Annotated[Any, refused(FUNCTIONS)] = None
    refusal: Annotated[Any, accepted("comes back in histories")] = None
    annotations: Annotated[Any, accepted("comes back in histories")] = None
    audio: Annotated[Any, refused(TEXT_ONLY)] = None


class ChatRequest(GenerationRequest, forbid_unknown_fields=True, kw_only=True):
    """Answer the last message of a conversation."""

    messages: Annotated[list[ChatMessage], honoured("the conversation, at least one message")]
    max_completion_tokens: Annotated[int | None, honoured("OpenAI's newer max_tokens")] = None
    logprobs: Annotated[bool | None, honoured("log probabilities of the tokens")] = None
    top_logprobs: Annotated[int | None, honoured("alternatives per token, with logprobs")] = None
    echo: Annotated[bool | None, honoured("begin the text with the last message's text")] = None

    add_generation_prompt: Annotated[bool | None, honoured("default true")] = None
    continue_final_message: Annotated[
        bool | None, honoured("go on with the last message; needs add_generation_prompt false")
    ] = None
    documents: Annotated[
        list[dict[str, Any]] | None, honoured("if the template reads documents")
    ] = None
    chat_template: Annotated[str | None, honoured("only with --trust-request-chat-template")] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, honoured("variables that the template must read")
    ] = None
    reasoning_effort: Annotated[str | None, honoured("if the template reads reasoning_effort")] = (
        None
    )

    tools: Annotated[
        list[dict[str, Any]] | None,
        honoured("only with tool_choice none, if the template reads them"),
    ] = None
    tool_choice: Annotated[Any, refused(TOOLS, "none", "auto")] = None
    parallel_tool_calls: Annotated[Any, accepted("no call is parsed yet")] = None
    functions: Annotated[Any, refused(FUNCTIONS, [])] = None
    function_call: Annotated[Any, refused(FUNCTIONS, "none", "auto")] = None
    include_reasoning: Annotated[Any, refused("reasoning is not parsed yet", True)] = None
    separate_reasoning: Annotated[Any, refused("reasoning is not parsed yet", False)] = None

    prediction: Annotated[Any, accepted("speeds up, never changes, the answer")] = None
    modalities: Annotated[Any, refused(TEXT_ONLY, ["text"])] = None
    audio: Annotated[Any, refused(TEXT_ONLY)] = None
    verbosity: Annotated[Any, refused("no model here knows it", "medium")] = None
    web_search_options: Annotated[Any, refused("there is no search")] = None
    moderation: Annotated[Any, refused("there is no moderation")] = None
