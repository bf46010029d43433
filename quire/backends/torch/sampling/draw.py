"""Filters and the draw: temperature, min-p, top-k and top-p, and a random number for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.sampling.randoms import UNITS, random_units
from quire.sampling.state import SampleRow

__all__ = ["Kind", "at_share", "draw", "kind_of", "rules_of", "softmax_weights"]

LARGEST = torch.finfo(torch.float32).max
Kind: TypeAlias = Literal["greedy", "weighted", "ranked"]
"""Of draws: where all temperatures are 0, where no token's rank counts, and all others."""


def kind_of(rows: Sequence[SampleRow]) -> Kind:
    """The kind that does for all of some rows."""
    params = [row.state.params for row in rows]
    if all(each.temperature == 0 for each in params):
        return "greedy"
    is_ranked = any(each.top_k > 0 or each.top_p < 1 for each in params)
    return "ranked" if is_ranked else "weighted"


def rules_of(rows: Sequence[SampleRow]) -> npt.NDArray[np.int32]:
    """[5, at least S]: temperature, min-p and top-p as the bits of floats, top-k (0: all), and the
    random number of each row times 2^24.

    So wide that each begins at a multiple of 16 bytes, for which kernels are compiled.
    """
    found = np.zeros((5, -(-len(rows) // 4) * 4), np.int32)
    params = [row.state.params for row in rows]
    floats = np.array([(each.temperature, each.min_p, each.top_p) for each in params], np.float32)
    found[:3, : len(rows)] = floats.reshape(-1, 3).T.view(np.int32)
    found[3, : len(rows)] = [each.top_k for each in params]
    if any(each.temperature != 0 for each in params):
        seeds, indices = [row.state.seed for row in rows], [len(row.output) for row in rows]
        found[4, : len(rows)] = random_units(seeds, indices)
    return found


def draw(logits: torch.Tensor, rules: torch.Tensor, kind: Kind) -> torch.Tensor:
    """A token [S] of each row of logits [S, V], -1 where none is a number above minus infinity.

    rules: see rules_of.
    """
    tokens, is_one = _best(logits)
    if kind != "greedy":
        drawn = _drawn(logits, rules[:, : len(logits), None], kind)
        tokens = torch.where(rules[0, : len(logits)] != 0, drawn, tokens)
    return torch.where(is_one, tokens, -1)


def _best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely token of each row, the first of equals; whether there is one."""
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    return numbers.argmax(dim=1), numbers.amax(dim=1) > -torch.inf


def _drawn(logits: torch.Tensor, rules: torch.Tensor, kind: Kind) -> torch.Tensor:
    """A token [S] by rules [5, S, 1]; any where the temperature is 0."""
    temperature, min_p, top_p = rules[:3].view(torch.float32)
    weights = softmax_weights(logits, torch.where(temperature == 0, 1.0, temperature))
    kept = weights >= min_p
    if kind == "ranked":
        most = torch.where(rules[3] > 0, rules[3], logits.shape[1])
        kept = _of_rank(logits, weights, kept, most, top_p)
    return at_share(torch.where(kept, weights, 0.0), rules[4].double() / 2**UNITS)


def softmax_weights(logits: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """exp((l - max) / temperature) of logits [S, V]; what is no number weighs nothing."""
    finite = torch.where(logits.isnan(), -LARGEST, logits).clamp(-LARGEST, LARGEST)
    return torch.exp((finite - finite.amax(dim=1, keepdim=True)) / temperature)


def _of_rank(
    logits: torch.Tensor,
    weights: torch.Tensor,
    kept: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """Which of the kept tokens top-k and then top-p leave; all but [S, V] are [S, 1].

    Tokens rank by logit, equal ones by id.  The most likely token always stays.
    """
    numbers = torch.where(logits.isnan(), -torch.inf, logits)
    order = numbers.sort(dim=1, descending=True, stable=True).indices
    left = kept.gather(1, order)
    left &= left.cumsum(dim=1) <= top_k
    sums = torch.where(left, weights.gather(1, order), 0.0).double().cumsum(dim=1)
    enough = top_p.double() * sums[:, -1:]
    first = torch.searchsorted(sums, enough)  # the first rank whose sum is enough
    ranks = torch.arange(sums.shape[1], device=sums.device)
    left &= (ranks <= first) | (top_p >= 1)
    return torch.zeros_like(kept).scatter(1, order, left)


def at_share(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The first token id whose running sum of weights exceeds u [S, 1] times their total."""
    sums = weights.double().cumsum(dim=1)
    tokens = torch.searchsorted(sums, u * sums[:, -1:], right=True)[:, 0]
    ids = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, ids, 0).amax(dim=1)
    return torch.minimum(tokens, last)
