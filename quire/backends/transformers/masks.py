"""The windows and chunks of attention, read from the masks that transformers would make.

A model hands its layers a mask for each kind of layer.  Ours is no tensor but a note of the rule
behind it, which is then matched with those that paged attention has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from quire.errors import ModelError
from quire.ops.attention import PagedAttention

__all__ = ["Mask", "note_mask", "window_of"]

SMALL = 8
"""Positions to look at where a rule has no size."""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """sees(batch, head, queries, keys) → bool; size: of the window or chunk, if there is one."""

    sees: Callable[..., torch.Tensor]
    size: int | None
    device: torch.device


def note_mask(
    *_: Any,
    mask_function: Callable[..., torch.Tensor],
    device: Any = "cpu",
    local_size: int | None = None,
    **others: Any,
) -> Mask:
    """Called by transformers where it would make a mask."""
    return Mask(mask_function, local_size, torch.device(device))


def window_of(mask: object) -> tuple[int | None, int | None]:
    """The window and the chunk of a layer: those with which it sees what the mask lets it.

    Raises ModelError for a rule that is neither.
    """
    if not isinstance(mask, Mask):
        raise ModelError("its layers get masks that it makes in its own way")
    size = mask.size or SMALL
    around = [size - 1, size, size + 1, 2 * size, 3 * size + 1]
    queries, keys = np.array([0, 1, *around]), np.arange(3 * size + 4)
    index = [torch.from_numpy(each).to(mask.device) for each in (queries, keys)]
    zero = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=mask.device)
    seen = mask.sees(zero, zero, index[0][None, None, :, None], index[1][None, None, None, :])
    found = seen.expand(1, 1, len(queries), len(keys))[0, 0].cpu().numpy()
    for window, chunk in ((None, None), (mask.size, None), (None, mask.size)):
        rule = PagedAttention(0, 1, 1, 1, 1.0, window=window, chunk=chunk)
        first = rule.first_seen(queries)
        if ((keys <= queries[:, None]) & (keys >= first[:, None]) == found).all():
            return window, chunk
    raise ModelError("a token sees neither all before it nor a window or chunk of that")
