"""Times and counts one prompt's completions as they stream by."""

from __future__ import annotations

import time

from quire.outputs import Delta, RequestMetrics
from quire.sampling_params import SamplingParams
from quire.server.metrics import ServerMetrics

__all__ = ["RequestMeter"]


class RequestMeter:
    """Watches the deltas of one prompt; `close` it in every case."""

    def __init__(self, metrics: ServerMetrics, num_prompt: int, params: SamplingParams) -> None:
        self._metrics = metrics
        self._arrived = time.monotonic()
        self._last_at: dict[int, float] = {}
        self._first_at: dict[int, float] = {}
        self._num_tokens = dict.fromkeys(range(params.n), 0)
        self._unfinished = set(range(params.n))
        self._open = True
        metrics.begin()
        metrics.prompt_tokens.observe(num_prompt)
        metrics.params_n.observe(params.n)
        if params.max_tokens is not None:
            metrics.max_tokens.observe(params.max_tokens)

    def observe(self, delta: Delta) -> None:
        """Take one delta into account."""
        now, index = time.monotonic(), delta.index
        if delta.token_ids:
            self._metrics.note_step()
            self._num_tokens[index] += len(delta.token_ids)
            if not self._last_at:
                self._metrics.first_token_s.observe(now - self._arrived)
            if index in self._last_at:
                self._metrics.token_s.observe(now - self._last_at[index])
            self._first_at.setdefault(index, now)
            self._last_at[index] = now
        if delta.finish_reason is not None and index in self._unfinished:
            self._finish(index, delta.finish_reason, delta.metrics, now)

    def close(self) -> None:
        """No more deltas come; what has not finished was aborted."""
        if not self._open:
            return
        self._open = False
        self._metrics.end()
        for index in list(self._unfinished):
            self._finish(index, "abort", None, time.monotonic())

    def _finish(self, index: int, reason: str, times: RequestMetrics | None, now: float) -> None:
        self._unfinished.discard(index)
        self._metrics.success.add(1, reason)
        num_tokens = self._num_tokens[index]
        self._metrics.output_tokens.observe(num_tokens)
        if reason not in ("stop", "length"):
            return  # times of what was cut short would look like good ones
        self._metrics.whole_s.observe(now - self._arrived)
        if num_tokens > 1:
            took = self._last_at[index] - self._first_at[index]
            self._metrics.mean_token_s.observe(took / (num_tokens - 1))
        if times is not None and times.first_token_s:
            self._observe_phases(times)

    def _observe_phases(self, times: RequestMetrics) -> None:
        metrics = self._metrics
        metrics.queue_s.observe(times.first_scheduled_s - times.arrival_s)
        metrics.prefill_s.observe(times.first_token_s - times.first_scheduled_s)
        metrics.decode_s.observe(times.finished_s - times.first_token_s)
        metrics.inference_s.observe(times.finished_s - times.first_scheduled_s)
