"""Repeats plan → run → commit and reports each request's new tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from quire.control.plan import Plan, Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stats import SchedulerStats
from quire.outputs import Details, RequestMetrics, TokenLogprobs
from quire.runtime.runner import Flight, Runner, StepOutput
from quire.sampling.state import SamplingState
from quire.vision.prompt_images import PromptImages

__all__ = ["Engine", "EngineStats"]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts since the start; heartbeat_s is when the last step ended, by the engine's clock.

    step_tokens: tokens computed by the last step.
    """

    scheduler: SchedulerStats
    num_steps: int
    num_prompt_tokens: int
    num_generation_tokens: int
    step_tokens: int
    heartbeat_s: float


@dataclass(slots=True)
class _Live:
    """What the engine keeps of an unfinished request beside the scheduler.

    prompt_logprobs: one per token of the prompt, as they come; None where nobody asked.
    """

    request: Request
    prompt_logprobs: list[TokenLogprobs | None] | None
    metrics: RequestMetrics

    def note(self, now: float, is_first: bool, is_over: bool) -> None:
        """Bring the metrics up to date when a first token came, or all is over."""
        self.metrics = replace(
            self.metrics,
            first_scheduled_s=self.request.first_scheduled or 0.0,
            first_token_s=now if is_first else self.metrics.first_token_s,
            finished_s=now if is_over else 0.0,
            num_preemptions=self.request.num_preemptions,
        )


class Engine:
    """One model, one scheduler, one loop; single-threaded, called by whoever owns the thread.

    plans_ahead: while one step runs on a device, the next is planned and handed over, and the
    results of the first are taken in behind that; what requests yield is the same.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        clock: Callable[[], float] = time.monotonic,
        plans_ahead: bool = False,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.plans_ahead = plans_ahead
        self._clock = clock
        self._live: dict[str, _Live] = {}
        self._silent: set[str] = set()  # those without a token so far
        self._flight: Flight | None = None
        self._totals = EngineStats(scheduler.stats(), 0, 0, 0, 0, clock())

    @property
    def has_work(self) -> bool:
        """True while any request is unfinished, or a step is on its way."""
        return bool(self._live) or self._flight is not None

    def refuse_impossible(self, request: Request) -> None:
        """Raise RequestError for a request that could never run."""
        self.scheduler.limits.refuse_impossible(request)

    def submit(
        self, request: Request, state: SamplingState, images: PromptImages | None = None
    ) -> None:
        """Queue a request.  Raises QueueFullError, or RequestError if it can never run."""
        self.scheduler.submit(request)
        self.runner.start(request.id, state, images)
        asked = state.params.prompt_logprobs is not None
        self._live[request.id] = _Live(
            request,
            [None] * request.num_prompt if asked else None,
            RequestMetrics(arrival_s=request.arrival),
        )
        self._silent.add(request.id)

    def cancel(self, request_id: str, finish_reason: str = "abort") -> Update | None:
        """End a request now; None when it is unknown or over."""
        update = self.scheduler.cancel(request_id, finish_reason)
        if update is not None:
            self._add_details(update, StepOutput(), self._clock())
        return update

    def step(self) -> list[Update]:
        """Plan, run, commit once; the updates of every request that moved.

        Ahead: plan and launch a step, then commit the one before it.
        """
        now = self._clock()
        expired = self.scheduler.expire(now)
        if self.plans_ahead:
            return self._step_ahead(now, expired)
        plan = self.scheduler.plan(now)
        started, output = self._clock(), StepOutput()
        if plan.chunks:
            output = self._run(plan)
        return self._commit(plan, output, self._clock() - started, expired)

    def _step_ahead(self, now: float, expired: Sequence[Update]) -> list[Update]:
        behind, self._flight = self._flight, None
        plan = self.scheduler.plan(now)
        if plan.chunks:
            self._flight = self._launch(plan, behind)
        if behind is None:
            return self._note_step(0, [*expired], StepOutput())
        output = self._land(behind, self._flight)
        updates = self._commit(behind.plan, output, 0.0, expired)
        if self._flight is None:  # the next step needed what this one brought
            plan = self.scheduler.plan(now)
            if plan.chunks:
                self._flight = self._launch(plan, None)
        return updates

    def _commit(
        self, plan: Plan, output: StepOutput, seconds: float, expired: Sequence[Update]
    ) -> list[Update]:
        """Take in what a plan yielded; expired: what else there is to tell."""
        updates = self.scheduler.commit(
            plan, output.tokens, seconds, output.unloaded, output.failed
        )
        for request_id, found in output.prompt_logprobs.items():
            entries = self._live[request_id].prompt_logprobs
            assert entries is not None
            for position, entry in found.items():
                entries[position] = entry
        return self._note_step(plan.num_tokens, [*expired, *updates], output)

    def stats(self) -> EngineStats:
        """Counts and gauges now."""
        return replace(self._totals, scheduler=self.scheduler.stats())

    def _run(self, plan: Plan) -> StepOutput:
        """Run a plan; where that fails, its requests end, and the engine can go on with others."""
        try:
            return self.runner.run(plan)
        except BaseException:
            self._abandon(plan)
            raise

    def _launch(self, plan: Plan, behind: Flight | None) -> Flight:
        """Launch a plan behind another one; where that fails, the requests of both end."""
        try:
            return self.runner.launch(plan)
        except BaseException:
            self._abandon(*([] if behind is None else [behind.plan]), plan)
            raise

    def _land(self, flight: Flight, ahead: Flight | None) -> StepOutput:
        """Wait for a plan; where it fails, its requests end, and those of the plan behind it."""
        try:
            return self.runner.land(flight)
        except BaseException:
            self._flight = None
            self._abandon(flight.plan, *([] if ahead is None else [ahead.plan]))
            raise

    def _abandon(self, *plans: Plan) -> None:
        """End the requests of the open plans."""
        for plan in plans:
            for chunk in plan.chunks:
                self.cancel(chunk.request_id, "error")
        for plan in plans:
            self.scheduler.commit(plan, [()] * len(plan.chunks))

    def _note_step(
        self, step_tokens: int, updates: list[Update], output: StepOutput
    ) -> list[Update]:
        """Count what the updates say, and add what else is known."""
        now, silent, totals = self._clock(), self._silent, self._totals
        num_prompt = totals.num_prompt_tokens
        if silent:
            begun = [each.request_id for each in updates if each.tokens or _was_read(each)]
            num_prompt += sum(
                self._live[each].request.num_prompt for each in begun if each in silent
            )
        self._totals = EngineStats(
            totals.scheduler,
            totals.num_steps + 1,
            num_prompt,
            totals.num_generation_tokens + sum([len(each.tokens) for each in updates]),
            step_tokens,
            now,
        )
        special = silent | output.logprobs.keys()
        for each in updates:
            if each.finish_reason is not None or (special and each.request_id in special):
                self._add_details(each, output, now)
        return updates

    def _add_details(self, update: Update, output: StepOutput, now: float) -> None:
        """Add to an update all that is known beside it."""
        request_id, live = update.request_id, self._live[update.request_id]
        is_first = bool(update.tokens) and request_id in self._silent
        is_over = update.finish_reason is not None
        if is_first or is_over:
            live.note(now, is_first, is_over)
            self._silent.discard(request_id)
        if is_over:
            self.runner.finish(request_id)
            del self._live[request_id]
        logprobs = output.logprobs.get(request_id) if update.tokens else None
        if logprobs is not None:
            logprobs = logprobs[: len(update.tokens)]  # none behind the one that ended it
        update.details = Details(
            logprobs,
            live.prompt_logprobs if is_first else None,
            live.metrics if is_first or is_over else None,
        )


def _was_read(update: Update) -> bool:
    """Whether a request is over that wanted its prompt read and nothing more."""
    return update.finish_reason == "length" and not update.tokens
