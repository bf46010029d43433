"""Times one batch with vLLM on a CPU and prints the figures as JSON: run_vllm.py JOB."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any


def main() -> None:
    """Load, warm up, time."""
    from vllm import LLM  # spawned children import this file again and must not load the engine

    job = json.loads(sys.argv[1])
    batch, length, output = job["batch"], job["input"], job["output"]
    llm = LLM(
        job["model"], dtype="bfloat16", max_model_len=2048, enable_prefix_caching=False,
        max_num_seqs=max(batch, 8), disable_log_stats=True,
    )  # fmt: skip
    _seconds(llm, 1, 16, 2)
    figures = {"first_token_s": time.time() - job["started"]}
    first = _seconds(llm, batch, length, 1)
    figures["prefill"] = batch * length / first
    if output > 1:
        figures["decode"] = batch * (output - 1) / (_seconds(llm, batch, length, output) - first)
    print(json.dumps(figures))


def _seconds(llm: Any, batch: int, length: int, output: int) -> float:
    from vllm import SamplingParams

    source = random.Random(length)
    prompts = [
        {"prompt_token_ids": [source.randrange(256, 49_000) for _ in range(length)]}
        for _ in range(batch)
    ]
    params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False)
    started = time.monotonic()
    llm.generate(prompts, params, use_tqdm=False)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
