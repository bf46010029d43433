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
"""How far half of a text's rows of logits may be off, as a share of the largest logit."""

BLOCK = 16


def prove(model: WrappedModel, lengths: tuple[int, int] = (21, 6)) -> None:
    """Raises ModelError, with the distance, where the two ways do not agree.

    lengths: of the two texts.
    """
    random = np.random.default_rng(0)
    texts = [random.integers(0, model.spec.vocab_size, size).astype(np.int32) for size in lengths]
    try:
        expected, found = _as_transformers_does(model, texts), _as_steps_do(model, texts)
    except Exception as error:  # of any kind: another library's
        raise _refusal(model, f"it fails ({error})") from error
    rows = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    distance = max(float(np.median(each)) for each in np.split(rows, [lengths[0]]))
    if not distance < BOUNDS[model.spec.dtype]:
        raise _refusal(model, f"its logits are off by {distance:.2g} of the largest")


def _refusal(model: WrappedModel, what: str) -> ModelError:
    return ModelError(
        f"architecture {model.spec.architecture!r} is not supported through transformers: beside "
        f"another text, and in pieces, {what}; choose a model of docs/models.md"
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
    """Every text is cut once, early; the blocks of its table stand in no order."""
    ends = tuple(len(text) for text in texts)
    blocks = -(-max(ends) // BLOCK)
    tables = np.random.default_rng(1).permutation(len(texts) * blocks).astype(np.int32)
    cache = KvCache(KvLayout(model.cache_shapes, BLOCK, "float32"), len(tables))
    executable = TransformersExecutable(model, cache)
    pieces: list[list[npt.NDArray[np.float32]]] = [[] for _ in texts]
    cuts = (0,) * len(texts), tuple(end // 3 for end in ends), ends
    for starts, ends in itertools.pairwise(cuts):
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
                tables.reshape(len(texts), blocks),
                np.arange(total, dtype=np.int32),
                (),
            )
        )
        for piece, rows in zip(pieces, np.split(logits, [counts[0]]), strict=True):
            piece.append(rows)
    return np.concatenate([rows for piece in pieces for rows in piece])
