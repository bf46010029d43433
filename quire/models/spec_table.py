"""Says a ModelSpec in words: one line for each kind of layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

from quire.models.rope import Rope
from quire.models.spec import (
    MLP,
    Attention,
    Block,
    GatedMLP,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Weight,
)

__all__ = ["layer_lines", "ranges", "spec_lines"]

IN_THE_FIRST_WORDS = ("heads", "kv_heads", "head_dim", "window")


def spec_lines(spec: ModelSpec) -> list[str]:
    """Embedding, layers, what stands behind them; equal layers on one line."""
    table = spec.embedding
    learned = [f"learned positions {table.positions.shape[0]}"] if table.positions else []
    learned += [f"types {table.types.shape[0]}"] if table.types else []
    learned += [f"times {table.scale:g}"] if table.scale != 1 else []
    learned += [_norm(table.norm)] if table.norm else []
    rows = [
        ("embedding", _joined([f"{spec.vocab_size} x {spec.width}", *learned])),
        *layer_lines(spec),
    ]
    if spec.norm is not None:
        rows.append(("behind them", _norm(spec.norm)))
    rows.append(("output", _output(spec)))
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {words}" for name, words in rows]


def layer_lines(spec: ModelSpec) -> list[tuple[str, str]]:
    """Which layers, and what they are: one pair for each kind."""
    kinds: dict[str, list[int]] = {}
    for number, block in enumerate(spec.blocks):
        kinds.setdefault(_block(block), []).append(number)
    return [(f"layers {ranges(numbers)}", words) for words, numbers in kinds.items()]


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as 0-3, 5, 7-9; with one step between all of them as 1, 3 .. 9."""
    found = list(numbers)
    steps = {b - a for a, b in pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]}, {found[1]} .. {found[-1]}"
    runs: list[list[int]] = []
    for number in found:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _block(block: Block) -> str:
    """Its parts in the order in which they stand."""
    order = (
        *("attention_norm", "attention", "attention_output_norm", "attention_sum_norm"),
        *("mlp_norm", "mlp", "mlp_output_norm", "mlp_sum_norm"),
    )
    named = {each.name: getattr(block, each.name) for each in fields(block)}
    rest = [name for name in named if name not in order]
    shown = [name for name in order if name != "mlp_norm" or not block.shares_norm]
    parts = [_part(named[name], name) for name in shown if named.get(name) is not None]
    return "; ".join([*parts, *_extras(block, rest)])


def _part(part: Any, name: str) -> str:
    if isinstance(part, Norm):
        return _norm(part)
    if isinstance(part, Attention):
        return _attention(part)
    if isinstance(part, GatedMLP | MLP):
        return _mlp(part)
    if isinstance(part, MixtureOfExperts):
        return _experts(part)
    shown = [each.name for each in fields(part)]
    return _joined([name, *_extras(part, shown)])


def _mlp(mlp: GatedMLP | MLP) -> str:
    gated = "gated " if isinstance(mlp, GatedMLP) else ""
    bias = ["bias"] if mlp.up.bias else []
    return _joined([f"mlp {gated}{mlp.activation} {mlp.up.weight.shape[0]}", *bias])


def _experts(mixture: MixtureOfExperts) -> str:
    """The first expert stands for all: they are alike."""
    router = mixture.router
    chosen = f"{router.top_k} of {len(mixture.experts)} experts by {router.scoring}"
    known = ("weight", "top_k", "scoring", "least_sum", "jitter")
    rest = [each.name for each in fields(router) if each.name not in known]
    shared = [f"shared {_mlp(mixture.shared)}"] if mixture.shared else []
    shared += ["gate on shared"] if mixture.shared_gate else []
    scaled = ["scales inputs"] if mixture.scales_inputs else []
    each = f"each {_mlp(mixture.experts[0])}"
    return _joined([chosen, *_extras(router, rest), each, *shared, *scaled])


def _attention(a: Attention) -> str:
    biased = [name for name in ("query", "key", "value", "output") if getattr(a, name).bias]
    extra = [f"bias {' '.join(name[0] for name in biased)}"] if biased else []
    extra += [f"{_norm(a.query_norm)} on q and k"] if a.query_norm else []
    rest = [each.name for each in fields(a) if each.name not in IN_THE_FIRST_WORDS]
    rest = [name for name in rest if name != "scale" or a.scale != a.head_dim**-0.5]
    words = f"attention {a.heads} heads / {a.kv_heads} kv x {a.head_dim}"
    window = f"window {a.window or 'none'}"
    return _joined([words, _rope(a.rope, a.head_dim), window, *extra, *_extras(a, rest)])


def _rope(rope: Rope | None, head_dim: int) -> str:
    if rope is None:
        return "no rope"
    kind = "" if rope.scaling.kind == "default" else f" {rope.scaling.kind}"
    factor = f" x {rope.scaling.factor:g}" if rope.scaling.factor != 1 else ""
    part = "" if rope.dims == head_dim else f" on {rope.dims} of {head_dim}"
    pairs = "" if rope.pairing == "half" else f" {rope.pairing}"
    return f"rope {rope.theta:g}{kind}{factor}{part}{pairs}"


def _norm(norm: Norm) -> str:
    offset = f" {norm.offset:+g}" if norm.offset else ""
    by_head = " by head" if norm.weight and len(norm.weight.shape) > 1 else ""
    return f"norm {'RMS' if norm.kind == 'rms' else norm.kind}{offset} {norm.eps:g}{by_head}"


def _output(spec: ModelSpec) -> str:
    if spec.output == "hidden":
        return "the hidden state"
    if spec.classifier is not None:
        return f"{spec.classifier.output.weight.shape[0]} scores, {spec.classifier.activation}"
    kind = "tied to the embedding" if spec.tied else "a head of its own"
    more = [f"times {spec.logit_scale:g}"] if spec.logit_scale != 1 else []
    more += [f"capped at {spec.logit_cap:g}"] if spec.logit_cap is not None else []
    return _joined([f"{spec.vocab_size} logits", kind, *more])


def _extras(part: Any, names: Iterable[str]) -> Iterator[str]:
    """What is set among some fields and is not so by default; the names alone of larger parts."""
    defaults = {each.name: each.default for each in fields(part)}
    for name in names:
        value = getattr(part, name)
        if isinstance(value, Norm | Linear | Rope | Weight) or value in (None, (), defaults[name]):
            continue
        words = name.replace("_", " ")
        if value is True or is_dataclass(value) or isinstance(value, tuple):
            yield words
        else:
            yield f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def _joined(words: Iterable[str]) -> str:
    return ", ".join(words)
