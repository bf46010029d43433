"""The figures of a serving benchmark: rates, distributions, goodput."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quire.cli.bench.client import Outcome

__all__ = ["METRICS", "Distribution", "Figures", "percentile"]

METRICS: Mapping[str, Callable[[Outcome], Sequence[float]]] = {
    "ttft": lambda outcome: (outcome.first_token_s,),
    "tpot": lambda outcome: (outcome.per_token_s,) if outcome.output_tokens > 1 else (),
    "itl": lambda outcome: outcome.gaps_s,
    "e2el": lambda outcome: (outcome.latency_s,),
}
"""Metric → its values, in seconds, for one request."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of one metric, in milliseconds; percentiles: (which, value)."""

    mean: float
    median: float
    std: float
    percentiles: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, seconds: Sequence[float], wanted: Sequence[float]) -> Distribution:
        """The distribution of some values; zeros if there are none."""
        values = sorted(value * 1000 for value in seconds) or [0.0]
        return cls(
            statistics.fmean(values),
            statistics.median(values),
            statistics.pstdev(values),
            tuple((each, percentile(values, each)) for each in wanted),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What a benchmark found.  goodput: requests per second that met every objective, if any."""

    duration: float
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    goodput: float | None
    max_output_tokens_per_s: float
    max_concurrent_requests: int
    distributions: Mapping[str, Distribution]

    @classmethod
    def of(
        cls,
        outcomes: Sequence[Outcome],
        duration: float,
        objectives: Mapping[str, float],
        percentiles: Sequence[float],
    ) -> Figures:
        """The figures of some outcomes.  objectives: metric → the most milliseconds it may take."""
        good = [outcome for outcome in outcomes if not outcome.error]
        met = sum(_meets(outcome, objectives) for outcome in good)
        return cls(
            duration,
            len(good),
            len(outcomes) - len(good),
            sum(outcome.prompt_tokens for outcome in good),
            sum(outcome.output_tokens for outcome in good),
            met / duration if objectives else None,
            _peak_rate(good),
            _peak_concurrency(good),
            {
                name: Distribution.of([v for each in good for v in values(each)], percentiles)
                for name, values in METRICS.items()
            },
        )

    @property
    def request_throughput(self) -> float:
        """Requests per second."""
        return self.completed / self.duration

    @property
    def output_throughput(self) -> float:
        """Generated tokens per second."""
        return self.total_output_tokens / self.duration

    @property
    def total_token_throughput(self) -> float:
        """Prompt and generated tokens per second."""
        return (self.total_input_tokens + self.total_output_tokens) / self.duration


def percentile(values: Sequence[float], wanted: float) -> float:
    """A percentile of sorted values, interpolated between neighbours as numpy does."""
    place = (len(values) - 1) * wanted / 100
    low, high = math.floor(place), math.ceil(place)
    return values[low] + (values[high] - values[low]) * (place - low)


def _meets(outcome: Outcome, objectives: Mapping[str, float]) -> bool:
    for name, limit in objectives.items():
        values = METRICS[name](outcome)
        if values and statistics.fmean(values) * 1000 > limit:
            return False
    return True


def _peak_rate(outcomes: Sequence[Outcome]) -> float:
    """Most arrivals in one second of the clock, counted from the first request."""
    start = min((outcome.started_s for outcome in outcomes), default=0.0)
    seconds = Counter(
        int(outcome.started_s + arrival - start)
        for outcome in outcomes
        for arrival in outcome.arrivals_s
    )
    return float(max(seconds.values(), default=0))


def _peak_concurrency(outcomes: Sequence[Outcome]) -> int:
    """Most requests under way at one moment."""
    changes = [(outcome.started_s, 1) for outcome in outcomes]
    changes += [(outcome.started_s + outcome.latency_s, -1) for outcome in outcomes]
    running = peak = 0
    for _, change in sorted(changes):
        running += change
        peak = max(peak, running)
    return peak
