"""What the control plane looks like at one moment, for metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SchedulerStats"]


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """Gauges of this moment, and totals since the start.

    num_cached_blocks: free blocks whose content is kept; they are among num_free_blocks.
    fragmentation: share of the room in used blocks that holds no computed token.
    oldest_wait_s: how long the oldest waiting request had been queued at the last plan.
    num_preemptions, prefix_query_tokens, prefix_hit_tokens (both at first admission only) and
    num_wasted_tokens (computed more than once, because of preemption) are totals.
    store_query_tokens, store_hit_tokens: likewise, what was not found here and looked up in the
    block store, and what was loaded from it.
    num_drafts, num_draft_tokens, num_accepted_tokens are totals too: how often tokens were guessed,
    how many, and how many of them were right.
    """

    num_running: int
    num_waiting: int
    num_used_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    kv_usage: float
    fragmentation: float
    oldest_wait_s: float
    num_preemptions: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    num_wasted_tokens: int
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    store_query_tokens: int = 0
    store_hit_tokens: int = 0
