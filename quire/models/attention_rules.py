"""What attention does to scores and queries by their positions, in the models that have such rules.

Sources: arXiv:2108.12409 (ALiBi); the remote code of Qwen (log n) and the Llama 4 and Ministral 3
classes of transformers (steps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["QueryRule", "alibi_slopes"]


@dataclass(frozen=True, slots=True)
class QueryRule:
    """What the query at position p is multiplied by, so that attention over long texts stays sharp.

    log: max(1, log(p + 1) / log(length)).  steps: 1 + factor * log(1 + floor((p + offset) /
    length)).
    """

    kind: Literal["log", "steps"]
    length: int
    factor: float = 1.0
    offset: int = 0

    def at(self, position: int) -> float:
        """The factor of one position."""
        if self.kind == "log":
            return max(1.0, math.log(position + 1) / math.log(self.length))
        return 1 + self.factor * math.log(1 + (position + self.offset) // self.length)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """What the scores of each head lose per position between query and key.

    2^(-8 i / n) for i = 1 .. n, where n is a power of 2; further heads have the slopes that lie
    between those, from the steepest on.
    """
    whole = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * i / whole) for i in range(1, whole + 1)]
    between = [2 ** (-4 * i / whole) for i in range(1, 2 * whole, 2)]
    return (*slopes, *between[: heads - whole])
