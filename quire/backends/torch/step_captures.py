"""Which steps of a Program are captured: mixed ones, decoding ones, and those that draw as well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import numpy as np
import torch

from quire.backends.torch.calls import Call
from quire.backends.torch.captured_steps import CapturedSteps
from quire.backends.torch.devices import Device
from quire.backends.torch.drawn_rules import RulesBuffer
from quire.backends.torch.drawn_steps import DrawnSteps
from quire.backends.torch.graph_memory import GraphMemory
from quire.backends.torch.graphs import Recorder
from quire.backends.torch.latest_tokens import LatestTokens
from quire.backends.torch.padding import SIZES, idle, one_by_one, padded, size_for
from quire.backends.torch.sampling.rows import DrawnRows
from quire.backends.torch.sampling.sampler import sampler_of
from quire.backends.torch.step import Step
from quire.graph.program import Program
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.sampling.state import SampleRow

__all__ = ["StepCaptures"]

MOST_GUESSES = 15
"""Of a request whose tokens are computed as if each were a request: each reads all keys before it,
which those of a longer prompt had better read together."""

Start: TypeAlias = Callable[[Batch], Step]


class StepCaptures:
    """Runs the steps of a Program that can be captured.

    body, head: calls.  logits: the number of what the head makes.  spare: a block that is nobody's.
    start: makes a step of a batch.  memory: what graphs may take.
    """

    def __init__(
        self,
        program: Program,
        body: Sequence[Call],
        head: Sequence[Call],
        logits: int,
        latest: LatestTokens,
        recorder: Recorder,
        device: Device,
        memory: GraphMemory,
        spare: int,
        start: Start,
    ) -> None:
        spec, limits = program.spec, program.limits
        assert isinstance(spec, ModelSpec)
        self._memory, self._spare, self._start = memory, spare, start
        most = size_for(min(limits.tokens, SIZES[-1])) or SIZES[-1]
        end = limits.length or spec.max_length

        def steps(calls: Sequence[Call], wanted: Collection[int], kind: str) -> CapturedSteps:
            return CapturedSteps(
                calls, wanted, kind, most, end, recorder, device, memory, idle=self._idle
            )

        made = {each for call in head for each in call.outputs}
        wanted = {each for call in head for each in call.inputs} - made
        mixed, decode = (steps(body, wanted, kind) for kind in ("mixed", "decode"))
        has_more = any(call.captured == "decode" for call in body)
        found = {"mixed": mixed, "decode": decode if has_more else mixed}
        self._of_kinds = {kind: each for kind, each in found.items() if each.is_of_use}
        self._takes_guesses = has_more and not spec.state_floats
        self._rules: RulesBuffer | None = None
        self._drawn: DrawnSteps | None = None
        if self._of_kinds and device.has_float64:
            sampler, rows = sampler_of(device), min(limits.logit_rows, SIZES[-1])
            width, where = program.logits.width, device.torch_device
            self._rules = RulesBuffer(rows, width, sampler, where)
            self._drawn = DrawnSteps(
                [*body, *head], logits, latest, sampler, self._rules,
                lambda calls, wanted: steps(calls, wanted, "decode"),
            )  # fmt: skip

    @property
    def counted(self) -> tuple[int, int]:
        """How many graphs were captured so far, and the memory that went with them, in bytes."""
        count = sum(each.num_graphs for each in set(self._of_kinds.values()))
        whole = 0 if self._drawn is None else self._drawn.num_graphs
        return count + whole, self._memory.used

    def forget(self, slot: int) -> None:
        """Another request has this slot now."""
        if self._rules is not None:
            self._rules.forget(slot)

    def drawn(self, batch: Batch, rows: Sequence[SampleRow]) -> DrawnRows | None:
        """What the rows of a batch yield, done at one call; None where it cannot be."""
        fit = self._fit(batch)
        order = None if self._drawn is None or fit is None else self._drawn.order(fit, rows)
        if self._drawn is None or fit is None or order is None:
            return None
        return self._drawn.run(self._start(fit), order, rows)

    def body(self, batch: Batch) -> tuple[Batch, CapturedSteps] | None:
        """What runs the body of a batch, and the batch as it is run; None where nothing does."""
        fit = self._fit(batch)
        if fit is None:
            return None
        steps = self._of_kinds.get("decode" if fit.is_decoding else "mixed")
        return None if steps is None else (fit, steps)

    def _fit(self, batch: Batch) -> Batch | None:
        """A batch as it can be captured; None where its step is run as it is."""
        size = size_for(batch.num_tokens)
        if size is None or batch.given_rows is not None or batch.axis_positions is not None:
            return None
        if self._takes_guesses and np.diff(batch.query_start).max() <= 1 + MOST_GUESSES:
            batch = one_by_one(batch)
        return padded(batch, size, self._spare)

    def _idle(self, step: Step) -> Step:
        """A step of as many tokens that are nobody's, drawn for nobody."""
        found = self._start(idle(step.batch, self._spare))
        found.rules = None if step.rules is None else torch.zeros_like(step.rules)
        return found
