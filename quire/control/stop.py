"""Says whether the newest token finishes a request, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Finish", "StopRules"]

NOTHING: frozenset[int] = frozenset()


class Finish(NamedTuple):
    """Why a request is over: "stop", "length", "abort" or "error".

    stop_reason: the stop token id that ended it; None for end of text or any other reason.
    """

    reason: str
    stop_reason: int | None = None


@dataclass(frozen=True, slots=True)
class StopRules:
    """When one request is over.

    max_tokens: bound on output tokens, already clipped to the model length; 0 for a request that
    only reads its prompt (embeddings, scoring).  min_tokens: before so many tokens stand, no end of
    text and no stop token ends the request, and the sampler must not choose one.
    ending_token_ids: all tokens that may end the request; made of the others.
    """

    max_tokens: int
    min_tokens: int = 0
    eos_token_ids: frozenset[int] = NOTHING
    stop_token_ids: frozenset[int] = NOTHING
    ignore_eos: bool = False
    ending_token_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        eos, stop = frozenset(self.eos_token_ids), frozenset(self.stop_token_ids)
        object.__setattr__(self, "eos_token_ids", eos)
        object.__setattr__(self, "stop_token_ids", stop)
        ending = stop if self.ignore_eos else stop | eos if stop else eos
        object.__setattr__(self, "ending_token_ids", ending)

    def forbidden_token_ids(self, num_output: int) -> frozenset[int]:
        """Tokens that must not be sampled after num_output output tokens."""
        return NOTHING if num_output >= self.min_tokens else self.ending_token_ids

    def finish_reason(self, token: int, num_output: int) -> Finish | None:
        """Why the request ends with `token` as the newest of num_output output tokens, if it does.

        End of text wins over a stop token, and both win over the length.
        """
        if token in self.ending_token_ids and num_output > self.min_tokens:
            is_eos = token in self.eos_token_ids and not self.ignore_eos
            return Finish("stop", None if is_eos else token)
        return Finish("length") if num_output >= self.max_tokens else None
