"""What the server counts, under vLLM's names."""

from __future__ import annotations

import time
from collections.abc import Iterable

from quire.server.engine_protocol import ServedEngine
from quire.server.prometheus import Registry

__all__ = ["ServerMetrics"]

FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
COUNTS = (1, 2, 5, 10, 20)


class ServerMetrics:
    """The metrics of one server; used on the event loop only.

    num_active, busy_since: unfinished prompts and texts, and since when there has been one.
    """

    def __init__(self, engine: ServedEngine, prefix: str, model_name: str) -> None:
        self._engine = engine
        self._last_step = 0
        self.num_active = 0
        self.busy_since = 0.0
        self.registry = Registry(prefix, {"model_name": model_name, "engine": "0"})
        self._declare_requests(_one_two_five(engine.info.max_model_len))
        self._declare_engine()

    def expose(self) -> str:
        """The text for Prometheus, as of now."""
        self._read_engine()
        return self.registry.expose()

    def begin(self) -> None:
        """The engine has one more prompt or text to step for."""
        if self.num_active == 0:
            self.busy_since = time.monotonic()
        self.num_active += 1

    def end(self) -> None:
        """It has one less."""
        self.num_active -= 1

    def note_prompts(self, counts: Iterable[int]) -> None:
        """Observe how many tokens texts had."""
        for count in counts:
            self.prompt_tokens.observe(count)

    def note_step(self) -> None:
        """Observe the size of the engine's last step, once."""
        stats = self._engine.stats()
        if stats.num_steps != self._last_step:
            self._last_step = stats.num_steps
            self.step_tokens.observe(stats.step_tokens)

    def _declare_requests(self, tokens: tuple[int, ...]) -> None:
        make, count = self.registry.histogram, self.registry.counter
        self.first_token_s = make(
            "time_to_first_token_seconds", "Arrival to first token.", FIRST_TOKEN_S
        )
        self.token_s = make("inter_token_latency_seconds", "Between tokens.", TOKEN_S)
        self.mean_token_s = make(
            "request_time_per_output_token_seconds", "Mean between tokens of a request.", TOKEN_S
        )
        self.whole_s = make("e2e_request_latency_seconds", "Arrival to last token.", REQUEST_S)
        self.queue_s = make("request_queue_time_seconds", "Arrival to first step.", REQUEST_S)
        self.inference_s = make(
            "request_inference_time_seconds", "First step to last token.", REQUEST_S
        )
        self.prefill_s = make(
            "request_prefill_time_seconds", "First step to first token.", REQUEST_S
        )
        self.decode_s = make("request_decode_time_seconds", "First to last token.", REQUEST_S)
        self.prompt_tokens = make("request_prompt_tokens", "Tokens per prompt.", tokens)
        self.output_tokens = make("request_generation_tokens", "Tokens per completion.", tokens)
        self.max_tokens = make("request_params_max_tokens", "max_tokens asked for.", tokens)
        self.params_n = make("request_params_n", "Completions asked for.", COUNTS)
        self.step_tokens = make("iteration_tokens_total", "Tokens per engine step.", STEP_TOKENS)
        self.success = count("request_success", "Completions ended.", ("finished_reason",))
        for reason in ("stop", "length", "abort", "error"):
            self.success.set(0, reason)
        self.http = count("http_requests", "HTTP exchanges.", ("method", "handler", "status"))

    def _declare_engine(self) -> None:
        gauge, count = self.registry.gauge, self.registry.counter
        self._running = gauge("num_requests_running", "Completions holding KV blocks.")
        self._waiting = gauge("num_requests_waiting", "Completions in the queue.")
        self._usage = gauge("kv_cache_usage_perc", "KV blocks in use; 1 means all.")
        self._fragmentation = gauge(
            "kv_cache_fragmentation_perc", "Share of used blocks that holds no token."
        )
        self._oldest = gauge("oldest_wait_seconds", "How long the oldest in the queue has waited.")
        self._prompt = count("prompt_tokens", "Prompt tokens of requests that began.")
        self._generation = count("generation_tokens", "Tokens generated.")
        self._queries = count("prefix_cache_queries", "Prompt tokens looked up in the cache.")
        self._hits = count("prefix_cache_hits", "Prompt tokens found in the cache.")
        self._store_queries = count(
            "external_prefix_cache_queries", "Prompt tokens then looked up on disk or on the host."
        )
        self._store_hits = count("external_prefix_cache_hits", "Prompt tokens loaded from there.")
        self._preemptions = count("num_preemptions", "Times a request lost its KV blocks.")
        self._wasted = count("wasted_tokens", "Tokens computed again after a preemption.")
        self._drafts = count("spec_decode_num_drafts", "Times that tokens were guessed.")
        self._drafted = count("spec_decode_num_draft_tokens", "Tokens guessed.")
        self._accepted = count("spec_decode_num_accepted_tokens", "Guessed tokens that were right.")
        self._steps = count("engine_steps", "Steps of the engine.")
        info, config = self._engine.info, self._engine.config
        self.registry.gauge(
            "cache_config_info",
            "The KV cache, in labels.",
            ("block_size", "num_gpu_blocks", "enable_prefix_caching"),
        ).set(1, str(info.block_tokens), str(info.num_kv_blocks), str(config.enable_prefix_caching))

    def _read_engine(self) -> None:
        stats = self._engine.stats()
        scheduler = stats.scheduler
        self._running.set(scheduler.num_running)
        self._waiting.set(scheduler.num_waiting)
        self._usage.set(scheduler.kv_usage)
        self._fragmentation.set(scheduler.fragmentation)
        self._oldest.set(scheduler.oldest_wait_s)
        self._prompt.set(stats.num_prompt_tokens)
        self._generation.set(stats.num_generation_tokens)
        self._queries.set(scheduler.prefix_query_tokens)
        self._hits.set(scheduler.prefix_hit_tokens)
        self._store_queries.set(scheduler.store_query_tokens)
        self._store_hits.set(scheduler.store_hit_tokens)
        self._preemptions.set(scheduler.num_preemptions)
        self._wasted.set(scheduler.num_wasted_tokens)
        self._drafts.set(scheduler.num_drafts)
        self._drafted.set(scheduler.num_draft_tokens)
        self._accepted.set(scheduler.num_accepted_tokens)
        self._steps.set(stats.num_steps)


def _one_two_five(largest: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, … up to `largest`."""
    found, scale = [], 1
    while scale <= largest:
        found += [scale * step for step in (1, 2, 5) if scale * step <= largest]
        scale *= 10
    return tuple(found)
