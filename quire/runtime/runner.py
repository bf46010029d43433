"""Runs one Plan on an Executable and returns what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.backends.executable import Executable, Launched, LaunchingExecutable
from quire.control.plan import Chunk, Plan
from quire.outputs import TokenLogprobs
from quire.runtime.block_stores import BlockStore
from quire.runtime.image_inputs import Encode
from quire.runtime.inputs import InputBuilder, RunningRequest, StepInputs
from quire.runtime.rope_tables import RopeTables
from quire.sampling.state import SampledRows, SamplingState
from quire.vision.prompt_images import PromptImages

__all__ = ["Flight", "Runner", "StepOutput"]


@dataclass(slots=True)
class StepOutput:
    """What one step yielded: tokens by chunk of the plan, all else by request id.

    tokens: the new tokens.  logprobs: one entry per new token, where asked for.  prompt_logprobs:
    for positions of the prompt, what the model said of the token standing there.
    failed: requests whose logits held no number to choose from.  unloaded: see Scheduler.commit.
    """

    tokens: list[tuple[int, ...]] = field(default_factory=list)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    prompt_logprobs: dict[str, dict[int, TokenLogprobs]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    unloaded: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flight:
    """A plan on its way through a device.

    inputs: None where no chunk could be run.  output: what is known of the step already.
    """

    plan: Plan
    chunks: Sequence[Chunk]
    inputs: StepInputs | None
    launched: Launched | None
    output: StepOutput


class Runner:
    """Holds the sampling states, slots and rope rows of running requests; has no policy.

    Where a chunk ends in guesses, each is followed as if it were right, and what is drawn decides:
    tokens are taken up to the first that differs from the guess, so they, and their
    log-probabilities, are those of one step each.  store: where plans load blocks from, and save
    them.  encode: makes rows of images, for a model that sees.
    """

    def __init__(
        self,
        executable: Executable,
        ropes: RopeTables,
        store: BlockStore | None = None,
        encode: Encode | None = None,
    ) -> None:
        self.executable = executable
        self.ropes = ropes
        self.store = store
        self._running: dict[str, RunningRequest] = {}
        self.inputs = InputBuilder(self._admitted, ropes.arrays, encode)
        self._free_slots: list[int] = []
        self._num_slots = 0

    def start(
        self, request_id: str, state: SamplingState, images: PromptImages | None = None
    ) -> None:
        """Accept a request before its first step; images: those in its prompt."""
        rope_row = self.ropes.take(self.ropes.rope_class(len(state.prompt)))
        self._running[request_id] = RunningRequest(state, rope_row, images=images)

    def finish(self, request_id: str) -> None:
        """Forget a request."""
        request = self._running.pop(request_id, None)
        if request is None:
            return
        request.is_over = True
        self.ropes.release(request.rope_row)
        self.inputs.forget_shape()
        if request.slot >= 0:
            self._free_slots.append(request.slot)

    def run(self, plan: Plan) -> StepOutput:
        """Compute the plan's tokens, sample where the plan says so, and note the samples."""
        output = StepOutput(unloaded=self._load(plan))
        chunks = _runnable(plan, output)
        if chunks:
            inputs = self._build(chunks)
            sampled = self.executable.run(inputs.batch)
            self._take(chunks, inputs, sampled, output)
        return _by_plan(plan, output)

    def launch(self, plan: Plan) -> Flight:
        """Have a device begin with a plan, behind those that it was given before."""
        assert isinstance(self.executable, LaunchingExecutable)
        output = StepOutput(unloaded=self._load(plan))
        chunks = _runnable(plan, output)
        if not chunks:
            return Flight(plan, chunks, None, None, output)
        inputs = self._build(chunks)
        launched = self.executable.launch(inputs.batch)
        if inputs.shape.special:
            inputs = inputs.lasting()
        return Flight(plan, chunks, inputs, launched, output)

    def land(self, flight: Flight) -> StepOutput:
        """Wait for a plan, and note the samples; a request that is over since yields nothing."""
        if flight.inputs is not None and flight.launched is not None:
            self._take(flight.chunks, flight.inputs, flight.launched.wait(), flight.output)
        return _by_plan(flight.plan, flight.output)

    def _build(self, chunks: Sequence[Chunk]) -> StepInputs:
        inputs = self.inputs.build(chunks)
        for place in inputs.shape.special:
            if chunks[place].samples:
                inputs.shape.requests[place].state.refresh_mask()
        return inputs

    def _take(
        self, chunks: Sequence[Chunk], inputs: StepInputs, sampled: SampledRows, output: StepOutput
    ) -> None:
        self._take_plain(chunks, inputs, sampled, output)
        if inputs.shape.special:
            self._take_special(chunks, inputs, sampled, output)

    def _admitted(self, request_id: str) -> RunningRequest:
        """A request, which gets a slot when it first runs."""
        request = self._running[request_id]
        if request.slot < 0:
            request.slot = self._take_slot()
            self.executable.admit(request.slot, request.state)
        return request

    def _take_slot(self) -> int:
        if self._free_slots:
            return self._free_slots.pop()
        self._num_slots += 1
        return self._num_slots - 1

    def _take_plain(
        self, chunks: Sequence[Chunk], inputs: StepInputs, sampled: SampledRows, output: StepOutput
    ) -> None:
        """Note the token of each request that is not special."""
        shape, found = inputs.shape, list[tuple[int, ...]]([()] * len(chunks))
        for place, taken in zip(shape.chunk_of_row, zip(sampled.tokens, strict=True), strict=True):
            found[place] = taken
        for place in shape.special:
            found[place] = ()
        if min(sampled.tokens, default=0) < 0:
            failed = [place for place, taken in enumerate(found) if taken and taken[0] < 0]
            output.failed += [chunks[place].request_id for place in failed]
            for place in failed:
                found[place] = ()
        output.tokens = found

    def _take_special(
        self, chunks: Sequence[Chunk], inputs: StepInputs, sampled: SampledRows, output: StepOutput
    ) -> None:
        """Note what each row of a special request yielded, less the rows behind a wrong guess.

        Of a request that is `over`, nothing more counts.
        """
        batch, shape = inputs.batch, inputs.shape
        over = {place for place in shape.special if shape.requests[place].is_over}
        rows = zip(shape.chunk_of_row, shape.logit_rows.tolist(), sampled.tokens, strict=True)
        for row, (place, at, token) in enumerate(rows):
            if place not in shape.special or place in over:
                continue
            name, state = chunks[place].request_id, shape.requests[place].state
            next_position = int(batch.positions[at]) + 1
            if next_position < len(state.prompt):
                of_prompt = output.prompt_logprobs.setdefault(name, {})
                of_prompt[next_position] = sampled.logprobs[row]
                continue
            if token < 0:
                over.add(place)
                if not output.tokens[place]:  # else the next step finds nothing either
                    output.failed.append(name)
                continue
            output.tokens[place] = (*output.tokens[place], token)
            if row in sampled.logprobs:
                output.logprobs.setdefault(name, []).append(sampled.logprobs[row])
            if state.grammar is not None:
                state.grammar.accept(token)
            is_last = at + 1 == shape.query_start[place + 1]
            if not is_last and token != batch.token_ids[at + 1]:
                over.add(place)

    def _load(self, plan: Plan) -> dict[str, int]:
        """Save and load blocks as the plan says; of requests that lack some, how many came."""
        unloaded: dict[str, int] = {}
        if self.store is None:
            return unloaded
        if plan.evicted:
            wanted = [key for chunk in plan.chunks for key in chunk.load_keys]
            self.store.save_evicted(plan.evicted, wanted)
        for chunk in plan.chunks:
            if chunk.load_keys:
                count = self.store.load(chunk.load_keys, chunk.load_blocks)
                if count < len(chunk.load_keys):
                    unloaded[chunk.request_id] = count
        return unloaded


def _runnable(plan: Plan, output: StepOutput) -> Sequence[Chunk]:
    """The chunks all of whose blocks were loaded."""
    if not output.unloaded:
        return plan.chunks
    return tuple(each for each in plan.chunks if each.request_id not in output.unloaded)


def _by_plan(plan: Plan, output: StepOutput) -> StepOutput:
    """The output with no tokens for the chunks that were not run."""
    if output.unloaded:
        run = iter(output.tokens)
        output.tokens = [
            () if each.request_id in output.unloaded else next(run) for each in plan.chunks
        ]
    return output
