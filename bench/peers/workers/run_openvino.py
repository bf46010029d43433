"""Times one batch with OpenVINO GenAI and prints the figures as JSON: run_openvino.py JOB."""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai


def main() -> None:
    """Load, warm up, time."""
    job = json.loads(sys.argv[1])
    batch, length, output = job["batch"], job["input"], job["output"]
    options = {
        "INFERENCE_NUM_THREADS": job["threads"],
        "KV_CACHE_PRECISION": "u8" if job["int8_kv"] else "f16",
    }
    pipeline = openvino_genai.LLMPipeline(job["model"], "CPU", **options)
    _generate(pipeline, 1, 16, 2)
    figures = {"first_token_s": time.time() - job["started"]}
    metrics = _generate(pipeline, batch, length, output).perf_metrics
    figures["prefill"] = batch * length / (metrics.get_ttft().mean / 1000)
    if output > 1:
        figures["decode"] = batch / (metrics.get_tpot().mean / 1000)
    print(json.dumps(figures))


def _generate(pipeline: Any, batch: int, length: int, output: int) -> Any:
    source = random.Random(length)
    ids = [[source.randrange(256, 49_000) for _ in range(length)] for _ in range(batch)]
    inputs = openvino_genai.TokenizedInputs(
        openvino.Tensor(np.array(ids, np.int64)),
        openvino.Tensor(np.ones((batch, length), np.int64)),
    )
    config = openvino_genai.GenerationConfig(
        max_new_tokens=output, ignore_eos=True, do_sample=False
    )
    return pipeline.generate(inputs, config)


main()
