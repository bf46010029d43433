"""One checkpoint to compare with transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """A transformers model type, its config fields, and what to call it.

    old: what else differs in an older spelling of its config.json; `...` leaves a key out.
    attention: which implementation of transformers is right.
    """

    name: str
    model_type: str
    fields: Mapping[str, Any]
    prompt_length: int = 40
    old: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "eager"

    def __str__(self) -> str:
        return self.name
