"""Runs a model block by block over whole sequences, so that one block's weights are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quire.convert.observe import Observe, Statistics, observe_inputs
from quire.convert.round_activations import round_activations
from quire.convert.scheme import Activations
from quire.convert.spell_out_experts import spell_out_experts
from quire.convert.whole_latents import multiply_latents_out
from quire.convert.whole_sequences import attend_whole_sequences
from quire.graph.ir import Node, Value
from quire.graph.lower import lower
from quire.models.spec import ModelSpec, Weight, parts
from quire.ops.batch import Batch
from quire.ops.embedding import EmbeddingLookup
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.ops.op import Environment, Float32
from quire.ops.recurrent_state import RecurrentStates
from quire.runtime.rope_tables import RopeTables
from quire.weights.tensor import RawTensor

__all__ = ["BlockForward", "Stream"]

Stream = list[Float32]
"""The hidden rows [T, E] of every sequence, between two blocks."""

LOGIT_ROWS = 128


class BlockForward:
    """The graph of a model, cut at its blocks, and the sequences that run through it.

    Every op runs its reference body, in float32; attention sees whole sequences.
    """

    def __init__(self, spec: ModelSpec) -> None:
        graph = lower(spec)
        nodes = spell_out_experts(multiply_latents_out(attend_whole_sequences(graph.nodes)))
        first = next(i for i, node in enumerate(nodes) if node.layer >= 0)
        behind = max(i for i, node in enumerate(nodes) if node.layer >= 0) + 1
        self._front, self._head = nodes[:first], nodes[behind:]
        self._blocks = [
            [node for node in nodes if node.layer == layer] for layer in range(len(spec.blocks))
        ]
        self._logits = graph.logits
        self._embedding = [weight.name for weight in parts(spec.embedding, Weight)]
        self._ropes = RopeTables(spec.ropes, 1)
        # Ops are given a cache because their contract says so; none of them reads it here.
        self._no_cache = KvCache(KvLayout((KvLayerShape(1, 2),), 16, "float32"), 1)
        self._states = RecurrentStates(1, spec.state_floats)
        self._hidden = self._hidden_values()

    def embed(
        self, weights: Mapping[str, RawTensor], sequences: Sequence[npt.NDArray[np.int32]]
    ) -> Stream:
        """The rows that enter the first block; only the token table's rows in use are read."""
        name, *others = self._embedding
        table, rest = weights[name], {other: weights[other].float32() for other in others}
        rows = []
        for tokens in sequences:
            used, local = np.unique(tokens, return_inverse=True)
            part = RawTensor(name, table.dtype, (len(used), *table.shape[1:]), table.data[used])
            env = self._environment(local.astype(np.int32), {name: part.float32(), **rest})
            rows.append(_run(self._front, env, {})[self._hidden[0]])
        return rows

    def block(
        self,
        layer: int,
        weights: Mapping[str, Float32],
        stream: Stream,
        activations: Mapping[str, Activations] | None = None,
    ) -> Stream:
        """The rows behind a block; activations: how the inputs of matrices are rounded."""
        nodes = round_activations(self._blocks[layer], activations or {})
        return [self._through(layer, nodes, weights, x) for x in stream]

    def observed(
        self, layer: int, weights: Mapping[str, Float32], stream: Stream
    ) -> tuple[Stream, dict[str, Statistics]]:
        """The rows behind a block, and what its matrices read, by weight name."""
        nodes, found = observe_inputs(self._blocks[layer], sum(map(len, stream)), False)
        return [self._through(layer, nodes, weights, x) for x in stream], found

    def statistics(
        self, layer: int, weights: Mapping[str, Float32], stream: Stream
    ) -> dict[str, Statistics]:
        """What the matrices of a block read, with second moments; nothing behind is computed."""
        nodes, found = observe_inputs(self._blocks[layer], sum(map(len, stream)), True)
        while not isinstance(nodes[-1].op, Observe):
            nodes = nodes[:-1]
        for x in stream:
            self._run_block(layer, nodes, weights, x)
        return found

    def logits(
        self,
        weights: Mapping[str, Float32],
        hidden: Float32,
        activations: Mapping[str, Activations] | None = None,
    ) -> Float32:
        """The logits [rows, V] of rows behind the last block."""
        nodes = round_activations(self._head, activations or {})
        env = self._environment(np.zeros(len(hidden), np.int32), weights)
        return _run(nodes, env, {self._hidden[-1]: hidden})[self._logits]

    def _through(
        self, layer: int, nodes: Sequence[Node], weights: Mapping[str, Float32], x: Float32
    ) -> Float32:
        return self._run_block(layer, nodes, weights, x)[self._hidden[layer + 1]]

    def _run_block(
        self, layer: int, nodes: Sequence[Node], weights: Mapping[str, Float32], x: Float32
    ) -> dict[Value, Float32]:
        env = self._environment(np.zeros(len(x), np.int32), weights)
        known = {self._hidden[layer]: x}
        # Rotations and the like depend on positions alone and are cheap to compute again.
        plain = [n for n in self._front if not isinstance(n.op, EmbeddingLookup) and not n.inputs]
        known = _run(plain, env, known)
        return _run(nodes, env, known)

    def _environment(
        self, tokens: npt.NDArray[np.int32], weights: Mapping[str, Float32]
    ) -> Environment:
        batch = Batch.single(tokens.tolist(), 0, [0], self._ropes.arrays)
        return Environment(batch, self._no_cache, weights, states=self._states)

    def _hidden_values(self) -> list[Value]:
        """The one value that goes into each block, and the one behind the last."""
        stages = [*self._blocks, self._head]
        made: set[Value] = {value for node in self._front for value in node.outputs}
        free = {v for node in self._front if not node.inputs for v in node.outputs}
        free -= {v for node in self._front for v in node.outputs if _is_embedding(node)}
        hidden: list[Value] = []
        for nodes in stages:
            own = {value for node in nodes for value in node.outputs}
            read = {value for node in nodes for value in node.inputs} - own - free
            assert len(read) == 1 and read <= made, "a block reads more than the one before it made"
            hidden += read
            made = own
        return hidden


def _is_embedding(node: Node) -> bool:
    return isinstance(node.op, EmbeddingLookup)


def _run(
    nodes: Sequence[Node], env: Environment, known: dict[Value, Float32]
) -> dict[Value, Float32]:
    """Every value after the nodes ran; a value is dropped behind its last reader."""
    last = {value: i for i, node in enumerate(nodes) for value in node.inputs}
    values = dict(known)
    for i, node in enumerate(nodes):
        results = node.op.reference(env, *(values[value] for value in node.inputs))
        values.update(zip(node.outputs, results, strict=True))
        for value in node.inputs:
            if last[value] == i and value not in known:
                values.pop(value, None)
    return values
