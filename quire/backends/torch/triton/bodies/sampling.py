"""The sampler by kernels: what quire.sampling.reference says, and no row's draw hangs on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.sampling import draw as plain
from quire.backends.torch.sampling.changes import Changes, biased
from quire.backends.torch.sampling.randoms import UNITS
from quire.backends.torch.triton.draw import DrawRules, draw_tokens
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.logit_changes import adjust_logits
from quire.backends.torch.triton.logprobs import log_probabilities
from quire.sampling.state import SampleRow

__all__ = ["changed", "draw", "logprobs_of", "rules_of"]

TOP_P = 2
"""The row of rules, which holds a whole number here: top-p times 2^24."""


def rules_of(rows: Sequence[SampleRow]) -> npt.NDArray[np.int32]:
    """[5, at least S]: the arrays of DrawRules, floats as their bits."""
    found = plain.rules_of(rows)
    shares = [row.state.params.top_p for row in rows]
    found[TOP_P, : len(rows)] = np.rint(np.array(shares) * 2**UNITS)
    return found


def draw(gpu: Launcher, logits: torch.Tensor, rules: torch.Tensor) -> torch.Tensor:
    """A token [S] for each row; rules: see rules_of."""
    temperature, min_p = (each.view(torch.float32) for each in rules[:2])
    top_p, top_k, random = rules[2:5]
    out = torch.empty(len(logits), dtype=torch.int32, device=logits.device)
    draw_tokens(gpu, logits, DrawRules(temperature, min_p, top_k, top_p, random), out)
    return out.long()


def changed(gpu: Launcher, logits: torch.Tensor, changes: Changes) -> torch.Tensor:
    """A copy of logits [S, V]."""
    logits = biased(logits, changes)
    out = torch.empty_like(logits)
    adjust_logits(gpu, logits, changes, out)
    return out


def logprobs_of(
    gpu: Launcher, logits: torch.Tensor, tokens: torch.Tensor, told: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As quire.backends.torch.sampling.logprobs; an id below 0 where there are no more numbers."""
    shape, device = (len(logits), width), logits.device
    ids = torch.empty(shape, dtype=torch.int32, device=device)
    values = torch.empty(shape, device=device)
    ranks = torch.empty(len(logits), dtype=torch.int32, device=device)
    log_probabilities(gpu, logits, tokens.int(), told, ids, values, ranks)
    return ids, values, ranks
