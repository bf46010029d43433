"""Makes Markdown of what bench.gpu found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["render"]

NOT_YET = "Not measured yet: `python -m bench.gpu` has not run on a GPU.\n"
PARTS = ("decode", "prefill", "serve", "start", "kernels")
TITLES = {
    "decode": "Decode, all requests at one context",
    "prefill": "Prefill, to the first token",
    "serve": "Requests over HTTP",
    "start": "Start, checkpoint in the page cache",
    "kernels": "Kernels",
}

Findings = Mapping[str, Mapping[str, Any]]


def render(findings: Findings) -> str:
    """A table for each part, ending in a newline; a sentence where there is none."""
    tables = [table for part in PARTS if (table := _table(part, findings.get(part, {})))]
    if not tables:
        return NOT_YET
    return "\n\n".join([*_machine(findings), *tables]) + "\n"


def _machine(findings: Findings) -> Iterator[str]:
    found = findings.get("ceilings", {})
    if found:
        device = found.get("device", "a device")
        copy, product = (found.get(f"{name} per second", 0.0) for name in ("bytes", "operations"))
        yield (
            f"On {device}, where a copy moves {copy / 1e9:,.0f} GB/s and torch multiplies bfloat16 "
            f"at {product / 1e12:,.0f} TFLOP/s; shares are of these."
        )


def _table(part: str, found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    columns = list(dict.fromkeys(name for values in found.values() for name in values))
    lines = [
        f"| {TITLES[part]} | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name, values in found.items():
        cells = [_cell(values.get(column)) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else "" if value is None else str(value)
