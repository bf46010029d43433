"""The passes, in the order they run."""

from __future__ import annotations

from collections.abc import Callable

from quire.graph.ir import Graph
from quire.graph.passes.fuse_quantize import fuse_quantize
from quire.graph.passes.fuse_residual_norm import fuse_residual_norm
from quire.graph.passes.fuse_rope_kv_write import fuse_rope_kv_write
from quire.graph.passes.merge_matmuls import merge_matmuls

__all__ = ["PASSES", "optimize"]

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    merge_matmuls,
    fuse_residual_norm,
    fuse_rope_kv_write,
    fuse_quantize,
)


def optimize(graph: Graph) -> Graph:
    """Run every pass once."""
    for run_pass in PASSES:
        graph = run_pass(graph)
    return graph
