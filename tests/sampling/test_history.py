"""OutputHistory finds the output among the tokens that steps compute."""

from __future__ import annotations

import random

import numpy as np

from quire.ops.batch import Batch
from quire.sampling.history import OutputHistory


def test_it_has_every_output_token_however_steps_were_cut() -> None:
    """Slots are used again, chunks recomputed, guesses overwritten by what was right."""
    source, history = random.Random(5), OutputHistory()
    texts: dict[int, list[int]] = {}
    prompts: dict[int, int] = {}
    for _ in range(300):
        slot = source.randrange(20)
        if slot not in texts or source.random() < 0.05:
            texts[slot], prompts[slot] = [], source.randrange(1, 5)
            history.keep(slot, slot % 3 > 0)
        chosen = source.sample(list(texts), source.randint(1, len(texts)))
        tokens, positions, ends = [], [], [0]
        for slot in chosen:
            texts[slot] += [source.randrange(1000) for _ in range(source.choice([1, 1, 1, 30]))]
            start = source.randrange(prompts[slot] + len(texts[slot]))
            if len(texts[slot]) < 30:
                start = 0
            whole = [-1] * prompts[slot] + texts[slot]
            start = min(start, prompts[slot] + len(texts[slot]) - 30) if start else 0
            guesses = [source.randrange(1000)] * source.choice([0, 0, 3])
            chunk = [*whole[start:], *guesses]
            tokens += chunk
            positions += range(start, start + len(chunk))
            ends.append(len(tokens))
        empty = np.zeros(0, np.int32)
        batch = Batch(
            np.array(tokens, np.int32),
            np.array(positions, np.int32),
            np.zeros(len(tokens), np.int32),
            np.array(ends, np.int32),
            np.zeros((len(chosen), 1), np.int32),
            empty,
            (),
            np.array(chosen, np.int32),
        )
        history.note(batch, np.array([prompts[slot] for slot in chosen], np.int32))
        for slot, text in texts.items():
            if slot % 3 > 0:
                assert history.tokens(slot, len(text)).tolist() == text
        addresses = history.addresses(np.array(chosen, np.int32))
        for slot, address in zip(chosen, addresses.tolist(), strict=True):
            assert history.tokens(slot, 1).ctypes.data == address
