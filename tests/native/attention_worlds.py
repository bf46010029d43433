"""What every world of attention is asked: requests, chunks of them, and the same bits however cut.

A world has `attend(pool, isa, chunks)`, which gives the rows of each chunk: (request, first
position, the one behind the last).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from tests.native import numbers

CONTEXTS = [40, 300, 1, 133, 129]
"""Tokens of each request."""
MIXED = [(0, 0, 40), (1, 299, 300), (2, 0, 1), (3, 100, 133), (4, 127, 129)]


def check_chunks(world: Any, pools: Any, isa: int) -> None:
    """Request 0, of 420 tokens: in pieces, token by token, and with more threads, the same bits."""
    whole = world.attend(pools[1], isa, [(0, 0, 420)])[0]
    for threads, cuts in ((2, [0, 100, 420]), (3, [0, 1, 2, 33, 129, 250, 419, 420])):
        steps = itertools.pairwise(cuts)
        parts = [world.attend(pools[threads], isa, [(0, a, b)])[0] for a, b in steps]
        assert numbers.same_bits(np.concatenate(parts), whole)
    alone = [world.attend(pools[1], isa, [(0, p, p + 1)])[0] for p in range(0, 420, 17)]
    assert numbers.same_bits(np.concatenate(alone), whole[::17])


def check_batches(world: Any, pools: Any, isa: int) -> None:
    """Each chunk of MIXED alone and beside others, in any order, on more threads: the same bits."""
    alone = [world.attend(pools[1], isa, [chunk])[0] for chunk in MIXED]
    for threads, order in ((1, [0, 1, 2, 3, 4]), (2, [4, 2, 0, 3, 1]), (3, [3, 1, 2])):
        together = world.attend(pools[threads], isa, [MIXED[i] for i in order])
        for i, out in zip(order, together, strict=True):
            assert numbers.same_bits(out, alone[i])
