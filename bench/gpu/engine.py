"""Parts that run whole models in this process: decode and prefill of the real engine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bench.gpu.models import FORMATS, model_directory
from bench.gpu.plans import PLANS, Plan
from bench.gpu.results import Results
from quire.assembly import Assembly
from quire.config import EngineConfig
from quire.models.spec import ModelSpec
from quire.sampling_params import SamplingParams

__all__ = ["decode", "prefill"]


def decode(results: Results, shape: str, device: str, folder: Path) -> None:
    """Tokens a second of so many requests that all decode, at the same context."""
    plan = PLANS[shape]
    for format in FORMATS:
        with _engine(shape, device, format, folder) as engine:
            for batch in plan.decode:

                def measure(batch: int = batch, engine: _LazyEngine = engine) -> dict[str, float]:
                    seconds = _decode_seconds(engine.get(), plan, batch)
                    return {
                        "tokens per second": round(batch / seconds, 1),
                        "milliseconds per step": round(seconds * 1e3, 3),
                        "context": plan.context,
                        **_share(results, engine.get(), batch, plan.context, seconds),
                    }

                results.once("decode", f"{shape} {format} batch {batch}", measure)


def prefill(results: Results, shape: str, device: str, folder: Path) -> None:
    """Prompt tokens a second, from the submission to the first token of all."""
    plan = PLANS[shape]
    for format in FORMATS:
        with _engine(shape, device, format, folder) as engine:
            for count, tokens in plan.prompts:

                def measure(
                    count: int = count, tokens: int = tokens, engine: _LazyEngine = engine
                ) -> dict[str, float]:
                    runs = [_prefill_seconds(engine.get(), count, tokens) for _ in range(4)]
                    seconds = float(np.median(runs[1:]))
                    flops = 2 * _parameters(engine.get()) * count * tokens
                    ceiling = results.ceiling("operations per second")
                    return {
                        "tokens per second": round(count * tokens / seconds, 1),
                        "milliseconds": round(seconds * 1e3, 2),
                        **(
                            {"share of ceiling": round(flops / seconds / ceiling, 3)}
                            if ceiling
                            else {}
                        ),
                    }

                results.once("prefill", f"{shape} {format} {count} x {tokens}", measure)


class _LazyEngine:
    """An engine that is made when something is left to be measured with it."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._made: Assembly | None = None

    def get(self) -> Assembly:
        """The engine."""
        if self._made is None:
            self._made = Assembly(self._config)
        return self._made

    def drop(self) -> None:
        """Give its memory back."""
        self._made = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _engine(shape: str, device: str, format: str, folder: Path) -> Iterator[_LazyEngine]:
    directory = model_directory(shape, format, folder)
    engine = _LazyEngine(
        EngineConfig(
            str(directory),
            load_format="dummy",
            backend="torch",
            device=device,
            enable_prefix_caching=False,
            **PLANS[shape].options,
        )
    )
    try:
        yield engine
    finally:
        engine.drop()


def _decode_seconds(assembly: Assembly, plan: Plan, batch: int) -> float:
    """Of one step in which every request gets one token, in the mean of many."""
    engine, length = assembly.engine, plan.context - plan.steps // 2
    names = [
        _submit(assembly, prompt, plan.steps + batch + 16)
        for prompt in _prompts(assembly, batch, length)
    ]
    begun: set[str] = set()
    while len(begun) < batch:
        begun |= {update.request_id for update in engine.step() if update.tokens}
    engine.step()  # the first with all of them may be slower
    started, tokens = time.perf_counter(), 0
    for _ in range(plan.steps):
        tokens += sum(len(update.tokens) for update in engine.step())
    seconds = time.perf_counter() - started
    for name in names:
        engine.cancel(name)
    return seconds * batch / tokens


def _prefill_seconds(assembly: Assembly, count: int, tokens: int) -> float:
    for prompt in _prompts(assembly, count, tokens):
        _submit(assembly, prompt, 1)
    started = time.perf_counter()
    while assembly.engine.has_work:
        assembly.engine.step()
    return time.perf_counter() - started


def _prompts(assembly: Assembly, count: int, length: int) -> list[list[int]]:
    random = np.random.default_rng(count)
    most = assembly.model.spec.vocab_size - 100
    return [random.integers(256, most, length).tolist() for _ in range(count)]


def _submit(assembly: Assembly, prompt: list[int], max_tokens: int) -> str:
    """Queue a request; its name."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    (completion,) = assembly.frontend.prepare(prompt, params).completions
    assembly.engine.submit(completion.request, completion.state)
    return completion.request.id


def _parameters(assembly: Assembly) -> int:
    """Those that every token is multiplied with; the table of tokens is not."""
    spec = assembly.model.spec
    assert isinstance(spec, ModelSpec), "shapes are of families"
    return spec.num_parameters - math.prod(spec.embedding.weight.shape)


def _share(
    results: Results, assembly: Assembly, batch: int, context: int, seconds: float
) -> dict[str, float]:
    """What a step must read, over what a copy reads in its time; {} without a ceiling."""
    ceiling = results.ceiling("bytes per second")
    if not ceiling:
        return {}
    memory, spec = assembly.model.memory, assembly.model.spec
    assert isinstance(spec, ModelSpec), "shapes are of families"
    table = 2 * math.prod(spec.embedding.weight.shape)
    per_token = memory.kv_cache / max(memory.kv_tokens, 1)
    read = memory.weights - table + batch * context * per_token
    return {"share of ceiling": round(read / seconds / ceiling, 3)}
