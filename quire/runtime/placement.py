"""Decides whether experts stand in memory or stay in their files, mapped, for want of room.

A token meets a few experts of many, so a model whose experts are larger than memory runs: the
system keeps the pages that are read most and reads others again.  Every other weight is read for
every token and must fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.config import EngineConfig
from quire.runtime.memory_plan import MIB, usable_bytes

__all__ = ["Placement", "place_weights"]

LEAST_REST = 0.1
"""The share of the usable memory that weights must leave, beside a KV cache whose size is given."""
PAGES_SHARE = 0.75
"""Of what the other weights leave, the share that is meant for the pages of mapped experts."""


@dataclass(frozen=True, slots=True)
class Placement:
    """planned: bytes that the memory plan counts as weights.  mapped: of experts that stay in their
    files; 0: everything stands in memory.  usable, others: memory, and the other weights' bytes."""

    planned: int
    mapped: int
    usable: int
    others: int

    def note(self, kv_bytes: int, activations: int) -> str:
        """Where mapped experts are, for people; kv_bytes, activations: what these take."""
        room = max(self.usable - self.others - kv_bytes - activations, 0)
        return (
            f"experts: {self.mapped / MIB:,.1f} MiB stay mapped in their files, for all weights do "
            f"not fit; about {min(room, self.mapped) / MIB:,.1f} MiB of them can be in memory at a "
            "time, and a token that needs others waits for the disk: slower"
        )


def place_weights(
    config: EngineConfig, free_bytes: int, weight_bytes: int, expert_bytes: int
) -> Placement:
    """Where the weights go.

    weight_bytes: of all.  expert_bytes: of those experts that can stay mapped.
    """
    usable, kv = usable_bytes(config, free_bytes), config.kv_cache_memory_bytes
    rest = int(usable * LEAST_REST) + (kv or 0)
    others = weight_bytes - expert_bytes
    if weight_bytes + rest <= usable or not expert_bytes:
        return Placement(weight_bytes, 0, usable, others)
    pages = int(max(usable - others, 0) * PAGES_SHARE) if kv is None else 0
    return Placement(others + min(pages, expert_bytes), expert_bytes, usable, others)
