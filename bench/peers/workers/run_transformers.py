"""Times one batch with transformers and prints the figures as JSON: run_transformers.py JOB."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers


def main() -> None:
    """Load, warm up, time."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    kind: Any = transformers.AutoModelForCausalLM
    model = kind.from_pretrained(job["model"], dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        _run(model, 1, 16, 2)
        figures = {"first_token_s": time.time() - job["started"]}
        batch, length, output = job["batch"], job["input"], job["output"]
        first, rest = _run(model, batch, length, output)
    figures["prefill"] = batch * length / first
    if output > 1:
        figures["decode"] = batch * (output - 1) / rest
    print(json.dumps(figures))


def _run(model: Any, batch: int, length: int, output: int) -> tuple[float, float]:
    """Seconds until the first tokens, and for the others."""
    torch.manual_seed(length)
    ids, cache = torch.randint(256, 49_000, (batch, length)), None
    started = first = time.monotonic()
    for step in range(output):
        result = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = result.logits[:, -1:].argmax(-1), result.past_key_values
        if step == 0:
            first = time.monotonic()
    return first - started, time.monotonic() - first


main()
