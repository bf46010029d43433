"""Small models of every shape of graph, a mixed batch for them, and two ways to run a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.graph.ir import Graph, Node, Value
from quire.graph.program import Program
from quire.models.registry import build_spec, load_families
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.number_formats import bfloat16_bits, float32_from_bfloat16
from quire.ops.op import Environment
from quire.ops.quantize import RowFormat, quantized_codes
from quire.ops.recurrent_state import RecurrentStates
from quire.runtime.kv_layout import kv_layers

Float32 = npt.NDArray[np.float32]

CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "biases": {"architectures": ["LlamaForCausalLM"], "attention_bias": True, "mlp_bias": True},
    "tied gelu": {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": True,
        "hidden_act": "gelu_pytorch_tanh",
    },
    "one layer": {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1},
    "mistral": {"architectures": ["MistralForCausalLM"]},
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "latent": {"architectures": ["DeepseekV2ForCausalLM"], "first_k_dense_replace": 2},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 3},
    "norms on both sides, caps": {
        "architectures": ["Gemma2ForCausalLM"],
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 4.0,
    },
    "norms behind": {"architectures": ["Olmo2ForCausalLM"]},
    "layer norms": {"architectures": ["Starcoder2ForCausalLM"]},
    "multipliers": {"architectures": ["GraniteForCausalLM"]},
    "no rope": {"architectures": ["SmolLM3ForCausalLM"]},
    "norms behind the rope": {"architectures": ["HunYuanDenseV1ForCausalLM"]},
    "parallel parts, one norm": {"architectures": ["CohereForCausalLM"]},
    "parallel parts, two norms": {"architectures": ["GPTNeoXForCausalLM"]},
}


def tiny_spec(name: str, **changes: Any) -> ModelSpec:
    """The spec of one of CONFIGS."""
    config = CONFIGS[name]
    tiny = load_families()[config["architectures"][0]].tiny
    return build_spec({**tiny, **config, **changes})


def random_weights(spec: ModelSpec, seed: int = 0) -> dict[str, Float32]:
    """Every weight of a spec, drawn so that no norm and no bias is neutral."""
    random = np.random.default_rng(seed)
    weights = {}
    for name, weight in spec.weights().items():
        scale = 1.5 / weight.shape[-1] ** 0.5 if len(weight.shape) > 1 else 0.2
        values = random.normal(0, scale, weight.shape) + ("norm" in name)
        weights[name] = values.astype(np.float32)
    return weights


def all_matrices(spec: ModelSpec, format: RowFormat = "int8") -> dict[str, RowFormat]:
    """The names of the weights of all linear layers → what they are to be multiplied with."""
    return {linear.weight.name: format for linear in spec.linears()}


def mixed_batch(spec: ModelSpec, seed: int = 0) -> Batch:
    """A fresh prompt of 5 tokens, one decoding at position 18, and 3 tokens of a longer prompt.

    Positions before those are not computed here: their keys stand in the cache already.
    """
    random = np.random.default_rng(seed)
    frequencies = tuple(np.float32([rope.table_row()]) for rope in spec.ropes)
    positions = np.int32([0, 1, 2, 3, 4, 18, 7, 8, 9])
    return Batch(
        token_ids=random.integers(0, spec.vocab_size, 9).astype(np.int32),
        positions=positions,
        rope_rows=np.zeros(9, np.int32),
        query_start=np.int32([0, 5, 6, 9]),
        block_tables=np.int32([[4, 0], [2, 1], [3, 0]]),
        logit_rows=np.int32([0, 2, 3, 4, 5, 7, 8]),
        frequencies=frequencies,
        states=np.int32([[0, 3, 2, 4], [1, 5, 0, 0], [2, 6, 0, 0]]),
    )


def environment(spec: ModelSpec, batch: Batch, seed: int = 0) -> Environment:
    """Random weights and a cache of random keys and values."""
    cache = KvCache(KvLayout(kv_layers(spec), 16, "float32"), 6)
    numbers = cache.arena.view(np.float32)
    numbers[:] = np.random.default_rng(seed).normal(0, 1, numbers.size)
    states = RecurrentStates(7, spec.state_floats)
    states.arena[:] = np.random.default_rng(seed).normal(0, 1, states.arena.shape)
    return Environment(batch, cache, random_weights(spec, seed), states=states)


def interpret(graph: Graph, env: Environment) -> Float32:
    """The logits, every value in a place of its own."""
    values: dict[Value, Float32] = {}
    for node in graph:
        results = node.op.reference(env, *(values[value] for value in node.inputs))
        values.update(zip(node.outputs, results, strict=True))
    return values[graph.logits]


def interpret_in_arena(program: Program, env: Environment) -> Float32:
    """The logits, every value where the plan puts it; the head runs once for every piece of rows.

    The arena begins as NaN, so reading what nobody wrote is seen.
    """
    arena = np.full(program.buffers.arena_floats, np.nan, np.float32)
    batch = env.batch
    _run(program, program.body, env, arena)
    found = []
    for start in range(0, len(batch.logit_rows), program.limits.logit_rows):
        rows = batch.logit_rows[start : start + program.limits.logit_rows]
        piece = Environment(replace(batch, logit_rows=rows), env.kv_cache, env.weights)
        _run(program, program.head, piece, arena)
        found.append(place(program, program.graph.logits, arena, len(rows)).copy())
    return np.concatenate(found)


def place(program: Program, value: Value, arena: Float32, rows: int) -> Float32:
    """A value's rows in the arena, as a view, in the format that they are stored in."""
    tensor = program.buffers.tensors[value]
    width = value.floats if value.format != "float32" else tensor.width
    ends = tensor.offset + (rows - 1) * tensor.stride + width
    assert tensor.offset >= 0 and ends <= len(arena), f"{value.name} leaves the arena"
    return np.lib.stride_tricks.as_strided(
        arena[tensor.offset :], (rows, width), (4 * tensor.stride, 4)
    )


def _stored(value: Value, x: Float32) -> Float32:
    """Rows as they stand in the arena: in int8, a scale, a gap and 32 codes a block."""
    if value.format == "float32":
        return x
    if value.format == "bfloat16":
        padded = np.zeros((len(x), 2 * value.floats), np.uint16)
        padded[:, : value.width] = bfloat16_bits(x)
        return padded.view(np.float32)
    codes, scales = quantized_codes(x)
    blocks = np.zeros((*codes.shape[:2], 12), np.float32)
    blocks[..., :1] = scales
    blocks[..., 4:] = codes.astype(np.int8).view(np.float32)
    return blocks.reshape(len(x), -1)


def _restored(value: Value, stored: Float32) -> Float32:
    """The inverse of `_stored`."""
    if value.format == "float32":
        return stored
    if value.format == "bfloat16":
        bits = np.ascontiguousarray(stored).view(np.uint16)
        return float32_from_bfloat16(bits[:, : value.width])
    blocks = np.ascontiguousarray(stored.reshape(len(stored), -1, 12))
    codes = np.ascontiguousarray(blocks[..., 4:]).view(np.int8).astype(np.float32)
    return (codes * blocks[..., :1]).reshape(len(stored), -1)[:, : value.width]


def _run(program: Program, nodes: Iterable[Node], env: Environment, arena: Float32) -> None:
    counts = {"tokens": env.batch.num_tokens, "outputs": len(env.batch.logit_rows)}
    for node in nodes:
        inputs = [
            _restored(each, place(program, each, arena, counts[each.rows]).copy())
            for each in node.inputs
        ]
        results = node.op.reference(env, *inputs)
        for value, result in zip(node.outputs, results, strict=True):
            place(program, value, arena, counts[value.rows])[:] = _stored(value, result)


def check_order(graph: Graph) -> None:
    """Assert that every value is made once, before it is read, in the width its op says."""
    made: set[Value] = set()
    for node in graph:
        assert made.issuperset(node.inputs), f"{node.name} reads a value that is not made yet"
        assert made.isdisjoint(node.outputs), f"{node.name} makes a value again"
        widths = node.op.widths(*(value.width for value in node.inputs))
        assert tuple(value.width for value in node.outputs) == widths, node.name
        made.update(node.outputs)
    assert graph.logits in made
