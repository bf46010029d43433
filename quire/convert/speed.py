"""How fast a model runs here, by the kernels that serve."""

from __future__ import annotations

import time
from pathlib import Path

from quire.errors import QuireError
from quire.llm import LLM
from quire.sampling_params import SamplingParams

__all__ = ["measured_speed"]

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 32


def measured_speed(directory: Path) -> dict[str, float] | str:
    """Tokens a second of one request's prompt and output; or why the model does not run here."""
    try:
        llm = LLM(
            str(directory),
            max_model_len=PROMPT_TOKENS + OUTPUT_TOKENS + 1,
            max_num_seqs=1,
            enable_prefix_caching=False,
        )
    except QuireError as error:
        return str(error)
    prompt = [3 + i % 64 for i in range(PROMPT_TOKENS)]
    first = min(_seconds(llm, prompt, 1) for _ in range(2))
    whole = min(_seconds(llm, prompt, OUTPUT_TOKENS + 1) for _ in range(2))
    return {
        "prompt_tokens_per_s": round(PROMPT_TOKENS / first, 1),
        "output_tokens_per_s": round(OUTPUT_TOKENS / max(whole - first, 1e-9), 1),
    }


def _seconds(llm: LLM, prompt: list[int], count: int) -> float:
    params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    llm.generate([prompt[:1]], SamplingParams(max_tokens=1), use_tqdm=False)
    started = time.perf_counter()
    llm.generate([prompt], params, use_tqdm=False)
    return time.perf_counter() - started
