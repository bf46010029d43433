"""Prints what speculation gains and costs: tokens a second by method, text and batch.

python -m bench.speculation MODEL [--tokenizer demo] [--load-format dummy] [--rounds 3] ...

The model computes every step, but what it "says" is dictated: so a model with random weights can
be measured on texts that repeat and on texts that do not, and every method does the same work.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from quire.assembly import Assembly
from quire.backends.executable import Executable
from quire.config import EngineConfig
from quire.control.scheduler import Scheduler
from quire.engine import Engine
from quire.ops.batch import Batch
from quire.sampling.state import SampledRows, SamplingState
from quire.sampling_params import SamplingParams
from quire.speculative.methods import load_speculator
from quire.weights.hub import DEMO

__all__ = ["Dictated", "main"]

METHODS = ("off", "ngram", "suffix")


class Dictated:
    """An executable whose requests say what they are told to."""

    def __init__(self, inner: Executable) -> None:
        self.inner = inner
        self.texts: dict[int, Sequence[int]] = {}
        self.states: dict[int, SamplingState] = {}

    def admit(self, slot: int, state: SamplingState) -> None:
        """Note whose text belongs to a slot."""
        self.states[slot] = state
        self.inner.admit(slot, state)

    def run(self, batch: Batch) -> SampledRows:
        """Run, and replace what was drawn."""
        logprobs = self.inner.run(batch).logprobs
        requests, tokens = batch.request_of_token(), []
        for at in batch.logit_rows.tolist():
            state = self.states[int(batch.slots[requests[at]])]
            tokens.append(self.texts[state.seed][batch.positions[at] + 1 - len(state.prompt)])
        return SampledRows(tokens, logprobs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def edited(tokens: Sequence[int], every: int, rng: random.Random) -> list[int]:
    """The tokens with about one in `every` exchanged."""
    return [rng.choice(tokens) if rng.random() < 1 / every else token for token in tokens]


def pairs(text: str, kind: str, encode: Any, count: int, length: int) -> list[tuple[Any, Any]]:
    """Prompts and what is to be said.

    edit: a passage, and it again with one token in 15 exchanged.  new: a passage, and another one.
    records: a short question, and a record of fields, of which a third are known from others.
    """
    rng = random.Random(5)
    tokens = encode(text)
    if kind == "records":
        words = [encode(word, add_special_tokens=False) for word in text.split()[:900]]
        frame = [encode(f'"field_{i}": "', add_special_tokens=False) for i in range(9)]
        found = []
        for _ in range(count):
            fields = [[*part, *rng.choice(words)] for _ in range(9) for part in frame]
            found.append((tokens[:20], [token for each in fields for token in each][:length]))
        return found
    starts = [(len(tokens) - 2 * length) // count * place for place in range(count)]
    passages = [tokens[start : start + length] for start in starts]
    others = [tokens[start + length : start + 2 * length] for start in starts]
    said = others if kind == "new" else [edited(each, 15, rng) for each in passages]
    return list(zip(passages, said, strict=True))


def measure(
    assembly: Assembly, method: str, jobs: Sequence[tuple[Any, Any]], batch: int
) -> tuple[float, float, float]:
    """Tokens a second after the first, tokens per request and step, and the share accepted."""
    config, memory = assembly.config, assembly.model.memory
    runner = assembly.engine.runner
    dictated = runner.executable
    assert isinstance(dictated, Dictated)
    scheduler = Scheduler(
        memory.num_blocks,
        memory.block_tokens,
        memory.max_num_batched_tokens,
        config.max_num_seqs,
        enable_prefix_caching=False,
        window=assembly.model.spec.window,
        drafter=load_speculator(method, config.max_drafts),
    )
    engine = Engine(scheduler, runner)
    seconds, generated, turns = 0.0, 0, 0
    for first in range(0, len(jobs), batch):
        names = set()
        for prompt, said in jobs[first : first + batch]:
            seed = len(dictated.texts) + 1
            dictated.texts[seed] = said + [0] * 64
            params = SamplingParams(max_tokens=len(said), seed=seed, ignore_eos=True)
            (one,) = assembly.frontend.prepare(prompt, params).completions
            engine.submit(one.request, one.state)
            names.add(one.request.id)
        for took, updates in _decode(engine, names):
            seconds += took
            generated += sum(len(update.tokens) for update in updates)
            turns += len(updates)
    stats = scheduler.stats()
    accepted = stats.num_accepted_tokens / max(stats.num_draft_tokens, 1)
    return generated / seconds, generated / turns, accepted


def _decode(engine: Engine, silent: set[str]) -> Iterator[tuple[float, Any]]:
    """Each step after all prompts are read.  silent: the requests, none of which has a token."""
    while engine.has_work:
        started = time.perf_counter()
        updates = engine.step()
        took = time.perf_counter() - started
        if not silent:
            yield took, updates
        silent -= {update.request_id for update in updates if update.tokens}


def main() -> None:
    """Interleave the methods, several rounds of each, and print the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--tokenizer")
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=["edit", "records", "new"])
    options = parser.parse_args()
    config = EngineConfig(
        options.model,
        tokenizer=options.tokenizer,
        load_format=options.load_format,
        dtype=options.dtype,
        max_model_len=1024,
        max_num_seqs=8,
        speculative="suffix",  # so that there is room for its rows; the scheduler is made anew
    )
    assembly = Assembly(config)
    print(*assembly.info.lines, sep="\n")
    assembly.engine.runner.executable = Dictated(assembly.engine.runner.executable)
    text = (DEMO / "heldout.en.txt").read_text(encoding="utf-8")
    print(f"{'text':8} {'batch':>5} {'method':7} {'tok/s':>8} {'gain':>6} {'per step':>8} accepted")
    for kind in options.kinds:
        encode = assembly.tokenizer.encode
        jobs = pairs(text, kind, encode, options.requests, options.length)
        for batch in options.batches:
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METHODS}
            for _ in range(options.rounds):
                for name in METHODS:
                    found[name].append(measure(assembly, name, jobs, batch))
            plain = statistics.median(rate for rate, _, _ in found["off"])
            for name in METHODS:
                rate, per_step, accepted = (
                    statistics.median(x) for x in zip(*found[name], strict=True)
                )
                print(
                    f"{kind:8} {batch:5} {name:7} {rate:8.1f} {rate / plain - 1:+6.0%} "
                    f"{per_step:8.2f} {accepted:.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
