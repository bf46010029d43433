"""Specs that are wrong in one way each, to see that a comparison would notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from quire.models.rope import Rope, RopeScaling
from quire.models.spec import MLP, Attention, Block, GatedMLP, Linear, ModelSpec, Norm, parts

__all__ = ["mistakes"]

Mistakes = Iterator[tuple[str, ModelSpec]]


def mistakes(spec: ModelSpec) -> Mistakes:
    """Every mistake that a spec has room for."""
    yield from _of_positions(spec)
    yield from _of_attention(spec)
    yield from _of_mlp(spec)
    yield from _of_norms(spec)
    yield from _of_multipliers(spec)
    yield from _of_embedding(spec)
    yield from _of_order(spec)


def _of_positions(spec: ModelSpec) -> Mistakes:
    yield from _of_windows(spec)
    ropes = [block.attention.rope for block in spec.blocks]
    rope = next((each for each in ropes if each is not None), None)
    if rope is None:
        every = with_attention(spec, lambda a: replace(a, rope=Rope(a.head_dim, 10000.0)))
        yield "rope on", every
        return
    pairings = {"half": "interleaved", "interleaved": "half"}
    yield "rope off", with_attention(spec, lambda a: replace(a, rope=None))
    yield "theta x50", with_rope(spec, theta=rope.theta * 50)
    yield "the other pairing", with_rope(spec, pairing=pairings[rope.pairing])
    kinds = {each.scaling.kind for each in spec.ropes}
    if kinds - {"default", "dynamic"} or (kinds == {"dynamic"} and spec.max_length == 64):
        yield "no rope scaling", with_rope(spec, scaling=RopeScaling())
    if rope.scaling.attention_factor != 1:
        scaling = replace(rope.scaling, attention_factor=1.0, long_attention_factor=1.0)
        yield "no attention factor", with_rope(spec, scaling=scaling)
    if len(set(ropes)) > 1:
        yield "one rope for all layers", with_attention(spec, lambda a: replace(a, rope=rope))
        yield "the ropes on other layers", _turned(spec, "rope")
    if (
        any(block.attention.query_rule for block in spec.blocks)
        and rope.scaling.original_length < 40
    ):
        yield "no scale by position", with_attention(spec, lambda a: replace(a, query_rule=None))


def _of_windows(spec: ModelSpec) -> Mistakes:
    windows = [block.attention.window for block in spec.blocks]
    if any(windows):
        yield "window + 1", with_window(spec, 1)
        yield "window - 1", with_window(spec, -1)
    if len(set(windows)) > 1:
        yield "the windows on other layers", _turned(spec, "window")


def _of_attention(spec: ModelSpec) -> Mistakes:
    first = spec.blocks[0].attention
    yield "scale x1/2", with_attention(spec, lambda a: replace(a, scale=a.scale / 2))
    if first.heads > first.kv_heads > 1:
        yield (
            "keys and values swapped",
            with_attention(spec, lambda a: replace(a, key=a.value, value=a.key)),
        )
    if first.query_norm is not None:
        yield "no query norm", with_attention(spec, lambda a: replace(a, query_norm=None))
        yield "no key norm", with_attention(spec, lambda a: replace(a, key_norm=None))
        yield (
            "norms on the other side of the rotation",
            with_attention(spec, lambda a: replace(a, norm_rotated=not a.norm_rotated)),
        )
    if first.slopes:
        yield "no slopes", with_attention(spec, lambda a: replace(a, slopes=()))
        turned = (*first.slopes[1:], first.slopes[0])
        yield "the slopes of other heads", with_attention(spec, lambda a: replace(a, slopes=turned))
    if first.softcap is not None:
        yield "no soft cap", with_attention(spec, lambda a: replace(a, softcap=None))
    for name in ("query", "value", "output"):
        if getattr(first, name).bias is not None:
            yield f"no {name} bias", with_attention(spec, lambda a, name=name: _bare(a, name))


def _of_mlp(spec: ModelSpec) -> Mistakes:
    first = spec.blocks[0].mlp
    other = "silu" if first.activation.startswith("gelu") else "gelu"
    yield "the other activation", with_mlp(spec, lambda m: replace(m, activation=other))
    if isinstance(first, GatedMLP):
        yield "gate and up swapped", with_mlp(spec, lambda m: replace(m, gate=m.up, up=m.gate))
    if first.down.bias is not None:
        yield "no bias of down", with_mlp(spec, lambda m: _bare(m, "down"))
        yield "no bias of up", with_mlp(spec, lambda m: _bare(m, "up"))


def _of_norms(spec: ModelSpec) -> Mistakes:
    yield "a larger epsilon", with_norms(spec, lambda n: replace(n, eps=0.05))
    kinds = {"rms": "layer", "layer": "rms"}
    yield "the other norm", with_norms(spec, lambda n: replace(n, kind=kinds[n.kind], bias=None))
    if spec.norm.offset:
        yield "norms of weight alone", with_norms(spec, lambda n: replace(n, offset=0.0))
    if spec.norm.bias is not None:
        yield "no bias of norms", with_norms(spec, lambda n: replace(n, bias=None))
    places = [each.name for each in fields(Block) if each.name.endswith("_norm")]
    for name in places:
        if getattr(spec.blocks[0], name) is not None:
            yield f"no {name}", _each_block(spec, **{name: None})


def _of_multipliers(spec: ModelSpec) -> Mistakes:
    if spec.embedding.scale != 1:
        yield "no embedding scale", replace(spec, embedding=replace(spec.embedding, scale=1.0))
    if spec.blocks[0].residual_scale != 1:
        yield "no residual scale", _each_block(spec, residual_scale=1.0)
    if spec.logit_scale != 1:
        yield "no logit scale", replace(spec, logit_scale=1.0)
    if spec.logit_cap is not None:
        yield "no logit cap", replace(spec, logit_cap=None)


def _of_embedding(spec: ModelSpec) -> Mistakes:
    embedding = spec.embedding
    if embedding.positions is not None:
        yield "no positions", replace(spec, embedding=replace(embedding, positions=None))
    if embedding.first_position:
        yield "positions from 0 on", replace(spec, embedding=replace(embedding, first_position=0))
    if embedding.norm is not None:
        yield "no norm of embeddings", replace(spec, embedding=replace(embedding, norm=None))


def _of_order(spec: ModelSpec) -> Mistakes:
    if spec.blocks[0].parallel:
        yield "parts one behind the other", _each_block(spec, parallel=False)
    elif spec.blocks[0].mlp_norm is not None:
        yield "parallel parts", _each_block(spec, parallel=True)


def with_attention(spec: ModelSpec, change: Callable[[Attention], Attention]) -> ModelSpec:
    blocks = tuple(replace(each, attention=change(each.attention)) for each in spec.blocks)
    return replace(spec, blocks=blocks)


def with_mlp(spec: ModelSpec, change: Callable[[Any], GatedMLP | MLP]) -> ModelSpec:
    return replace(spec, blocks=tuple(replace(each, mlp=change(each.mlp)) for each in spec.blocks))


def with_rope(spec: ModelSpec, **changes: Any) -> ModelSpec:
    def changed(attention: Attention) -> Attention:
        rope = attention.rope
        return attention if rope is None else replace(attention, rope=replace(rope, **changes))

    return with_attention(spec, changed)


def with_window(spec: ModelSpec, more: int) -> ModelSpec:
    return with_attention(
        spec, lambda a: a if a.window is None else replace(a, window=a.window + more)
    )


def with_norms(spec: ModelSpec, change: Callable[[Norm], Norm]) -> ModelSpec:
    """Every norm of the blocks changed, and the last one."""
    changed = _each_norm(replace(spec, bos_token_ids=()), change)
    assert isinstance(changed, ModelSpec)
    return changed


def _each_block(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return replace(spec, blocks=tuple(replace(each, **changes) for each in spec.blocks))


def _each_norm(part: Any, change: Callable[[Norm], Norm]) -> Any:
    if isinstance(part, Norm):
        return change(part)
    if isinstance(part, tuple):
        return tuple(_each_norm(each, change) for each in part)
    if is_dataclass(part) and not isinstance(part, Linear | Rope | type) and any(parts(part, Norm)):
        values = {each.name: getattr(part, each.name) for each in fields(part)}
        return replace(part, **{key: _each_norm(v, change) for key, v in values.items()})
    return part


def _bare(part: Any, name: str) -> Any:
    """A part without the bias of one of its linear layers."""
    return replace(part, **{name: replace(getattr(part, name), bias=None)})


def _turned(spec: ModelSpec, name: str) -> ModelSpec:
    """What one field of attention says of layers, one layer further."""
    values = [getattr(block.attention, name) for block in spec.blocks]
    turned = zip(spec.blocks, values[-1:] + values[:-1], strict=True)
    return replace(
        spec,
        blocks=tuple(
            replace(block, attention=replace(block.attention, **{name: value}))
            for block, value in turned
        ),
    )
