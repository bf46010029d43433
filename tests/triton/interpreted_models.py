"""Small models whose ops run through the kernels, in the interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from quire.backends.torch.backend import TorchBackend, chosen_body
from quire.backends.torch.devices import PLATFORMS, Device
from quire.backends.torch.executable import TorchExecutable
from quire.backends.torch.graphs import Recorder
from quire.backends.torch.triton import bodies
from quire.graph.program import compile_program
from quire.ops.batch import Batch
from quire.ops.recurrent_state import RecurrentStates
from quire.quant.packed import column_orders
from quire.runtime.rope_tables import RopeTables
from tests.models.computing import LIMITS, Loaded, kv_cache

__all__ = ["Interpreted", "InterpretedModel", "bodies"]

BLOCKS = 12
Span = tuple[int, int]


class Interpreted(Device):
    """A device that no user can name: this processor, as if it ran Triton's kernels."""

    is_cpu = False
    triton_architecture = "sm_80"
    has_bfloat16 = True

    def __init__(self) -> None:
        super().__init__(PLATFORMS[-1])


class InterpretedModel:
    """A model over a paged cache in which every request has blocks of its own, in no order."""

    def __init__(
        self,
        loaded: Loaded,
        kv_format: str = "float32",
        recorder: Recorder | None = None,
        offloaded: Sequence[Sequence[str]] = (),
    ) -> None:
        self.backend = TorchBackend("cpu")
        self.backend.device = Interpreted()
        rows = {name: self.backend.row_format(each.dtype) for name, each in loaded.weights.items()}
        self.program = compile_program(
            loaded.spec,
            replace(LIMITS, length=BLOCKS // 4 * 16),
            lambda node: self.backend.declines(node) is None,
            rows,
            column_orders(loaded.weights),
        )
        self.ropes = RopeTables(loaded.spec.ropes, 2)
        cache = kv_cache(loaded.spec, kv_format, BLOCKS)
        self.executable = TorchExecutable(
            self.program, loaded.weights, cache, self.backend.device,
            RecurrentStates(4, loaded.spec.state_floats, on_host=False),
            recorder=recorder, offloaded=offloaded,
        )  # fmt: skip
        self.tables = np.random.default_rng(5).permutation(BLOCKS).reshape(4, -1).astype(np.int32)

    @cached_property
    def bodies(self) -> dict[str, Counter[str]]:
        """Who computes → which ops, and how often."""
        found: dict[str, Counter[str]] = {}
        for node in self.program.graph:
            name = chosen_body(node.op, self.backend.device).name
            found.setdefault(name, Counter())[node.name] += 1
        return found

    def step(self, prompts: Sequence[Sequence[int]], spans: dict[int, Span]) -> list[np.ndarray]:
        """The logits of these requests' tokens, first .. end - 1 of each, in one step."""
        batch = self.batch(prompts, spans)
        return np.split(self.executable.logits(batch), batch.query_start[1:-1])

    def batch(self, prompts: Sequence[Sequence[int]], spans: dict[int, Span]) -> Batch:
        """These requests' tokens, all of whose logits are wanted; request i has slot i."""
        tokens = [token for which, span in spans.items() for token in prompts[which][slice(*span)]]
        counts = [end - first for first, end in spans.values()]
        return Batch(
            np.array(tokens, np.int32),
            np.concatenate([np.arange(*span) for span in spans.values()]).astype(np.int32),
            np.zeros(len(tokens), np.int32),
            np.cumsum([0, *counts]).astype(np.int32),
            self.tables[list(spans)],
            np.arange(len(tokens), dtype=np.int32),
            self.ropes.arrays,
            np.array([*spans], np.int32),
            states=np.array([_use(which, *span) for which, span in spans.items()], np.int32),
        )


def _use(which: int, first: int, end: int) -> tuple[int, int, int, int]:
    """The records of a request: it has one of its own."""
    return (which if first else -1, which, 0, -1)
