"""Perplexity of any model on a text, by the window rule of docs/demo-model.md.

    python examples/perplexity.py demo quire/demo/heldout.en.txt --quantization int4

Consecutive pieces of 511 tokens, each after one end-of-text token; nothing carries over.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path

from quire import LLM, SamplingParams

WINDOW = 512


def nats_of(llm: LLM, pieces: list[list[int]]) -> float:
    """The summed negative log-likelihood of every token but the first of each piece."""
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
    total = 0.0
    for output in llm.generate(pieces, params, use_tqdm=False):
        known = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        total -= sum(entry[token].logprob for token, entry in known)
    return total


def main() -> None:
    """Score the files one by one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--quantization", "-q", default="auto")
    options = parser.parse_args()
    llm = LLM(options.model, quantization=options.quantization, max_model_len=WINDOW + 1)
    tokenizer = llm.get_tokenizer()
    for path in options.files:
        text = path.read_text(encoding="utf-8")
        ids = tokenizer.encode(text, add_special_tokens=False)
        cuts = [*range(0, len(ids), WINDOW - 1), len(ids)]
        pieces = [[tokenizer.eos_token_id, *ids[start:end]] for start, end in pairwise(cuts)]
        nats = nats_of(llm, pieces)
        bits = nats / math.log(2) / len(text.encode())
        print(
            f"{path.name} {options.quantization}: {len(ids)} tokens, "
            f"perplexity {math.exp(nats / len(ids)):.3f}, bits per byte {bits:.4f}"
        )


if __name__ == "__main__":
    main()
