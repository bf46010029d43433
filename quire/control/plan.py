"""The frozen orders for one step, and what comes back from running them.

What exists once a request and step is no frozen dataclass, which takes five times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from quire.outputs import NO_DETAILS, Details

__all__ = [
    "NOTHING",
    "NO_RECORD",
    "NO_STATE",
    "UNKNOWN_TOKEN",
    "Chunk",
    "Plan",
    "Sampled",
    "StateUse",
    "Unloaded",
    "Update",
]

UNKNOWN_TOKEN = -(2**31)
"""Stands for a token that is being sampled: where the plan before samples it, the device knows."""

NO_RECORD = -1
"""Stands for no record of recurrent state."""


class StateUse(NamedTuple):
    """The records of recurrent state with which a chunk is computed.

    read: the state before its first token; NO_RECORD where a request begins.  write: where the
    state behind its last token goes; it may be `read`.  mark: behind so many tokens, unless 0, the
    state goes to `kept` as well.
    """

    read: int
    write: int
    mark: int = 0
    kept: int = NO_RECORD


NO_STATE = StateUse(NO_RECORD, NO_RECORD)
"""Of models without recurrent layers."""


class Chunk(NamedTuple):
    """The tokens of one request that this step computes.

    tokens: for positions start .. start + len(tokens) - 1: known ones, then num_drafts guesses; or
    one that the plan before samples, UNKNOWN_TOKEN, and nothing else.
    block_table: block ids that cover every position below start + len(tokens); the scheduler owns
    it and only appends while the request holds its blocks, so a reader may keep what it has read.
    Leading entries are NO_BLOCK, or become so, where no token of this chunk or a later one sees.
    samples: the last token known is among them, so the step yields the next token, and one more for
    each guess that turns out right.
    load_keys, load_blocks: contents to load from the block store before the step, and the blocks
    right before `start` that they belong into; where one fails, the chunk is not run (see commit).
    state: see StateUse.
    """

    request_id: str
    start: int
    tokens: Sequence[int]
    block_table: Sequence[int]
    samples: bool
    num_drafts: int = 0
    load_keys: Sequence[bytes] = ()
    load_blocks: Sequence[int] = ()
    state: StateUse = NO_STATE


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: at most one chunk per request, at most the token budget in all.

    num_tokens: those of all chunks.  evicted: keys and blocks of contents to save in the block
    store before anything is loaded or computed, for their blocks are others' now.
    """

    step: int
    chunks: tuple[Chunk, ...]
    num_tokens: int
    evicted: Sequence[tuple[bytes, int]] = ()


Sampled = Sequence[tuple[int, ...]]
"""What a run gives back, by chunk: the guesses that were right, and one more; else nothing."""

Unloaded = Mapping[str, int]
"""Request id → how many of the first blocks to load were loaded, where not all of them were."""

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(slots=True)
class Update:
    """What one step changed for one request.

    finish_reason: "stop", "length", "abort" or "error" when the request is over, else None.
    stop_reason: the stop token id that ended it; None for an end-of-text token or any other reason.
    num_cached_tokens: prompt tokens that came from the prefix cache.
    details: what is known beside that; the engine adds it.
    """

    request_id: str
    tokens: tuple[int, ...]
    finish_reason: str | None = None
    stop_reason: int | None = None
    num_cached_tokens: int = 0
    details: Details = NO_DETAILS
