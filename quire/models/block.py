"""A block of a model: what looks at other tokens, then what looks at each alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quire.models.attention import AttentionPart
from quire.models.feed_forward import FeedForward
from quire.models.linear import Norm
from quire.models.recurrent import GatedDeltaNet, Mamba2, ParallelMixers

__all__ = ["Block", "SingleMixer", "TokenMixer"]

SingleMixer: TypeAlias = AttentionPart | GatedDeltaNet | Mamba2
TokenMixer: TypeAlias = SingleMixer | ParallelMixers
"""What may look at other tokens in a block."""


@dataclass(frozen=True, slots=True)
class Block:
    """Attention, then a feed-forward part, each added to its input; norms stand where they are set.

        x = attention_sum_norm(x + scale * attention_output_norm(attention(attention_norm(x))))
        x = mlp_sum_norm(x + scale * mlp_output_norm(mlp(mlp_norm(x))))

    Most decoders have the norms before the parts only; scale is residual_scale.  Where a part is
    None, its line is not there.

    parallel: both parts read what enters the block, and neither sum has a norm; mlp_norm is
    attention_norm where the parts share one.

        x = x + scale * attention_output_norm(attention(attention_norm(x)))
              + scale * mlp_output_norm(mlp(mlp_norm(x)))
    """

    attention_norm: Norm | None
    attention: TokenMixer | None
    mlp_norm: Norm | None
    mlp: FeedForward | None
    attention_output_norm: Norm | None = None
    mlp_output_norm: Norm | None = None
    attention_sum_norm: Norm | None = None
    mlp_sum_norm: Norm | None = None
    residual_scale: float = 1.0
    parallel: bool = False

    @property
    def mixers(self) -> tuple[SingleMixer, ...]:
        """What looks at other tokens: one part, two beside each other, or none."""
        if isinstance(self.attention, ParallelMixers):
            return self.attention.attention, self.attention.recurrent
        return () if self.attention is None else (self.attention,)

    @property
    def shares_norm(self) -> bool:
        """Whether both parts read the same normed rows."""
        return self.parallel and self.mlp_norm == self.attention_norm
