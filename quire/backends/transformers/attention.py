"""Our paged attention behind transformers' attention interface.

A forward pass is given `paged`, which the model hands down to every layer: first a Survey, which
notes what each layer computes, later the Paged of a step, which computes it over the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from quire.backends.torch.backend import chosen_body
from quire.backends.torch.step import Step
from quire.backends.transformers.masks import note_mask, window_of
from quire.errors import ModelError
from quire.ops.attention import PagedAttention
from quire.ops.rope import KvWrite

__all__ = ["NAME", "Layers", "Paged", "Survey", "Vector", "attention"]

NAME = "quire"
"""How transformers calls this kind of attention."""

Layers = Mapping[int, PagedAttention]
"""id of an attention module → what it computes."""


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    scaling: float | None = None,
    paged: Survey | Paged | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """[1, T, H, V] of queries [1, H, T, D], keys [1, K, T, D] and values [1, K, T, V]."""
    if paged is None:
        raise ModelError("its layers are not told which step they compute")
    if isinstance(paged, Survey):
        paged.note(module, query, key, value, attention_mask, scaling, others)
    return paged.attend(module, query[0], key[0], value[0])[None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, note_mask)


@dataclass(frozen=True, slots=True)
class Vector:
    """A weight of one axis, float32: see StoredWeight."""

    data: npt.NDArray[np.float32]
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """As numpy has it."""
        return self.data.shape

    def float32(self) -> npt.NDArray[np.float32]:
        """The numbers."""
        return self.data


class Survey:
    """Notes each layer's attention in a pass over one token, which sees nothing but itself.

    sinks: by name, those of layers that have some.
    """

    def __init__(self) -> None:
        self.layers: dict[int, PagedAttention] = {}
        self.sinks: dict[str, Vector] = {}

    def note(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: object,
        scaling: float | None,
        others: Mapping[str, Any],
    ) -> None:
        """Raises ModelError for what paged attention does not compute."""
        if id(module) in self.layers:
            raise ModelError("it has a layer that attends twice")
        window, chunk = window_of(mask)
        dims = key.shape[3]
        sinks = None if others.get("s_aux") is None else f"sinks of {len(self.layers)}"
        if sinks is not None:
            self.sinks[sinks] = Vector(others["s_aux"].detach().float().cpu().numpy().reshape(-1))
        self.layers[id(module)] = PagedAttention(
            len(self.layers),
            query.shape[1],
            key.shape[1],
            max(dims, value.shape[3]),
            dims**-0.5 if scaling is None else float(scaling),
            window,
            chunk,
            others.get("softcap"),
            sinks=sinks,
        )

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """[1, H, V]: the only value."""
        return value.repeat_interleave(len(query) // len(value), dim=0).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Paged:
    """One step's attention; keys and values stand in its cache, the narrower ones filled up."""

    step: Step
    layers: Layers

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """[T, H, V]: write, then read all that each token sees."""
        op = self.layers[id(module)]
        queries, keys, values = (_rows(each, op.head_dim) for each in (query, key, value))
        self._compute(KvWrite(op.layer, op.kv_heads), keys, values)
        (attended,) = self._compute(op, queries)
        heads = attended.unflatten(1, (op.heads, -1))[..., : value.shape[2]]
        return heads.to(query.dtype)

    def _compute(self, op: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return chosen_body(op, self.step.device).compute(self.step, op, *inputs)


def _rows(heads: torch.Tensor, dims: int) -> torch.Tensor:
    """[T, H * dims], float32, of heads [H, T, D]."""
    return pad(heads.transpose(0, 1).float(), (0, dims - heads.shape[2])).flatten(1)
