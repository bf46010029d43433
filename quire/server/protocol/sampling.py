"""The fields that completions and chat share: which model, how to sample, how to stream."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Struct

from quire.server.protocol.formats import ResponseFormat, StructuredOutputsParam
from quire.server.protocol.support import accepted, honoured, refused

__all__ = ["GenerationRequest", "StreamOptions"]

GUIDED = "vLLM's older name of structured_outputs"


class StreamOptions(Struct, forbid_unknown_fields=True, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: Annotated[bool | None, honoured("end with a chunk of usage")] = None
    continuous_usage_stats: Annotated[bool | None, honoured("usage so far in every chunk")] = None
    include_obfuscation: Annotated[bool | None, accepted("no padding is ever sent")] = None


class GenerationRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """What both generating routes accept; null means "not given" everywhere.

    Sampling fields that are not given come from the model's generation_config.json, then from
    OpenAI's defaults; `return_sampling_params` shows the result.
    """

    model: Annotated[str | None, honoured("a served name; default: the first")] = None
    n: Annotated[int | None, honoured("completions per prompt")] = None
    stream: Annotated[bool | None, honoured("answer with server-sent events")] = None
    stream_options: Annotated[StreamOptions | None, honoured("only with stream")] = None

    temperature: Annotated[float | None, honoured("0 takes the most likely token")] = None
    top_p: Annotated[float | None, honoured("1 is off")] = None
    top_k: Annotated[int | None, honoured("0 or -1 is off")] = None
    min_p: Annotated[float | None, honoured("0 is off")] = None
    repetition_penalty: Annotated[float | None, honoured("1 is off; prompt and output")] = None
    presence_penalty: Annotated[float | None, honoured("output only")] = None
    frequency_penalty: Annotated[float | None, honoured("output only")] = None
    seed: Annotated[int | None, honoured("same seed, same output")] = None
    logit_bias: Annotated[dict[int, float] | None, honoured("token id → -100 to 100")] = None
    allowed_token_ids: Annotated[list[int] | None, honoured("no other token is chosen")] = None
    bad_words: Annotated[list[str] | None, honoured("strings that must not appear; up to 4096")] = (
        None
    )

    max_tokens: Annotated[int | None, honoured("longest output in tokens")] = None
    min_tokens: Annotated[int | None, honoured("no end of text before")] = None
    stop: Annotated[str | list[str] | None, honoured("strings that end the output; up to 256")] = (
        None
    )
    stop_token_ids: Annotated[list[int] | None, honoured("tokens that end the output")] = None
    ignore_eos: Annotated[bool | None, honoured("do not stop at end of text")] = None
    include_stop_str_in_output: Annotated[bool | None, honoured("keep the stop string")] = None
    skip_special_tokens: Annotated[bool | None, honoured("default true")] = None

    prompt_logprobs: Annotated[int | None, honoured("alternatives per prompt token; no stream")] = (
        None
    )
    return_tokens_as_token_ids: Annotated[
        bool | None, honoured("logprobs name tokens as `token_id:123`")
    ] = None
    return_token_ids: Annotated[bool | None, honoured("prompt and output ids in choices")] = None
    return_sampling_params: Annotated[
        bool | None, honoured("the sampling parameters in effect, in the answer")
    ] = None

    truncate_prompt_tokens: Annotated[
        int | None, honoured("keep the last k prompt tokens; -1: as many as fit")
    ] = None
    add_special_tokens: Annotated[bool | None, honoured("let the tokenizer add BOS")] = None
    priority: Annotated[
        int | None, honoured("lower runs first; needs --scheduling-policy priority")
    ] = None
    cache_salt: Annotated[str | None, honoured("share cached prefixes only with equal salts")] = (
        None
    )
    request_id: Annotated[str | None, honoured("becomes part of the answer's id")] = None
    timeout: Annotated[float | None, honoured("seconds until it ends with `abort`")] = None

    response_format: Annotated[ResponseFormat | None, honoured("form of the output")] = None
    structured_outputs: Annotated[StructuredOutputsParam | None, honoured("form of the output")] = (
        None
    )
    guided_json: Annotated[dict[str, Any] | bool | str | None, honoured(GUIDED)] = None
    guided_regex: Annotated[str | None, honoured(GUIDED)] = None
    guided_choice: Annotated[list[str] | None, honoured(GUIDED)] = None
    guided_grammar: Annotated[str | None, honoured(GUIDED)] = None

    user: Annotated[Any, accepted("who asks")] = None
    metadata: Annotated[Any, accepted("labels for stored answers; nothing is stored")] = None
    store: Annotated[Any, accepted("nothing is stored")] = None
    service_tier: Annotated[Any, accepted("there is one tier")] = None
    safety_identifier: Annotated[Any, accepted("who asks")] = None
    prompt_cache_key: Annotated[Any, accepted("prefixes are found by their content")] = None
    prompt_cache_retention: Annotated[Any, accepted("prefixes stay while there is room")] = None
    cache_prompt: Annotated[Any, accepted("prefixes are always kept")] = None

    use_beam_search: Annotated[Any, refused("beam search is not built yet", False)] = None
    length_penalty: Annotated[Any, refused("it belongs to beam search", 1)] = None
    early_stopping: Annotated[Any, refused("it belongs to beam search", False)] = None
    spaces_between_special_tokens: Annotated[
        Any, refused("text is the exact bytes of the tokens", True)
    ] = None
    logits_processors: Annotated[Any, refused("requests cannot bring code", [])] = None
    guided_decoding_backend: Annotated[Any, refused("there is one grammar backend")] = None
    guided_whitespace_pattern: Annotated[Any, refused("white space is bounded already")] = None
    thinking_token_budget: Annotated[Any, refused("reasoning is not parsed yet")] = None
    mm_processor_kwargs: Annotated[Any, refused("the model's own settings are used")] = None
    kv_transfer_params: Annotated[Any, refused("KV transfer is not built yet")] = None
    vllm_xargs: Annotated[Any, refused("there are no such extensions")] = None
