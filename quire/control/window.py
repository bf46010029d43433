"""What a sliding window lets go: blocks that no token to come can see.

It applies where every layer of the model has a window; `window` is then the widest, else None.
"""

from __future__ import annotations

__all__ = ["NO_BLOCK", "num_blocks_at_once", "num_passed_blocks"]

NO_BLOCK = -1
"""What a block table holds in place of a block that the window has passed."""


def num_passed_blocks(position: int, block_tokens: int, window: int | None) -> int:
    """The leading blocks that no token at `position` or behind it sees."""
    return 0 if window is None else max(0, position - window + 1) // block_tokens


def num_blocks_at_once(
    num_tokens: int, block_tokens: int, window: int | None, step_tokens: int
) -> int:
    """The most blocks that one request of num_tokens holds; a step computes at most step_tokens.

    While a chunk is computed, the positions from its first token's window to its end are held.
    """
    whole = -(-num_tokens // block_tokens)
    if window is None:
        return whole
    seen = window - 1 + step_tokens
    return min(whole, (seen + block_tokens - 2) // block_tokens + 1)
