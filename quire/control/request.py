"""One request: its tokens, its two counters, its blocks and its state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from enum import Enum

from quire.control.plan import Update
from quire.control.stop import Finish, StopRules

__all__ = ["Request", "RequestState"]


class RequestState(Enum):
    """Where a request is: in the queue, holding blocks, or over."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Request:
    """What is known of one prompt and its continuation, and how much of it is computed.

    There is no prefill and no decode: `tokens` (prompt, then output) are known, the first
    `num_computed` of them are in the KV cache, and every plan closes some of the gap.

    priority: lower is more urgent.  arrival, deadline: seconds of the caller's clock.
    cache_salt: bytes that set this request's cached blocks apart (adapter, rope class, tenant).
    use_prefix_cache: False computes every prompt token (prompt logprobs need them all); the blocks
    it fills may still serve others.
    allow_drafts: False computes one new token a step (a grammar moves token by token).
    plan_ahead: False plans nothing while a token is being sampled that the host must see first, as
    what may follow it depends on it.
    contents: start, end and digest of each part of the prompt whose tokens do not say all that is
    computed of them: an image's are all the same.

    The fields below `contents` belong to the scheduler.  order: position in submission
    order.  queued_since: when it last began to wait.  block_table: block ids that cover the
    computed positions; replaced, never cut, when the blocks are given up.  num_passed: its leading
    entries that are NO_BLOCK, as the window has passed them.  block_keys: keys of the leading full
    blocks, as far as they were needed; tokens never change, so they outlive a preemption.
    num_cached_tokens: prompt tokens found in the prefix cache at first admission.
    num_lost: most tokens that were computed when its blocks were given up.
    num_wasted_tokens: tokens computed more than once.
    """

    id: str
    prompt: InitVar[Sequence[int]]
    stop: StopRules
    priority: int = 0
    arrival: float = 0.0
    deadline: float | None = None
    cache_salt: bytes = b""
    use_prefix_cache: bool = True
    allow_drafts: bool = True
    plan_ahead: bool = True
    contents: tuple[tuple[int, int, bytes], ...] = ()

    tokens: list[int] = field(init=False)
    num_prompt: int = field(init=False)
    max_len: int = field(init=False)
    ending_token_ids: frozenset[int] = field(init=False)
    state: RequestState = field(default=RequestState.WAITING, init=False)
    order: int = field(default=0, init=False)
    queued_since: float = field(init=False)
    num_computed: int = field(default=0, init=False)
    block_table: list[int] = field(default_factory=list, init=False)
    num_passed: int = field(default=0, init=False)
    block_keys: list[bytes] = field(default_factory=list, init=False)
    first_scheduled: float | None = field(default=None, init=False)
    num_cached_tokens: int = field(default=0, init=False)
    num_preemptions: int = field(default=0, init=False)
    num_lost: int = field(default=0, init=False)
    num_wasted_tokens: int = field(default=0, init=False)

    def __post_init__(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self.num_prompt = len(self.tokens)
        self.max_len = self.num_prompt + self.stop.max_tokens
        self.ending_token_ids = self.stop.ending_token_ids
        self.queued_since = self.arrival

    @property
    def held_blocks(self) -> list[int]:
        """The blocks of its table that it holds."""
        return self.block_table[self.num_passed :]

    @property
    def num_output(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def output(self) -> list[int]:
        """A copy of the tokens generated so far."""
        return self.tokens[self.num_prompt :]

    @property
    def num_peak(self) -> int:
        """Most tokens ever computed."""
        return max(self.num_lost, self.num_computed)

    def advance(self, end: int) -> int:
        """Note that all before position `end` is computed; return how much of it was so before."""
        start, self.num_computed = self.num_computed, end
        if start >= self.num_lost:
            return 0
        wasted = min(end, self.num_lost) - start
        self.num_wasted_tokens += wasted
        return wasted

    def accept(self, new_tokens: tuple[int, ...]) -> Update:
        """Append new tokens up to the one that finishes the request, and report them."""
        tokens, num_before = self.tokens, len(self.tokens)
        for token in new_tokens:
            tokens.append(token)
            if token in self.ending_token_ids or len(tokens) >= self.max_len:
                finish = self.stop.finish_reason(token, len(tokens) - self.num_prompt)
                if finish is not None:
                    return self.update(new_tokens[: len(tokens) - num_before], finish)
        if not new_tokens and self.stop.max_tokens == 0:
            return self.update((), Finish("length"))
        return Update(self.id, new_tokens, None, None, self.num_cached_tokens)

    def update(self, tokens: tuple[int, ...], finish: Finish | None = None) -> Update:
        """What to report when these tokens are new, and why the request is over, if it is."""
        reason, stop_reason = finish or (None, None)
        return Update(self.id, tokens, reason, stop_reason, self.num_cached_tokens)
