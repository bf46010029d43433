"""What comes back for a request: token by token as deltas, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "NO_DETAILS",
    "CompletionOutput",
    "Delta",
    "Details",
    "EmbeddingOutput",
    "Logprob",
    "RequestMetrics",
    "RequestOutput",
    "TokenLogprobs",
]


class Logprob(NamedTuple):
    """The natural-log probability of one token, its 1-based rank, and the token as text."""

    logprob: float
    rank: int
    decoded_token: str = ""


TokenLogprobs = Mapping[int, Logprob]
"""Token id → Logprob for one position: the token that stands there first, then the alternatives."""


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """When things happened to one request, in seconds of `time.monotonic()`; 0 means not yet."""

    arrival_s: float = 0.0
    first_scheduled_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0
    num_preemptions: int = 0


class Details(NamedTuple):
    """What there is to say of a step's new tokens beside them; nothing, most of the time.

    logprobs: one entry per new token, if asked for.  prompt_logprobs: one entry per prompt token,
    None for the first, with the first new token, if asked for.  metrics: with the first new token,
    and at the end.
    """

    logprobs: Sequence[TokenLogprobs] | None = None
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None
    metrics: RequestMetrics | None = None


NO_DETAILS = Details()


@dataclass(slots=True)
class Delta:
    """What one step added to one completion of a request.

    Not frozen only because that takes five times as long to make.

    index: which of the n completions.  text: new text, "" while a character is incomplete or a
    stop string may be forming.  logprobs: one entry per new token, if asked for.
    finish_reason: "stop", "length", "abort" or "error" in the last delta of this completion.
    stop_reason: the stop string or token id that ended it; None for end of text.
    prompt_logprobs: in the first delta only, if asked for: one entry per prompt token, None first.
    metrics: in the first delta with a token, and in the last.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    metrics: RequestMetrics | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A text and its vector, as `LLM.embed` returns them."""

    prompt: str | None
    prompt_token_ids: list[int]
    embedding: list[float]


@dataclass(slots=True)
class CompletionOutput:
    """One finished or growing completion."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, delta: Delta) -> None:
        """Append one delta of the same index."""
        self.text += delta.text
        self.token_ids.extend(delta.token_ids)
        if delta.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.extend(delta.logprobs)
            total = self.cumulative_logprob or 0.0
            for token, entry in zip(delta.token_ids, delta.logprobs, strict=True):
                total += entry[token].logprob
            self.cumulative_logprob = total
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its completions, as `LLM.generate` returns them."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics | None = None

    def add(self, delta: Delta) -> None:
        """Append one delta; the request is finished when every completion is."""
        self.outputs[delta.index].add(delta)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = list(delta.prompt_logprobs)
        self.num_cached_tokens = max(self.num_cached_tokens, delta.num_cached_tokens)
        self.metrics = delta.metrics or self.metrics
        self.finished = all(output.finish_reason for output in self.outputs)
