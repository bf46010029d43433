"""Chooses the experts of each token, and how much each counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.models.spec import ExpertGroups, Scoring
from quire.ops.op import Cost, Environment, Float32

__all__ = ["MAX_TOP_K", "RouteTokens"]

MAX_TOP_K = 64
"""As many experts as the native kernels choose for a token."""


@dataclass(frozen=True, slots=True)
class RouteTokens:
    """[rows, 2 * top_k] = the chosen experts' ids, ascending, then their weights in that order.

    The input holds the router's logits [rows, experts].  The experts with the highest ranking are
    chosen, the lowest id among equals: the score plus `bias`; without bias and groups the logit,
    which orders them alike.  Their weights are their scores, `normalised` by their sum (or
    by least_sum if that is larger), times `scale`.  A row with a number that is none still chooses
    experts that exist.  sparsemixer, with its `jitter`: arXiv:2409.12136.
    """

    top_k: int
    scoring: Scoring = "softmax"
    normalised: bool = False
    scale: float = 1.0
    bias: str | None = None
    groups: ExpertGroups | None = None
    least_sum: float = 1e-20
    jitter: float = 0.01

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """An id and a weight for each chosen expert."""
        return (2 * self.top_k,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Score, rank, choose, weigh."""
        with np.errstate(all="ignore"):
            if self.scoring == "sparsemixer":
                ids, weights = self._sparsemixer(inputs[0])
            else:
                scores = self._scores(inputs[0])
                ids = _best(self._rankings(env, inputs[0], scores), self.top_k)
                weights = np.take_along_axis(scores, ids, axis=1)
            order = np.argsort(ids, axis=1)
            ids, weights = (np.take_along_axis(each, order, axis=1) for each in (ids, weights))
            if self.normalised:
                total = weights.sum(axis=1, keepdims=True)
                weights = weights / np.maximum(total, np.float32(self.least_sum))
            weights = weights * np.float32(self.scale)
        return (np.concatenate([ids, weights], axis=1).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """About eight operations per logit."""
        moved = rows * (inputs[0] + 2 * self.top_k)
        return Cost(8 * rows * inputs[0], inputs[0] if self.bias else 0, moved)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The bias of the ranking."""
        return () if self.bias is None else (self.bias,)

    def _scores(self, logits: Float32) -> Float32:
        if self.scoring == "sigmoid":
            sigmoid: Float32 = np.float32(1) / (1 + np.exp(-logits))
            return sigmoid
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores: Float32 = shifted / shifted.sum(axis=1, keepdims=True)
        return scores

    def _rankings(self, env: Environment, logits: Float32, scores: Float32) -> Float32:
        if self.bias is None and self.groups is None:
            return logits
        rankings = scores if self.bias is None else scores + env.weights[self.bias]
        if self.groups is None:
            return rankings
        rows = len(rankings)
        grouped = rankings.reshape(rows, self.groups.count, -1)  # [rows, groups, experts of one]
        most = 2 if self.groups.score == "top2_sum" else 1
        best = np.sort(grouped, axis=2)[..., ::-1][..., :most].sum(axis=2)
        is_open = np.zeros((rows, self.groups.count, 1), bool)
        np.put_along_axis(is_open[..., 0], _best(best, self.groups.chosen), True, axis=1)
        limited: Float32 = np.where(is_open, grouped, np.float32(-np.inf))
        return limited.reshape(rows, -1)

    def _sparsemixer(self, logits: Float32) -> tuple[np.ndarray, Float32]:
        """One expert after the other, each weighed among those whose logits are near enough."""
        left = np.nan_to_num(logits, nan=-np.finfo(np.float32).max)  # minus infinity is taken
        ids, weights = [], []
        for _ in range(self.top_k):
            chosen = _best(left, 1)
            top = np.take_along_axis(left, chosen, axis=1)
            size = np.maximum(np.abs(logits), top)
            is_near = ~((top - logits) / size > 2 * np.float32(self.jitter)) & ~np.isneginf(left)
            total = np.where(is_near, np.exp(logits - top), 0).sum(axis=1, keepdims=True)
            ids.append(chosen)
            weights.append(1 / total)
            np.put_along_axis(left, chosen, -np.inf, axis=1)
        return np.concatenate(ids, axis=1), np.concatenate(weights, axis=1)


def _best(values: Float32, count: int) -> np.ndarray:
    """The columns of the highest values of each row, best first, the first among equals."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]
