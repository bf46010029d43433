"""Whether the kernels of latent attention and of recurrent layers are right on a device.

As checks.py, which lists these too.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from quire.backends.torch.triton.attention import AttentionInputs, num_chunks, query_tiles
from quire.backends.torch.triton.latent_attention import CachedRows, attend_latents, latent_tile
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.recurrence import Heads, follow_delta_rule
from quire.backends.torch.triton.short_convolution import RecurrentStep

__all__ = ["delta_rule", "latents", "worst_share"]

KNOWN, NEW, BLOCK_TOKENS, LATENT_HEADS, RANK, ROTATED = 700, 20, 16, 40, 512, 64
TOKENS, KEY_HEADS, HEADS, HEAD_DIM = 200, 2, 4, 128


def worst_share(found: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor | float) -> float:
    """The largest error as a share of what is allowed."""
    return float(((found.double() - exact).abs() / bound).max())


def latents(gpu: Launcher, device: torch.device) -> float:
    """Some tokens behind many; keys shared by programs or not, and a token alone."""
    blocks, dtype = -(-(KNOWN + NEW) // BLOCK_TOKENS), torch.bfloat16
    shape = (blocks, BLOCK_TOKENS, RANK + ROTATED)
    rows = torch.randn(shape, dtype=dtype, device=device)
    table = torch.randperm(blocks, device=device).int()
    queries = torch.randn(NEW, LATENT_HEADS * (RANK + ROTATED), dtype=dtype, device=device)
    scale, tile_rows = (RANK + ROTATED) ** -0.5, latent_tile(gpu, dtype).rows

    def run(first: int, chunks: int) -> torch.Tensor:
        starts = np.array([0, NEW - first], np.int32)
        tiles = query_tiles(starts, tile_rows // min(LATENT_HEADS, tile_rows))
        positions = torch.arange(KNOWN + first, KNOWN + NEW, dtype=torch.int32, device=device)
        step = AttentionInputs(
            positions, torch.from_numpy(starts).to(device), table[None],
            torch.from_numpy(tiles).to(device), chunks=chunks,
        )  # fmt: skip
        out = torch.empty(NEW - first, LATENT_HEADS * RANK, device=device)
        attend_latents(gpu, queries[first:], CachedRows(rows, RANK), step, LATENT_HEADS, scale, out)
        return out

    out = run(0, 0)
    for first, chunks in ((0, num_chunks(0, KNOWN + NEW - 1)), (NEW - 1, 0)):
        if not torch.equal(run(first, chunks), out[first:]):
            return math.inf
    keys = rows[table.long()].flatten(0, 1)[: KNOWN + NEW].double()
    scores = queries.double().unflatten(1, (LATENT_HEADS, -1)) @ keys.T * scale  # [T, H, N]
    is_later = torch.ones(NEW, KNOWN + NEW, dtype=torch.bool, device=device).triu(KNOWN + 1)
    weights = scores.masked_fill(is_later[:, None], -math.inf).softmax(-1)
    return worst_share(out, (weights @ keys[:, :RANK]).flatten(1), 2**-7)


def delta_rule(gpu: Launcher, device: torch.device) -> float:
    """A prompt, whole and in pieces, behind a state."""
    width = (2 * KEY_HEADS + HEADS) * HEAD_DIM
    mixed, log, bias = (
        torch.randn(*n, device=device) for n in ((TOKENS, width), (HEADS,), (HEADS,))
    )
    beta, decay = (torch.randn(TOKENS, HEADS, device=device) for _ in range(2))
    before = torch.randn(1, HEADS * HEAD_DIM**2, device=device)
    heads = Heads(KEY_HEADS, HEADS, HEAD_DIM, HEAD_DIM, log, bias)

    def run(sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        out, records = torch.empty(TOKENS, HEADS * HEAD_DIM, device=device), before.clone()
        states = torch.tensor([[0, 0, 0, -1]], dtype=torch.int32, device=device)
        start = 0
        for size in sizes:
            part, start = slice(start, start + size), start + size
            starts = torch.tensor([0, size], dtype=torch.int32, device=device)
            step = RecurrentStep(records, 0, starts, starts, states)
            follow_delta_rule(gpu, mixed[part], beta[part], decay[part], heads, step, out[part])
        return out, records

    (out, state), pieces = run([TOKENS]), run([1, 2, TOKENS - 4, 1])
    if not torch.equal(out, pieces[0]) or not torch.equal(state, pieces[1]):
        return math.inf
    exact = _exact_delta_rule(mixed.double(), beta.double(), decay.double(), before.double(), heads)
    return worst_share(out, exact, 1e-4 * float(exact.abs().max()))


def _exact_delta_rule(
    mixed: torch.Tensor, beta: torch.Tensor, decay: torch.Tensor, state: torch.Tensor, heads: Heads
) -> torch.Tensor:
    """Token by token."""
    state = state.view(HEADS, HEAD_DIM, HEAD_DIM).clone()
    query, key, value = mixed.unflatten(1, (-1, HEAD_DIM)).split([KEY_HEADS, KEY_HEADS, HEADS], 1)
    query, key = (
        (each * (each.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).repeat_interleave(
            HEADS // KEY_HEADS, 1
        )
        for each in (query, key)
    )
    span = torch.nn.functional.softplus(decay + heads.gate_bias.double())
    kept, strength = (-heads.decay_log.double().exp() * span).exp(), beta.sigmoid()
    found = []
    for t in range(TOKENS):
        state *= kept[t, :, None, None]
        known = torch.einsum("hkv,hk->hv", state, key[t])
        state += key[t, :, :, None] * (strength[t, :, None] * (value[t] - known))[:, None]
        found.append(torch.einsum("hkv,hk->hv", state, query[t]) * HEAD_DIM**-0.5)
    return torch.stack(found).flatten(1)
