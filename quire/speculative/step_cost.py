"""How long a step takes by its number of tokens, learned from the steps that ran."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MOST_TOKENS", "StepCost"]

MOST_TOKENS = 32
"""Steps of more tokens are not learned, and get no guesses: they are bound by arithmetic."""
FLAT_TOKENS = 4
"""Steps of up to so many tokens are presumed to cost the same: each reads all weights once."""
WEIGHT = 0.2
"""What the newest step counts against those before it."""
FORGET_STEPS = 256
"""A number of tokens not seen for so many steps counts as never seen, and may be tried again."""
REDRAW_STEPS = 16
"""The curve is drawn anew only so often, and when a new number of tokens is seen."""
LEAST_GAIN = 1.03
"""Guesses must promise 3 % more tokens a second: the estimates are not better than that."""


class StepCost:
    """Estimates seconds per step; between two numbers of tokens that were seen, a line.

    Past the largest one seen, the costs are presumed to rise half as fast as arithmetic alone would
    make them, which is low enough to find out.
    """

    def __init__(self) -> None:
        self._seconds = [0.0] * (MOST_TOKENS + 1)
        self._seen_at = [-FORGET_STEPS] * (MOST_TOKENS + 1)
        self._num_steps = 0
        self._curve = list(map(_presumed, range(MOST_TOKENS + 1)))

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from a step."""
        if not 0 < num_tokens <= MOST_TOKENS:
            return
        self._num_steps += 1
        is_new = not self._is_known(num_tokens)
        if is_new:
            self._seconds[num_tokens] = seconds
        else:
            self._seconds[num_tokens] += WEIGHT * (seconds - self._seconds[num_tokens])
        self._seen_at[num_tokens] = self._num_steps
        if is_new or self._num_steps % REDRAW_STEPS == 0:
            self._draw()

    def best_count(self, num_tokens: int, chances: Sequence[float]) -> int:
        """How many guesses to add to a step of so many known tokens, by tokens per second.

        chances: that each guess is right, the likeliest first.  A known token is worth one token,
        whatever it is needed for.
        """
        room = min(len(chances), MOST_TOKENS - num_tokens)
        if room <= 0:
            return 0
        best, worth = 0, float(num_tokens)
        best_rate = LEAST_GAIN * worth / self._curve[num_tokens]
        for count in range(1, room + 1):
            worth += chances[count - 1]
            rate = worth / self._curve[num_tokens + count]
            if rate > best_rate:
                best, best_rate = count, rate
        return best

    def curve(self, first: int, last: int) -> list[float]:
        """Estimated seconds of steps of `first` to `last` tokens, all at most MOST_TOKENS."""
        return self._curve[first : last + 1]

    def _draw(self) -> None:
        known = [tokens for tokens in range(1, MOST_TOKENS + 1) if self._is_known(tokens)]
        self._curve = [self._estimate(tokens, known) for tokens in range(MOST_TOKENS + 1)]

    def _estimate(self, tokens: int, known: Sequence[int]) -> float:
        below = max((each for each in known if each <= tokens), default=0)
        above = min((each for each in known if each >= tokens), default=0)
        if below == tokens and below:
            return self._seconds[tokens]
        if not above:
            return self._seconds[below] * _presumed(tokens) / _presumed(below)
        if not below:
            return self._seconds[above]
        share = (tokens - below) / (above - below)
        return self._seconds[below] + share * (self._seconds[above] - self._seconds[below])

    def _is_known(self, tokens: int) -> bool:
        return self._num_steps - self._seen_at[tokens] < FORGET_STEPS


def _presumed(tokens: int) -> float:
    """The cost of a step against one of a single token, before anything is known."""
    return 1.0 if tokens <= FLAT_TOKENS else (tokens + FLAT_TOKENS) / (2 * FLAT_TOKENS)
