"""Runs one Plan on an Executable and returns what was sampled."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from quire.backends.executable import Executable
from quire.control.plan import Plan
from quire.outputs import TokenLogprobs
from quire.runtime.block_tables import BlockTables
from quire.runtime.inputs import RunningRequest, StepInputs, build_inputs
from quire.runtime.rope_tables import RopeTables
from quire.runtime.stored_blocks import StoredBlocks
from quire.sampling.state import SampledRows, SamplingState

__all__ = ["Runner", "StepOutput"]


@dataclass(slots=True)
class StepOutput:
    """What one step yielded, by request id.

    tokens: the new tokens.  logprobs: one entry per new token, where asked for.  prompt_logprobs:
    for positions of the prompt, what the model said of the token standing there.
    failed: requests whose logits held no number to choose from.  unloaded: see Scheduler.commit.
    """

    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    prompt_logprobs: dict[str, dict[int, TokenLogprobs]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    unloaded: dict[str, int] = field(default_factory=dict)


class Runner:
    """Holds the sampling states and rope rows of running requests; has no policy.

    Where a chunk ends in guesses, each is followed as if it were right, and what is drawn decides:
    tokens are taken up to the first that differs from the guess, so they, and their
    log-probabilities, are those of one step each.  store: what plans load blocks from.
    """

    def __init__(
        self, executable: Executable, ropes: RopeTables, store: StoredBlocks | None = None
    ) -> None:
        self.executable = executable
        self.ropes = ropes
        self.store = store
        self._running: dict[str, RunningRequest] = {}
        self._tables = BlockTables()

    def start(self, request_id: str, state: SamplingState) -> None:
        """Accept a request before its first step."""
        rope_row = self.ropes.take(self.ropes.rope_class(len(state.prompt)))
        self._running[request_id] = RunningRequest(state, rope_row, self._tables.take())

    def finish(self, request_id: str) -> None:
        """Forget a request."""
        request = self._running.pop(request_id, None)
        if request is not None:
            self.ropes.release(request.rope_row)
            self._tables.release(request.blocks)

    def run(self, plan: Plan) -> StepOutput:
        """Compute the plan's tokens, sample where the plan says so, and note the samples."""
        output = StepOutput(unloaded=self._load(plan))
        if output.unloaded:
            runs = tuple(each for each in plan.chunks if each.request_id not in output.unloaded)
            if not runs:
                return output
            plan = replace(plan, chunks=runs)
        inputs = build_inputs(plan, self._running, self._tables, self.ropes.arrays)
        for row in inputs.rows:
            if row.state.grammar is not None:
                row.refresh_mask()
        self._take(inputs, self.executable.run(inputs.batch, inputs.rows), output)
        return output

    def _take(self, inputs: StepInputs, sampled: SampledRows, output: StepOutput) -> None:
        """Note what each row yielded, less the rows behind a wrong guess."""
        mistaken: set[str] = set()  # requests with a wrong guess
        found = zip(inputs.rows, inputs.owners, sampled.tokens, strict=True)
        for place, (row, (request_id, position), token) in enumerate(found):
            if row.target >= 0:
                of_prompt = output.prompt_logprobs.setdefault(request_id, {})
                of_prompt[position + 1] = sampled.logprobs[place]
                continue
            if request_id in mistaken:
                continue
            if token >= 0:
                row.state.append(token)
                output.tokens.setdefault(request_id, []).append(token)
                if row.num_logprobs >= 0:
                    output.logprobs.setdefault(request_id, []).append(sampled.logprobs[place])
            elif request_id not in output.tokens:  # else the next step finds nothing either
                output.failed.append(request_id)
            if row.guess >= 0 and token != row.guess:
                mistaken.add(request_id)

    def _load(self, plan: Plan) -> dict[str, int]:
        """Load blocks as the plan says; where one fails, how many of the request's were loaded."""
        unloaded = {}
        for chunk in plan.chunks:
            if chunk.load_keys:
                assert self.store is not None
                count = self.store.load(chunk.load_keys, chunk.load_blocks)
                if count < len(chunk.load_keys):
                    unloaded[chunk.request_id] = count
        return unloaded

