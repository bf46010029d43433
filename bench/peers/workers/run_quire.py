"""Times one batch with Quire and prints the figures as JSON; runs with the Python given.

run_quire.py JOB, a JSON object: model, options, input, output, batch, filled, started.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from quire import LLM, SamplingParams
from quire.sampling.state import SampledRows

FILL = 0x3C  # as a byte of any float format or of int8: a small ordinary number


class SkipPrefill:
    """Stands before the executable and lets only steps of at most `batch` tokens through."""

    def __init__(self, executable: Any, batch: int) -> None:
        self.inner, self.batch = executable, batch
        executable.kv_cache.arena.fill(FILL)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, batch: Any) -> Any:
        """Sample token 300 for a step that is left out."""
        if batch.num_tokens > self.batch:
            return SampledRows([300] * len(batch.logit_rows), {})
        return self.inner.run(batch)


def main() -> None:
    """Load, warm up, time."""
    job = json.loads(sys.argv[1])
    batch, length, output = job["batch"], job["input"], job["output"]
    llm = LLM(job["model"], **job["options"])
    _generate(llm, 1, 16, 2)
    figures = {"first_token_s": time.time() - job["started"]}
    if job["filled"]:
        runner = llm._assembly.engine.runner
        runner.executable = SkipPrefill(runner.executable, batch)
    started, results = time.monotonic(), _generate(llm, batch, length, output)
    ended = time.monotonic()
    first = max(result.metrics.first_token_s for result in results)
    if not job["filled"]:
        figures["prefill"] = batch * length / (first - started)
    if output > 1:
        figures["decode"] = batch * (output - 1) / (ended - first)
    print(json.dumps(figures))


def _generate(llm: LLM, batch: int, length: int, output: int) -> Any:
    """New random prompts each time, so that no prefix is in the cache."""
    source = random.Random(length)
    prompts = [[source.randrange(256, 49_000) for _ in range(length)] for _ in range(batch)]
    params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True)
    return llm.generate(prompts, params, use_tqdm=False)


main()
