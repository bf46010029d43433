"""What is known of a model that another library computes: no weights, no layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quire.models.spec import ModelSpec

__all__ = ["ServedSpec", "WrappedSpec"]


@dataclass(frozen=True, slots=True)
class WrappedSpec:
    """As the fields of ModelSpec of these names; every position sees what its model lets it see."""

    architecture: str
    vocab_size: int
    max_length: int
    dtype: str
    num_parameters: int
    eos_token_ids: tuple[int, ...] = ()
    bidirectional: bool = False
    window: int | None = None


ServedSpec: TypeAlias = ModelSpec | WrappedSpec
"""What a model that runs is: one of ours, or one that is wrapped."""
