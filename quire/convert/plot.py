"""Draws one line of bars as SVG: the error of every block, the worst ones marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bar_chart"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 260, 64, 34, 34
USUAL, WORST = "#4c78a8", "#e45756"


def bar_chart(title: str, values: Sequence[float], label: str, marked: int = 3) -> str:
    """An SVG document with a bar for each positive value on a logarithmic axis.

    label: what is counted along the bottom.  marked: how many of the largest are drawn in red.
    """
    floor, top = _decades(values)
    worst = set(sorted(range(len(values)), key=lambda i: -values[i])[:marked])
    step = (WIDTH - LEFT - 10) / max(len(values), 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for decade in range(floor, top + 1):
        y = _height_of(10.0**decade, floor, top)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">1e{decade}</text>')
    every = max(1, math.ceil(len(values) / 24))
    for i, value in enumerate(values):
        x, y = LEFT + i * step, _height_of(value, floor, top)
        color = WORST if i in worst else USUAL
        parts.append(
            f'<rect x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" '
            f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{color}"><title>{label} {i}: {value:.3g}'
            "</title></rect>"
        )
        if i % every == 0:
            parts.append(
                f'<text x="{x + step / 2:.1f}" y="{HEIGHT - BOTTOM + 15}" '
                f'text-anchor="middle">{i}</text>'
            )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 5}" text-anchor="middle">{label}</text></svg>'
    )
    return "\n".join(parts) + "\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose the values."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def _height_of(value: float, floor: int, top: int) -> float:
    share = (math.log10(max(value, 10.0**floor)) - floor) / (top - floor)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
