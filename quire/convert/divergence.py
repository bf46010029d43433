"""How far one model's predictions are from another's, over the tokens of a text."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["Divergence", "Likelihood", "log_probabilities"]

Float32 = npt.NDArray[np.float32]


def log_probabilities(logits: Float32) -> npt.NDArray[np.float64]:
    """The logarithm of the softmax of each row, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


class Likelihood:
    """What a model says of the tokens that really follow."""

    def __init__(self) -> None:
        self.tokens = 0
        self.nats = 0.0

    def add(self, log_probs: npt.NDArray[np.float64], following: npt.NDArray[np.int32]) -> None:
        """Note rows [T, V] and the token that follows each."""
        self.tokens += len(following)
        self.nats -= float(log_probs[np.arange(len(following)), following].sum())

    @property
    def perplexity(self) -> float:
        """e to the mean negative log-likelihood of a token."""
        return math.exp(self.nats / self.tokens) if self.tokens else math.nan


class Divergence:
    """The original's and another model's likelihoods, and the divergence between them.

    KL is that of the other's distribution from the original's, in nats a token.
    """

    def __init__(self) -> None:
        self.original, self.other = Likelihood(), Likelihood()
        self._kl: list[npt.NDArray[np.float64]] = []
        self._agreeing = 0

    def add(self, original: Float32, other: Float32, following: npt.NDArray[np.int32]) -> None:
        """Note the logits [T, V] of both, and the token that follows each row."""
        p, q = log_probabilities(original), log_probabilities(other)
        self.original.add(p, following)
        self.other.add(q, following)
        self._kl.append((np.exp(p) * (p - q)).sum(axis=-1))
        self._agreeing += int((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())

    def figures(self) -> dict[str, float]:
        """Perplexities, KL (mean and 99th percentile) and top-1 agreement, by name."""
        kl = np.concatenate(self._kl) if self._kl else np.full(1, math.nan)
        tokens = self.original.tokens
        return {
            "tokens": tokens,
            "perplexity_original": self.original.perplexity,
            "perplexity": self.other.perplexity,
            "kl_mean": float(kl.mean()),
            "kl_p99": float(np.quantile(kl, 0.99)),
            "top1_agreement": self._agreeing / tokens if tokens else math.nan,
        }
