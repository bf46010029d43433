"""Runs a Program with torch: the body over the step's tokens, the head over pieces of its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from quire.backends.executable import LoadedWeights
from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.backend import chosen_body
from quire.backends.torch.block_copies import DeviceBlockCopies
from quire.backends.torch.calls import Call, Values, run_calls
from quire.backends.torch.devices import Device
from quire.backends.torch.graph_memory import GraphMemory
from quire.backends.torch.graphs import Recorder, find_recorder
from quire.backends.torch.host_copies import Arriving, HostCopies
from quire.backends.torch.kv_cache import DeviceKvCache
from quire.backends.torch.latest_tokens import LatestTokens
from quire.backends.torch.sampling.rows import DrawnRows, draw_rows
from quire.backends.torch.states import DeviceStates
from quire.backends.torch.step import Group, Step, start_step
from quire.backends.torch.step_captures import StepCaptures
from quire.backends.torch.weights import Weights
from quire.graph.ir import Node, Value
from quire.graph.program import Program
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache
from quire.ops.recurrent_state import NO_STATES, RecurrentStates
from quire.outputs import Logprob
from quire.sampling.slots import SlotStates
from quire.sampling.state import SampledRows, SampleRow, SamplingState

__all__ = ["TorchExecutable"]


@dataclass(frozen=True, slots=True)
class _LaunchedStep:
    """See Launched.  batch, rows: what was sampled; the arrays of the batch that a step fills anew
    are not read.  drawn: some rows at a time, on their way to the host."""

    slots: SlotStates
    batch: Batch
    rows: Sequence[SampleRow]
    drawn: Sequence[tuple[DrawnRows, Arriving]]

    def wait(self) -> SampledRows:
        tokens: list[int] = []
        logprobs: dict[int, dict[int, Logprob]] = {}
        for drawn, arriving in self.drawn:
            start, sampled = len(tokens), drawn.arrived(arriving)
            tokens += sampled.tokens
            logprobs.update({start + at: found for at, found in sampled.logprobs.items()})
        self.slots.learn(self.batch, self.rows, tokens)
        return SampledRows(tokens, logprobs)


class TorchExecutable:
    """A Program, its weights, its KV cache and recurrent states on one device.

    kv_cache, states: on a CPU their arenas are used where they are; other devices have some of
    their own, and these may be empty.  ranks: those that share the work, if the graph has
    collectives.  offloaded: see Weights.  recorder: captures steps; None: what the device has,
    and nothing if enforce_eager.  With one there is a block more, and a state, which are nobody's.
    graph_bytes: that captured steps may take; None: as many as they need.
    """

    def __init__(
        self,
        program: Program,
        weights: LoadedWeights,
        kv_cache: KvCache,
        device: Device,
        states: RecurrentStates = NO_STATES,
        ranks: Group | None = None,
        offloaded: Sequence[Collection[str]] = (),
        recorder: Recorder | None = None,
        graph_bytes: int | None = None,
        enforce_eager: bool = False,
    ) -> None:
        if recorder is None and not enforce_eager:
            recorder = find_recorder(device)
        self.program = program
        self.kv_cache = kv_cache
        self.device = device
        self._ranks = ranks
        self._states = _on_device(states, device, recorder is not None)
        linears = {linear.weight.name for linear in program.spec.linears()}
        self._weights = Weights(weights, linears, device, offloaded)
        spare = -1 if recorder is None else kv_cache.num_blocks
        num_blocks = kv_cache.num_blocks + (recorder is not None)
        arena = self._arena(kv_cache, num_blocks)
        self._cache = DeviceKvCache(kv_cache.layout, num_blocks, arena, spare)
        self._numbers: dict[Value, int] = {}
        nodes = list(program.graph)
        first_of_head = next(i for i, node in enumerate(nodes) if _is_head(node))
        self._body = self._bind(nodes[:first_of_head], nodes[first_of_head:])
        self._head = self._bind(nodes[first_of_head:], ())
        self._slots = SlotStates()
        self._latest = LatestTokens(device.torch_device)
        self._captures: StepCaptures | None = None
        if recorder is not None and self._can_capture():
            self._captures = StepCaptures(
                program, self._body, self._head, self._numbers[program.graph.logits], self._latest,
                recorder, device, GraphMemory(graph_bytes), spare, self._start,
            )  # fmt: skip
        self._copies = HostCopies(device)

    @property
    def summary(self) -> str:
        """See Executable."""
        threads = f", {torch.get_num_threads()} threads" if self.device.is_cpu else ""
        offload = self._weights.offload
        kept = "" if offload is None else f"; {offload.line}"
        return f"kernels: torch {torch.__version__} on {self.device.title}{threads}{kept}"

    @property
    def expert_usage(self) -> Mapping[int, npt.NDArray[np.int64]]:
        """See Executable.  Empty: counting would make the host wait for the device."""
        return {}

    @property
    def captured(self) -> tuple[int, int]:
        """How many graphs were captured so far, and the memory that went with them, in bytes."""
        return (0, 0) if self._captures is None else self._captures.counted

    @property
    def overlaps(self) -> bool:
        """See LaunchingExecutable.  Without streams, results come in order with the work."""
        return self.device.streams is not None

    def admit(self, slot: int, state: SamplingState) -> None:
        """See Executable."""
        self._slots.admit(slot, state)
        self._latest.make_room(slot)
        if self._captures is not None:
            self._captures.forget(slot)

    def run(self, batch: Batch) -> SampledRows:
        """See Executable."""
        return self.launch(batch).wait()

    def launch(self, batch: Batch) -> _LaunchedStep:
        """See LaunchingExecutable."""
        rows = self._slots.rows(batch)
        with self.device.current(), torch.inference_mode():
            found = self._drawn_whole(batch, rows) or self._drawn(batch, rows)
            drawn = [(each, each.start(self._copies)) for each in found]
        return _LaunchedStep(self._slots, batch, rows, drawn)

    def logits(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See Executable."""
        with self.device.current(), torch.inference_mode():
            found = [np.asarray(logits.cpu().numpy()) for logits, _ in self._logits(batch)]
        empty = np.empty((0, self.program.logits.width), np.float32)
        return np.concatenate([empty, *found])

    def block_copies(self, num_host_blocks: int) -> DeviceBlockCopies:
        """Room in host memory for so many blocks of the cache.

        Raises RuntimeError where there is too little memory for them.
        """
        with self.device.current():
            return DeviceBlockCopies(self._cache, num_host_blocks, self.device)

    def _drawn_whole(self, batch: Batch, rows: Sequence[SampleRow]) -> list[DrawnRows]:
        """The tokens of a decoding step that is done at one call; nothing where it cannot be."""
        whole = None if self._captures is None else self._captures.drawn(batch, rows)
        return [] if whole is None else [whole]

    def _drawn(self, batch: Batch, rows: Sequence[SampleRow]) -> list[DrawnRows]:
        """The tokens of any step, some rows at a time."""
        found: list[DrawnRows] = []
        start = 0
        for logits, before in self._logits(batch):
            some = rows[start : start + len(logits)]
            found.append(draw_rows(logits, some, before, self.device))
            start += len(some)
        if found:
            self._latest.note(batch, torch.cat([each.tokens for each in found]))
        return found

    def _logits(self, batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Compute every token; then the logits of some rows at a time, and the rows' tokens."""
        step, values = self._computed(batch)
        for rows in step.logit_rows.split(self.program.limits.logit_rows):
            if len(rows):
                step.logit_rows, kept = rows, dict(values)
                run_calls(self._head, step, kept)
                yield kept[self._numbers[self.program.graph.logits]], step.token_ids[rows]

    def _computed(self, batch: Batch) -> tuple[Step, Values]:
        """A step whose body is computed, and what the head reads of that."""
        captured = None if self._captures is None else self._captures.body(batch)
        step = self._start(batch if captured is None else captured[0])
        self._latest.fill_in(step.batch, step.token_ids)
        if captured is not None:
            return step, captured[1].run(step)
        values: Values = {}
        run_calls(self._body, step, values)
        return step, values

    def _can_capture(self) -> bool:
        """Whether steps can be padded, and what is read stands where it stands."""
        spec = self.program.spec
        if not isinstance(spec, ModelSpec) or self._ranks or self._weights.offload:
            return False
        return not spec.bidirectional

    def _start(self, batch: Batch) -> Step:
        return start_step(batch, self.device, self._cache, self._weights, self._states, self._ranks)

    def _arena(self, kv_cache: KvCache, num_blocks: int) -> torch.Tensor:
        if num_blocks == kv_cache.num_blocks and self.device.is_cpu:
            return as_tensor(kv_cache.arena, self.device.torch_device)
        size = num_blocks * kv_cache.layout.bytes_per_block
        return torch.zeros(size, dtype=torch.uint8, device=self.device.torch_device)

    def _bind(self, nodes: Iterable[Node], later: Iterable[Node]) -> list[Call]:
        """Calls for nodes in order; a value is over when neither they nor `later` ones read it."""
        wanted = {value for node in later for value in node.inputs}
        wanted.add(self.program.graph.logits)
        calls = []
        for node in reversed(list(nodes)):
            values = {*node.inputs, *node.outputs}
            over = self._all(values - wanted)
            wanted |= values
            body = chosen_body(node.op, self.device)
            inputs, outputs = self._all(node.inputs), self._all(node.outputs)
            calls.append(Call(body.compute, node.op, inputs, outputs, over, body.captured))
        return calls[::-1]

    def _all(self, values: Iterable[Value]) -> tuple[int, ...]:
        return tuple(self._numbers.setdefault(value, len(self._numbers)) for value in values)


def _on_device(states: RecurrentStates, device: Device, has_spare: bool) -> DeviceStates:
    if device.is_cpu and not has_spare:
        return DeviceStates(as_tensor(states.arena, device.torch_device))
    shape = (states.count + has_spare, states.floats)
    return DeviceStates(torch.zeros(shape, device=device.torch_device))


def _is_head(node: Node) -> bool:
    return any(value.rows == "outputs" for value in (*node.inputs, *node.outputs))
