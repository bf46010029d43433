"""The sampler by kernels: what quire.sampling.reference says, and no row's draw hangs on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.torch.host_copies import sent
from quire.backends.torch.sampling.adjust import adjust_listed, is_plain
from quire.backends.torch.triton.draw import UNITS, DrawRules, draw_tokens
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.logit_changes import Penalties, adjust_logits, count_tokens
from quire.backends.torch.triton.logprobs import log_probabilities
from quire.control.plan import UNKNOWN_TOKEN
from quire.sampling.reference import uniform
from quire.sampling.state import SampleRow
from quire.sampling_params import SamplingParams

__all__ = ["choose", "draw", "logprobs_of", "rules_of"]


def choose(
    gpu: Launcher, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    """A token [S] for each row, -1 where no logit is a number above minus infinity.

    before: see quire.backends.torch.sampling.rows.draw_rows.
    """
    logits = _adjusted(gpu, logits, rows, before)
    return draw(gpu, logits, sent(rules_of(rows), logits.device))


def rules_of(rows: Sequence[SampleRow]) -> npt.NDArray[np.int32]:
    """[5, at least S]: the arrays of DrawRules, floats as their bits.

    So wide that each begins at a multiple of 16 bytes, for which kernels are compiled.
    """
    found = np.zeros((5, -(-len(rows) // 4) * 4), np.int32)
    for place, row in enumerate(rows):
        params = row.state.params
        found[:2, place].view(np.float32)[:] = params.temperature, params.min_p
        found[2:, place] = params.top_k, round(params.top_p * 2**UNITS), _draw(row)
    return found


def draw(gpu: Launcher, logits: torch.Tensor, rules: torch.Tensor) -> torch.Tensor:
    """A token [S] for each row; rules: see rules_of."""
    temperature, min_p = (each.view(torch.float32) for each in rules[:2])
    out = torch.empty(len(logits), dtype=torch.int32, device=logits.device)
    draw_tokens(gpu, logits, DrawRules(temperature, min_p, *rules[2:5]), out)
    return out.long()


def logprobs_of(
    gpu: Launcher, logits: torch.Tensor, tokens: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As quire.backends.torch.sampling.logprobs; an id below 0 where there are no more numbers."""
    shape, device = (len(logits), 1 + count), logits.device
    ids = torch.empty(shape, dtype=torch.int32, device=device)
    values = torch.empty(shape, device=device)
    ranks = torch.empty(len(logits), dtype=torch.int32, device=device)
    log_probabilities(gpu, logits, tokens.clamp(min=0).int(), ids, values, ranks)
    return ids, values, ranks


def _draw(row: SampleRow) -> int:
    if row.state.params.temperature == 0:
        return 0
    return int(uniform(row.state.seed, len(row.output)) * 2**UNITS)


def _adjusted(
    gpu: Launcher, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> torch.Tensor:
    if all(is_plain(row) for row in rows):
        return logits
    logits = logits.clone()
    adjust_listed(logits, rows)
    masks = [row.state.mask for row in rows if row.state.mask is not None]
    adjust_logits(
        gpu,
        logits,
        sent(np.stack(masks), logits.device) if masks else None,
        _numbered(logits, [row.state.mask is not None for row in rows]),
        _penalties(gpu, logits, rows, before),
    )
    return logits


def _penalties(
    gpu: Launcher, logits: torch.Tensor, rows: Sequence[SampleRow], before: torch.Tensor
) -> Penalties | None:
    """How often each row with penalties has seen each token."""
    are_penalized = [_is_penalized(row.state.params) for row in rows]
    some = [row for row, is_one in zip(rows, are_penalized, strict=True) if is_one]
    if not some:
        return None
    seen = [np.concatenate([row.state.prompt, row.output]) for row in some]
    tokens = np.full((len(some), max(map(len, seen))), -1, np.int32)
    for to, each in zip(tokens, seen, strict=True):
        to[: len(each)] = each
    prompts = np.array([len(row.state.prompt) for row in some], np.int32)
    counts = torch.zeros((len(some), logits.shape[1]), dtype=torch.int32, device=logits.device)
    if tokens.size:
        listed, at = sent(tokens, logits.device), sent(np.flatnonzero(are_penalized), logits.device)
        known = torch.where(listed == UNKNOWN_TOKEN, before[at].int()[:, None], listed)
        count_tokens(gpu, known, sent(prompts, logits.device), counts)
    params = [row.state.params for row in rows]
    factors = [
        [each.repetition_penalty for each in params],
        [each.presence_penalty for each in params],
        [each.frequency_penalty for each in params],
    ]
    columns = sent(np.array(factors, np.float32), logits.device)
    return Penalties(counts, _numbered(logits, are_penalized), *columns)


def _is_penalized(params: SamplingParams) -> bool:
    penalties = params.repetition_penalty, params.presence_penalty, params.frequency_penalty
    return penalties != (1.0, 0.0, 0.0)


def _numbered(logits: torch.Tensor, are_some: Sequence[bool]) -> torch.Tensor:
    """[S]: 0, 1, ... for those rows, -1 for others."""
    chosen = np.array(are_some)
    numbers = np.where(chosen, np.cumsum(chosen) - 1, -1).astype(np.int32)
    return sent(numbers, logits.device)
