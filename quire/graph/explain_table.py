"""Renders an Explanation as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from quire.graph.explanation import Explanation, Group, OpLine, Work

__all__ = ["render"]

NUMBERS = "{:>11} {:>8} {:>11} {:>8}"
HEADINGS = ("op", "runs as", "widths")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
DECIMAL = ("", "k", "M", "G", "T")


def render(explanation: Explanation) -> str:
    """The whole explanation: model, passes, one table of ops, totals."""
    blocks = [_model(explanation), _passes(explanation), _ops(explanation)]
    return "\n\n".join("\n".join(block) for block in blocks)


def _model(e: Explanation) -> Iterator[str]:
    spec = e.spec
    size = f"{spec.num_parameters / 1e6:,.1f} M parameters, {_size(e.weight_bytes)}"
    yield f"{spec.architecture}: {size} as {_formats(e)}"
    head = f"vocabulary {spec.vocab_size}, head {'tied' if spec.tied else 'of its own'}"
    yield f"  {len(spec.blocks)} layers of width {spec.width}; {head}"
    kv = f"{e.kv_bytes_per_token:,} bytes per token as {e.kv_format}"
    full = _size(e.kv_bytes_per_token * spec.max_length)
    yield f"  KV cache {kv}; {full} at the longest sequence, {spec.max_length} tokens"
    if spec.state_floats:
        num_recurrent = len(spec.recurrent)
        size = _size(4 * spec.state_floats)
        yield f"  {num_recurrent} recurrent layers, {size} of state per request"


def _formats(e: Explanation) -> str:
    if not e.packed_bits:
        return e.weight_format
    bits = " and ".join(f"{each:g}" for each in e.packed_bits)
    return f"quantized to {bits} bits with their scales, the rest {e.weight_format}"


def _passes(e: Explanation) -> Iterator[str]:
    yield "Passes                 ops before    after"
    for run in e.passes:
        yield f"  {run.name:<20} {run.before:10} {run.after:8}"
    for choice in e.declined:
        yield f"  {choice.op} was taken apart: {choice.reason}"
    for choice in e.passed_over:
        yield f"  {choice.op} runs as {choice.body}: {choice.reason}"


def _ops(e: Explanation) -> Iterator[str]:
    """One line per op; the totals stand below."""
    words = [_words(line) for group in e.groups for line in group.lines]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *words, strict=True)]

    def row(names: tuple[str, ...], numbers: tuple[str, ...]) -> str:
        left = "  ".join(f"{name:{width}}" for name, width in zip(names, widths, strict=True))
        return f"{left} {NUMBERS.format(*numbers)}".rstrip()

    decode = f"decode, {e.decode_step.context} seen"
    prefill = f"prefill, {e.prefill_step.tokens} tokens"
    yield f"{'':{sum(widths) + 4}} {decode:>20} {prefill:>20}"
    yield row(HEADINGS, ("bytes", "FLOPs", "bytes", "FLOPs"))
    for group in e.groups:
        yield _title(group)
        for line in group.lines:
            yield row(_words(line), (*_cells(line.decode), *_cells(line.prefill)))
    decode_work, prefill_work = e.work("decode"), e.work("prefill")
    yield row(("whole step", "", ""), (*_cells(decode_work), *_cells(prefill_work)))
    yield row(("FLOPs per byte", "", ""), ("", _ratio(decode_work), "", _ratio(prefill_work)))


def _words(line: OpLine) -> tuple[str, str, str]:
    return "  " + line.name, line.choice.body or f"none: {line.choice.reason}", line.detail


def _title(group: Group) -> str:
    if group.first_layer < 0:
        return "once"
    if group.count == 1:
        return f"layer {group.first_layer}"
    last = group.first_layer + group.count - 1
    return f"layers {group.first_layer} to {last}, each"


def _cells(work: Work) -> tuple[str, str]:
    return _size(work.bytes), _scaled(work.flops, 1000, DECIMAL)


def _ratio(work: Work) -> str:
    return f"{work.flops / work.bytes:.1f}"


def _size(count: int) -> str:
    return _scaled(count, 1024, BINARY)


def _scaled(count: int, step: int, units: tuple[str, ...]) -> str:
    """A number of four digits or so and its unit: 1.2 MiB, 340 k."""
    value, power = float(count), 0
    while value >= step and power < len(units) - 1:
        value, power = value / step, power + 1
    number = f"{value:.0f}" if value >= 100 or power == 0 else f"{value:.1f}"
    return f"{number} {units[power]}".rstrip()
