"""Repeats plan → run → commit and reports each request's new tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from quire.control.plan import Plan, Update
from quire.control.request import Request
from quire.control.scheduler import Scheduler
from quire.control.stats import SchedulerStats
from quire.outputs import RequestMetrics, TokenLogprobs
from quire.runtime.runner import Runner, StepOutput
from quire.sampling.state import SamplingState

__all__ = ["Engine", "EngineStats", "Event"]


class Event(NamedTuple):
    """What happened to one request in one step.

    logprobs: one entry per new token, if asked for.  prompt_logprobs: one entry per prompt token,
    None for the first, in the event of the first new token, if asked for.
    """

    update: Update
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    metrics: RequestMetrics | None = None


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
    """What the engine keeps of an unfinished request beside the scheduler."""

    request: Request
    state: SamplingState
    prompt_logprobs: list[TokenLogprobs | None]
    metrics: RequestMetrics


class Engine:
    """One model, one scheduler, one loop; single-threaded, called by whoever owns the thread."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._clock = clock
        self._live: dict[str, _Live] = {}
        self._totals = EngineStats(scheduler.stats(), 0, 0, 0, 0, clock())

    @property
    def has_work(self) -> bool:
        """True while any request is unfinished."""
        return bool(self._live)

    def submit(self, request: Request, state: SamplingState) -> None:
        """Queue a request.  Raises QueueFullError, or RequestError if it can never run."""
        self.scheduler.submit(request)
        self.runner.start(request.id, state)
        prompt_logprobs: list[TokenLogprobs | None] = [None] * request.num_prompt
        metrics = RequestMetrics(arrival_s=request.arrival)
        self._live[request.id] = _Live(request, state, prompt_logprobs, metrics)

    def cancel(self, request_id: str, finish_reason: str = "abort") -> Event | None:
        """End a request now; None when it is unknown or over."""
        update = self.scheduler.cancel(request_id, finish_reason)
        return None if update is None else self._event(update, StepOutput())

    def step(self) -> list[Event]:
        """Plan, run, commit once; the events of every request that moved."""
        now = self._clock()
        output = StepOutput()
        updates = list(self.scheduler.expire(now))
        plan = self.scheduler.plan(now)
        started = self._clock()
        if plan.chunks:
            output = self._run(plan)
        seconds = self._clock() - started
        for request_id in output.failed:
            failed = self.scheduler.cancel(request_id, "error")
            updates += [failed] if failed is not None else []
        updates += self.scheduler.commit(plan, output.tokens, seconds, output.unloaded)
        for request_id, found in output.prompt_logprobs.items():
            for position, entry in found.items():
                self._live[request_id].prompt_logprobs[position] = entry
        self._count(plan.num_tokens, updates)
        return [self._event(update, output) for update in updates]

    def stats(self) -> EngineStats:
        """Counts and gauges now."""
        return replace(self._totals, scheduler=self.scheduler.stats())

    def _run(self, plan: Plan) -> StepOutput:
        """Run a plan; where that fails, its requests end, and the engine can go on with others."""
        try:
            return self.runner.run(plan)
        except BaseException:
            for chunk in plan.chunks:
                self.cancel(chunk.request_id, "error")
            self.scheduler.commit(plan, {})
            raise

    def _count(self, step_tokens: int, updates: list[Update]) -> None:
        first = [
            u for u in updates if u.tokens and not self._live[u.request_id].metrics.first_token_s
        ]
        totals = self._totals
        prompts = sum(self._live[update.request_id].request.num_prompt for update in first)
        self._totals = EngineStats(
            totals.scheduler,
            totals.num_steps + 1,
            totals.num_prompt_tokens + prompts,
            totals.num_generation_tokens + sum(len(update.tokens) for update in updates),
            step_tokens,
            self._clock(),
        )

    def _event(self, update: Update, output: StepOutput) -> Event:
        live, now = self._live[update.request_id], self._clock()
        params, prompt_logprobs = live.state.params, None
        if update.tokens and not live.metrics.first_token_s:
            live.metrics = replace(live.metrics, first_token_s=now)
            if params.prompt_logprobs is not None:
                prompt_logprobs = tuple(live.prompt_logprobs)
        request, known = live.request, live.metrics
        scheduled = request.first_scheduled or 0.0
        facts = (scheduled, request.num_preemptions)
        if facts != (known.first_scheduled_s, known.num_preemptions):
            live.metrics = replace(
                known, first_scheduled_s=scheduled, num_preemptions=request.num_preemptions
            )
        logprobs = output.logprobs.get(update.request_id)
        kept = None if logprobs is None else tuple(logprobs[: len(update.tokens)])
        if update.finish_reason is not None:
            live.metrics = replace(live.metrics, finished_s=now)
            self.runner.finish(update.request_id)
            del self._live[update.request_id]
        return Event(update, kept, prompt_logprobs, live.metrics)
