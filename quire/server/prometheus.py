"""Counters, gauges and histograms, and their text in Prometheus' exposition format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

__all__ = ["Counter", "Gauge", "Histogram", "Registry"]

Labels = tuple[str, ...]
Metric = TypeVar("Metric", bound="Gauge | Histogram")


class Gauge:
    """A number per combination of label values; this one may go down."""

    kind = "gauge"
    suffix = ""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(labels)
        self.values: dict[Labels, float] = {} if labels else {(): 0.0}

    def set(self, value: float, *labels: str) -> None:
        """Make the number `value`."""
        self.values[labels] = value

    def lines(self, constant: str) -> list[str]:
        """The samples; constant: labels that every sample has."""
        name = self.name + self.suffix
        return [
            f"{name}{{{_join(constant, _pairs(self.labels, key))}}} {_number(value)}"
            for key, value in self.values.items()
        ]


class Counter(Gauge):
    """A number that only grows; Prometheus wants its name to end in _total."""

    kind = "counter"
    suffix = "_total"

    def add(self, amount: float, *labels: str) -> None:
        """Make the number larger."""
        self.values[labels] = self.values.get(labels, 0.0) + amount


class Histogram:
    """How many observed values lie at or below each bound."""

    kind = "histogram"
    suffix = ""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, constant: str) -> list[str]:
        """The cumulative buckets, their sum and their count."""
        found, total = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            labels = _join(constant, f'le="{_number(bound)}"')
            found.append(f"{self.name}_bucket{{{labels}}} {total}")
        found.append(f"{self.name}_sum{{{constant}}} {_number(self.sum)}")
        found.append(f"{self.name}_count{{{constant}}} {total}")
        return found


class Registry:
    """Metrics under one prefix, with labels that all of them have."""

    def __init__(self, prefix: str, labels: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._constant = _pairs(tuple(labels), tuple(labels.values()))
        self._metrics: list[Gauge | Histogram] = []

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A new gauge."""
        return self._keep(Gauge(self._named(name), text, labels))

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """A new counter; give its name without _total."""
        return self._keep(Counter(self._named(name), text, labels))

    def histogram(self, name: str, text: str, bounds: Sequence[float]) -> Histogram:
        """A new histogram with these upper bounds, ascending."""
        return self._keep(Histogram(self._named(name), text, bounds))

    def __iter__(self) -> Iterator[Gauge | Histogram]:
        return iter(self._metrics)

    def expose(self) -> str:
        """The whole text."""
        found = []
        for metric in self._metrics:
            name = metric.name + metric.suffix
            found += [f"# HELP {name} {metric.text}", f"# TYPE {name} {metric.kind}"]
            found += metric.lines(self._constant)
        return "\n".join(found) + "\n"

    def _keep(self, metric: Metric) -> Metric:
        self._metrics.append(metric)
        return metric

    def _named(self, name: str) -> str:
        return f"{self._prefix}:{name}"


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))


def _join(first: str, second: str) -> str:
    return f"{first},{second}" if first and second else first or second


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
