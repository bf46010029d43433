"""Random prompts of given lengths, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quire.text.tokenizer import Tokenizer

__all__ = ["random_ids", "random_words"]

WORDS = """\
apple bridge candle desert engine forest garden harbor island jungle kitchen lantern mountain needle
ocean paper quarry river summer table umbrella valley window yellow zebra morning silver thunder
market copper winter letter shadow orange travel music planet simple bright wonder"""


def random_ids(tokenizer: Tokenizer, lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Token ids drawn from the whole vocabulary but for special and added tokens."""
    source = random.Random(seed)
    unwanted = tokenizer.special_ids | tokenizer.added_ids  # some may be beyond the model's
    ordinary = sorted(set(range(tokenizer.vocab_size)) - unwanted)
    return [source.choices(ordinary, k=length) for length in lengths]


def random_words(lengths: Sequence[int], seed: int) -> list[str]:
    """English words, for a server whose tokenizer is not at hand: about one token each."""
    source, words = random.Random(seed), WORDS.split()
    return [" ".join(source.choices(words, k=length)) for length in lengths]
