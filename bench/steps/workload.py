"""Runs one kind of step over and over, and notes how long each part of it took."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.assembly import Assembly
from quire.backends.native.program import NativeExecutable
from quire.engine import Engine
from quire.frontend import Completion
from quire.sampling_params import SamplingParams

__all__ = ["PARTS", "Profile", "StepProfiler", "Workload"]

PARTS = ("plan", "inputs", "sampler rows", "commit", "events", "text")
"""The Python parts of a step, in their order.

plan, commit: the scheduler's.  inputs: the arrays of the step.  sampler rows: their records and
results, around the native call.  events: the rest of the engine's step.  text: detokenizing.
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """A step of `requests`, each with `tokens` new tokens behind `context - tokens` others."""

    name: str
    requests: int
    tokens: int
    context: int

    @classmethod
    def decode(cls, requests: int, context: int) -> Workload:
        """One token each."""
        return cls(f"decode, {requests} x 1 token at {context}", requests, 1, context)

    @classmethod
    def prefill(cls, tokens: int) -> Workload:
        """A whole prompt."""
        return cls(f"prefill, {tokens} tokens", 1, tokens, tokens)


@dataclass(slots=True)
class Profile:
    """What was noted of each step: seconds in all, of each native op, of each Python part."""

    workload: Workload
    step_s: list[float] = field(default_factory=list)
    op_s: list[npt.NDArray[np.float64]] = field(default_factory=list)
    part_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})

    @property
    def best_op_s(self) -> npt.NDArray[np.float64]:
        """Each op's shortest: body, head, sampler.  Other programs only make it longer."""
        return np.asarray(np.min(self.op_s, axis=0))

    @property
    def median_step_s(self) -> float:
        """Of all of a step, text included."""
        return statistics.median(self.step_s)

    def median_part_s(self, name: str) -> float:
        """Of one of PARTS."""
        return statistics.median(self.part_s[name])

    @property
    def median_python_s(self) -> float:
        """Of what all of PARTS take in a step."""
        return statistics.median(map(sum, zip(*self.part_s.values(), strict=True)))


class StepProfiler:
    """Times the calls between the parts of one assembly; only one may live at a time.

    Python's parts are in CPU time of its thread, which other programs disturb less.
    """

    def __init__(self, assembly: Assembly) -> None:
        executable = assembly.model.executable
        assert isinstance(executable, NativeExecutable), "only the native backend times its ops"
        self._assembly, self._engine = assembly, assembly.engine
        self._op_nanoseconds = executable.time_ops()
        self._spent: dict[str, float] = {}
        self._seed = 0
        engine, runner = self._engine, self._engine.runner
        self._time(engine.scheduler, "plan", "plan")
        self._time(engine.scheduler, "commit", "commit")
        self._time(executable, "run", "run")
        self._time(executable, "_run", "native")
        self._time(runner.inputs, "build", "inputs")
        self._time(engine, "step", "step")
        assert runner.executable is executable

    def run(self, workload: Workload, num_steps: int) -> Profile:
        """The profile of so many steps of the workload, after a few that do not count."""
        profile = Profile(workload)
        steps = self._prefills if workload.tokens > 1 else self._decodes
        for step in steps(workload, num_steps):
            self._note(step, profile)
        return profile

    def _prefills(self, workload: Workload, num_steps: int) -> Iterator[Callable[[], None]]:
        for count in range(num_steps + 1):
            completions = self._submit(workload.tokens, 1, 1)
            step = functools.partial(self._step, self._engine, completions)
            if count:
                yield step
            else:
                step()

    def _decodes(self, workload: Workload, num_steps: int) -> Iterator[Callable[[], None]]:
        """The first tokens of all, until each has one; then steps of one token each."""
        before = max(1, workload.context - num_steps // 2)
        completions = self._submit(before, workload.requests, num_steps + workload.requests + 8)
        while any(each.request.num_output < 2 for each in completions.values()):
            self._step(self._engine, completions)
        for _ in range(num_steps):
            yield functools.partial(self._step, self._engine, completions)
        for request_id in completions:
            self._engine.cancel(request_id)

    def _submit(self, length: int, count: int, max_tokens: int) -> dict[str, Completion]:
        vocabulary = self._assembly.tokenizer.vocab_size
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        found = {}
        for _ in range(count):
            self._seed += 1
            prompt = np.random.default_rng(self._seed).integers(0, vocabulary, length).tolist()
            (completion,) = self._assembly.frontend.prepare(prompt, params).completions
            self._engine.submit(completion.request, completion.state)
            found[completion.request.id] = completion
        return found

    def _step(self, engine: Engine, completions: dict[str, Completion]) -> None:
        updates = engine.step()
        start = time.thread_time()
        for update in updates:
            completions[update.request_id].assembler.push(update)
        self._spent["text"] = time.thread_time() - start

    def _note(self, step: Callable[[], None], profile: Profile) -> None:
        self._op_nanoseconds[:] = 0
        start = time.perf_counter()
        step()
        wall_s = time.perf_counter() - start
        spent = self._spent
        parts = {
            "plan": spent["plan"],
            "inputs": spent["inputs"],
            "sampler rows": spent["run"] - spent["native"],
            "commit": spent["commit"],
            "events": spent["step"] - sum(spent[n] for n in ("plan", "inputs", "run", "commit")),
            "text": spent["text"],
        }
        profile.op_s.append(self._op_nanoseconds / 1e9)
        profile.step_s.append(wall_s)
        for name, seconds in parts.items():
            profile.part_s[name].append(seconds)

    def _time(self, owner: Any, name: str, part: str) -> None:
        """Put a clock around a function that the owner has."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            start = time.thread_time()
            result = function(*args, **options)
            self._spent[part] = time.thread_time() - start
            return result

        setattr(owner, name, timed)
