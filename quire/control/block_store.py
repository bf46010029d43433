"""What the control plane asks of a place that keeps blocks beside the pool."""

from __future__ import annotations

from typing import Protocol

__all__ = ["BlockStore"]


class BlockStore(Protocol):
    """Contents of full blocks by key; it may forget any of them at any time.

    Loading is not asked for here: a plan says what to load where, and whoever runs it does so.
    outlives_process: then blocks are saved as soon as they are full, but none of a request with a
    salt; else a plan says what the pool gives up, and whoever runs it saves that first.
    """

    @property
    def outlives_process(self) -> bool: ...

    def has(self, key: bytes) -> bool:
        """Whether loading this content is likely to work; fast."""
        ...

    def save(self, key: bytes, block: int) -> None:
        """Take a copy of a block now, to be kept if there is room; never waits."""
        ...

    def touch(self, keys: list[bytes]) -> None:
        """Note that this chain, the first block first, was of use; never waits."""
        ...
