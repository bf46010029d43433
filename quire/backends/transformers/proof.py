"""Holds a wrapped model against transformers' own attention before it serves anyone.

Two short texts go through once as transformers computes them, each alone and whole, and once as an
engine's steps do, side by side and in pieces over a cache.  Whatever a model does in its own way
with masks, positions or its past shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.transformers.attention import NAME
from quire.backends.transformers.build import WrappedModel
from quire.backends.transformers.executable import TransformersExecutable
from quire.errors import ModelError
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout

__all__ = ["BOUNDS", "prove"]

BOUNDS = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.1}
"""How far half of the rows of logits may be off, as a share of the largest logit."""

BLOCK = 16
LENGTHS = (21, 6)
CUTS = ((0, 0), (9, 5), (21, 6))
"""Where the two texts begin, are cut, and end."""
TABLES = np.array([[2, 0], [1, 1]], np.int32)


def prove(model: WrappedModel) -> None:
    """Raises ModelError, with the distance, where the two ways do not agree."""
    random = np.random.default_rng(0)
    texts = [random.integers(0, model.spec.vocab_size, size).astype(np.int32) for size in LENGTHS]
    expected = _as_transformers_does(model, texts)
    found = _as_steps_do(model, texts)
    rows = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    distance = float(np.median(rows))
    if not distance < BOUNDS[model.spec.dtype]:
        raise ModelError(
            f"architecture {model.spec.architecture!r} is not supported through transformers: in "
            f"pieces and beside another text its logits are off by {distance:.2g} of the largest, "
            "so it attends in a way that a paged cache does not serve; choose a model of "
            "docs/models.md"
        )


def _as_transformers_does(
    model: WrappedModel, texts: Sequence[npt.NDArray[np.int32]]
) -> npt.NDArray[np.float32]:
    device, rows = model.device.torch_device, []
    model.module.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            for text in texts:
                tokens = torch.from_numpy(text.astype(np.int64))[None].to(device)
                made = model.module(input_ids=tokens, use_cache=False)
                rows.append(made.logits[0].float().cpu().numpy())
    finally:
        model.module.set_attn_implementation(NAME)
    return np.concatenate(rows)


def _as_steps_do(
    model: WrappedModel, texts: Sequence[npt.NDArray[np.int32]]
) -> npt.NDArray[np.float32]:
    cache = KvCache(KvLayout(model.cache_shapes, BLOCK, "float32"), 3)
    executable = TransformersExecutable(model, cache)
    pieces: list[list[npt.NDArray[np.float32]]] = [[] for _ in texts]
    for starts, ends in itertools.pairwise(CUTS):
        parts = [text[a:b] for text, a, b in zip(texts, starts, ends, strict=True)]
        positions = [np.arange(a, b, dtype=np.int32) for a, b in zip(starts, ends, strict=True)]
        counts = [len(part) for part in parts]
        total = sum(counts)
        logits = executable.logits(
            Batch(
                np.concatenate(parts),
                np.concatenate(positions),
                np.zeros(total, np.int32),
                np.cumsum([0, *counts], dtype=np.int32),
                TABLES,
                np.arange(total, dtype=np.int32),
                (),
            )
        )
        for piece, rows in zip(pieces, np.split(logits, [counts[0]]), strict=True):
            piece.append(rows)
    return np.concatenate([rows for piece in pieces for rows in piece])
