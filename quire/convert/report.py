"""The report of a run: quantization.json, quantization.md for people, and quantization.svg."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.convert.plot import bar_chart
from quire.convert.suggestion import Suggestion, worst_matrices

__all__ = ["Report", "peak_memory_bytes", "write_report"]

SHOWN = 10
"""Matrices in the tables of the worst."""
FEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report says.

    options: what was asked.  figures: see Divergence.  blocks: records of blocks.  bytes, original_
    bytes: of the tensors.  peak_memory: of all but the speed, for which a model is whole in memory.
    speed: tokens a second by model, or why there are none.
    """

    model: str
    options: Mapping[str, Any]
    algorithms: str
    figures: Mapping[str, float]
    blocks: Sequence[Mapping[str, Any]]
    calibration_tokens: int
    bytes: int
    original_bytes: int
    seconds: float
    peak_memory: int
    speed: Mapping[str, Any]
    suggestion: Suggestion | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        suggestion = self.suggestion
        return {
            "model": self.model,
            "options": dict(self.options),
            "algorithms": self.algorithms,
            "figures": dict(self.figures),
            "calibration_tokens": self.calibration_tokens,
            "bytes": self.bytes,
            "original_bytes": self.original_bytes,
            "seconds": round(self.seconds, 1),
            "peak_memory_bytes": self.peak_memory,
            "speed": dict(self.speed),
            "suggestion": None
            if suggestion is None
            else {
                "overrides": list(suggestion.overrides),
                "removed": suggestion.removed,
                "bytes": suggestion.bytes,
            },
            "blocks": [dict(block) for block in self.blocks],
        }

    def as_markdown(self) -> str:
        """For people."""
        parts = [self._summary(), self._quality(), self._worst(), self._coverage()]
        parts += [self._speed(), self._blocks()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _summary(self) -> str:
        options = self.options
        rows = [
            ("scheme", f"`{options['scheme']}`"),
            ("algorithm", f"`{self.algorithms}`"),
            ("format", f"`{options['format']}`"),
            ("overrides", " ".join(f"`{each}`" for each in options["override"]) or "none"),
            ("calibrated on", f"{self.calibration_tokens} tokens"),
            (
                "size",
                f"{_mib(self.bytes)}, {self.bytes / self.original_bytes:.1%} of the original's "
                f"{_mib(self.original_bytes)}",
            ),
            ("took", f"{self.seconds:.0f} s, {_mib(self.peak_memory)} of memory at most"),
        ]
        lines = [f"# Quantization of {self.model}", "", "| | |", "| --- | --- |"]
        return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows])

    def _quality(self) -> str:
        f = self.figures
        change = f["perplexity"] / f["perplexity_original"] - 1
        return "\n".join(
            [
                "## What it costs",
                "",
                "| | original | quantized |",
                "| --- | --- | --- |",
                f"| perplexity | {f['perplexity_original']:.3f} | {f['perplexity']:.3f} "
                f"({change:+.2%}) |",
                f"| KL divergence, nats a token: mean, 99th percentile | | {f['kl_mean']:.5f}, "
                f"{f['kl_p99']:.4f} |",
                f"| same most likely token | | {f['top1_agreement']:.2%} |",
                "",
                f"Over {f['tokens']:.0f} tokens, in float32 arithmetic, weights and inputs rounded "
                "as the scheme says. `quire evaluate` measures with the kernels that serve.",
            ]
        )

    def _worst(self) -> str:
        lines = ["## The worst matrices", "", "| matrix | scheme | error |", "| --- | --- | --- |"]
        for name, record in worst_matrices(self.blocks)[:SHOWN]:
            lines.append(f"| {name} | {record['scheme']} | {record['error']:.2e} |")
        lines += [
            "",
            "An error is the squared loss of a matrix's products, as a share of their square.",
        ]
        if self.suggestion is not None:
            lines += [
                "",
                f"Storing {len(self.suggestion.overrides)} of them in 8 bits takes away "
                f"{self.suggestion.removed:.0%} of the summed error for "
                f"{_mib(self.suggestion.bytes)}:",
                "",
                "```text",
                *(f"--override {each}" for each in self.suggestion.overrides),
                "```",
            ]
        return "\n".join(lines)

    def _coverage(self) -> str:
        """Matrices that few calibration tokens reached: experts that are seldom chosen."""
        seen = _tokens_seen(self.blocks)
        few = sorted((count, name) for name, count in seen.items() if count < FEW_TOKENS)
        if not few:
            return ""
        shown = [f"| {name} | {count} |" for count, name in few[:SHOWN]]
        return "\n".join(
            [
                "## Matrices that saw little",
                "",
                f"Fewer than {FEW_TOKENS} tokens of calibration reached {len(few)} of {len(seen)} "
                "matrices; those that none reached are rounded to nearest. "
                "`--calibration-tokens` gives them more.",
                "",
                "| matrix | tokens |",
                "| --- | --- |",
                *shown,
                *([f"| and {len(few) - SHOWN} more | |"] if len(few) > SHOWN else []),
            ]
        )

    def _speed(self) -> str:
        lines = ["## Speed here, one request", "", "| | prompt | output |", "| --- | --- | --- |"]
        for name, speed in self.speed.items():
            if isinstance(speed, str):
                lines.append(f"| {name} | not measured: {speed} | |")
            else:
                lines.append(
                    f"| {name} | {speed['prompt_tokens_per_s']} tokens/s | "
                    f"{speed['output_tokens_per_s']} tokens/s |"
                )
        lines += ["", "Each whole in memory, after all else."]
        return "\n".join(lines)

    def _blocks(self) -> str:
        lines = [
            "## Block by block",
            "",
            "![error behind each block](quantization.svg)",
            "",
            "| block | error behind it | strengths of the scales | tokens a matrix saw | seconds |",
            "| --- | --- | --- | --- | --- |",
        ]
        for i, block in enumerate(self.blocks):
            strengths = ", ".join(f"{each:g}" for each in block["strengths"].values())
            counts = sorted(_tokens_seen([block]).values()) or [0]
            seen = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
            lines.append(
                f"| {i} | {block['error']:.2e} | {strengths} | {seen} | {block['seconds']:.1f} |"
            )
        return "\n".join(lines)


def _tokens_seen(blocks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The calibration tokens that reached each matrix; none where nothing was observed."""
    found = (each for block in blocks for each in block["matrices"].items())
    return {name: record["tokens"] for name, record in found if "tokens" in record}


def write_report(directory: Path, report: Report) -> None:
    """Write the three files into the checkpoint's directory."""
    text = json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n"
    (directory / "quantization.json").write_text(text, encoding="utf-8")
    (directory / "quantization.md").write_text(report.as_markdown(), encoding="utf-8")
    errors = [block["error"] for block in report.blocks]
    chart = bar_chart("Squared error of the hidden state, relative", errors, "block")
    (directory / "quantization.svg").write_text(chart, encoding="utf-8")


def peak_memory_bytes() -> int:
    """The most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
