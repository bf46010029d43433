"""What a scheduler may hand out, and which requests could never run within it."""

from __future__ import annotations

from dataclasses import dataclass

from quire.control.request import Request
from quire.control.window import num_blocks_at_once
from quire.errors import CapacityError, ConfigError, QueueFullError, RequestError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one scheduler; see Scheduler for their meaning.

    Raises ConfigError for a bound below its least value, CapacityError where the pool cannot hold
    one request of max_model_len tokens.
    """

    num_blocks: int
    block_tokens: int
    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    max_queued: int | None
    enable_chunked_prefill: bool
    lookahead_tokens: int
    window: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_tokens", "max_num_batched_tokens", "max_num_seqs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in ("max_queued", "lookahead_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 0")
        if (self.window or 1) < 1:
            raise ConfigError(f"window is {self.window}; give at least 1")
        pool_tokens = self.num_blocks * self.block_tokens
        if self.num_blocks_at_once > self.num_blocks:
            raise CapacityError(
                f"max_model_len {self.max_model_len} does not fit the KV cache, which holds "
                f"{pool_tokens} tokens; lower it, or give the KV cache more memory"
            )

    @property
    def num_blocks_at_once(self) -> int:
        """The most blocks that one request ever holds."""
        return num_blocks_at_once(
            self.max_model_len, self.block_tokens, self.window, self.max_num_batched_tokens
        )

    def num_blocks_ahead(self, request: Request, num_passed: int, num_held: int) -> int:
        """Blocks that the pool must still give until `lookahead_tokens` more have their place.

        num_passed, num_held: blocks of its table that the window has passed, and the others.
        """
        tokens = min(len(request.tokens) + self.lookahead_tokens, request.max_len)
        missing = -(-tokens // self.block_tokens) - num_passed - num_held
        return max(0, min(missing, self.num_blocks_at_once - num_held))

    def num_blocks_reserved(self, request: Request) -> int:
        """The same for a request that runs."""
        passed = request.num_passed
        return self.num_blocks_ahead(request, passed, len(request.block_table) - passed)

    def refuse_full(self, num_waiting: int) -> None:
        """Raise QueueFullError where one more waiting request would be too many."""
        if self.max_queued is not None and num_waiting >= self.max_queued:
            raise QueueFullError(
                f"{num_waiting} requests are waiting and max_queued is {self.max_queued}; "
                "send this request again later"
            )

    def refuse_impossible(self, request: Request) -> None:
        """Raise RequestError for a request that could never run."""
        if not request.tokens:
            raise RequestError("the prompt is empty; give at least one token", "prompt")
        if request.max_len > self.max_model_len:
            raise RequestError(
                f"{request.num_prompt} prompt tokens and max_tokens {request.stop.max_tokens} "
                f"exceed the model length of {self.max_model_len} tokens; shorten one of them",
                "prompt" if request.num_prompt > self.max_model_len else "max_tokens",
            )
        if not self.enable_chunked_prefill and request.num_prompt > self.max_num_batched_tokens:
            raise RequestError(
                f"the prompt has {request.num_prompt} tokens, but without chunked prefill at most "
                f"{self.max_num_batched_tokens} are computed; shorten it or enable chunked prefill",
                "prompt",
            )
